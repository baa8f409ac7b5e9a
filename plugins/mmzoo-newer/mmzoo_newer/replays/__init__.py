"""Replays of test vectors of the methods of this package."""

from mmzoo_newer.replays import data, gradients, losses, regularisers, stages

__all__ = ["data", "gradients", "losses", "regularisers", "stages"]
