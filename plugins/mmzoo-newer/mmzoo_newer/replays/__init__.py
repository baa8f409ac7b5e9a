"""Replays of test vectors of the methods of this package."""

from mmzoo_newer.replays import gradients, losses

__all__ = ["gradients", "losses"]
