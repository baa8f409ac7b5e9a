"""Strategies in somebody else's training loop: plain PyTorch, Lightning, the Hugging Face Trainer, accelerate."""
