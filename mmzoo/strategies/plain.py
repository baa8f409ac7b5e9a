"""Plain joint training: the baseline of every comparison."""

from __future__ import annotations

from mmzoo.api import Strategy


class Plain(Strategy):
    """Minimises the cross-entropy of the joint logits, and nothing else."""

    neutral = {}  # noqa: RUF012 - it is plain training
