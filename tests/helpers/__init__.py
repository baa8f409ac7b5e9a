"""What tests share, each module named for what it makes. Small models, data and runs can be imported from here."""

from __future__ import annotations

from helpers.small_runs import NormEncoder, data, equal, loader, model, run, torch_equal_states, train, weights

__all__ = ["NormEncoder", "data", "equal", "loader", "model", "run", "torch_equal_states", "train", "weights"]
