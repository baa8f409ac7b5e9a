"""Unimodal teacher (UMT): keep each encoder's features near those of the same encoder trained by itself."""

from __future__ import annotations

from torch import Tensor

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms


def distances(student: Tensor, teacher: Tensor) -> Tensor:
    """(B,) the mean of (student - teacher)^2 over the features, without a gradient for the teacher.

    Args:
        student: (B, D).
        teacher: (B, D).
    """
    return (student - teacher.detach()).square().mean(-1)


class UMT(Strategy):
    """Adds weight * sum_m MSE(z_m, z_m of the teacher) to the loss (UMT, Du et al., ICML 2023).

    z_m are the features that the head receives. The teacher of m is a unimodal model with the same data, split, seed,
    encoder and budget; it is frozen and in eval mode, and receives the same batch as the student.

    Formula and default weight are those of BalanceBenchmark, a third party's benchmark, in epochs 0 to 80 there, which
    is umt:0-80 here. Its teachers stay in train mode, so that their batch statistics change; this is not offered.

    Args:
        weight: factor on the sum; 10 in BalanceBenchmark.

    Raises:
        Incompatible: in setup, a given teacher has features of another width.
    """

    min_modalities = 2
    requires = frozenset({"teachers"})
    neutral = {"weight": 0.0}  # noqa: RUF012
    # The teachers see every batch too.
    cost = {"forward": 2, "backward": 1}  # noqa: RUF012

    def __init__(self, *, weight: float = 10.0) -> None:
        self.weight = weight
        self.requires = frozenset({"teachers"} if weight else ())
        self.cost = {"forward": 2 if weight else 1, "backward": 1}

    def setup(self, run: Run) -> None:
        for m in run.modalities if self.weight else ():
            theirs, ours = run.teacher(m).head.dims[m], run.model.head.dims[m]
            if theirs != ours:
                raise Incompatible(
                    f"UMT compares features one by one, but those of {m} have width {ours} and its teacher's {theirs}. "
                    "Give both the same encoder."
                )

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if not self.weight:
            return terms
        added = {}
        for m, z in out.features.items():
            taught = step.run.teacher_outputs(m, step.batch).features[m]
            apart = distances(step.kept(z), step.kept(taught))
            added[f"umt/{m}"] = self.weight * step.mean(apart, step.here(m))
        return {**terms, **added}
