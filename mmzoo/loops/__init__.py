"""Strategies in a training loop of your own: plain PyTorch, Lightning, the Hugging Face Trainer, accelerate."""
