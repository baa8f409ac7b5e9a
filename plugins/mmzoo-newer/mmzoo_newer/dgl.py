"""DGL: encoders learn from their own losses only, the fusion head from the fused loss only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms
from mmzoo_newer.single import single_logits


class DGL(Strategy):
    """Disentangled gradient learning (Wei et al., ICCV 2025).

    f = head(sg(z_1), ..., sg(z_M)) and o_m = sg(head)(z_m), the head with modality m alone and without a gradient to its
    parameters; L = CE(f, y) + alpha sum_m CE(o_m, y). The encoder of m receives the gradient of alpha CE(o_m, y) and no
    other, the head that of CE(f, y) and no other. One backward pass gives what the authors take two for.

    o_m is what the head makes of m alone: a linear head adds its whole bias. The outputs handed on have o_m as unimodal
    logits. Gradient clipping joins the two again, by the common norm.

    Args:
        alpha: weight of the unimodal losses.

    Raises:
        Incompatible: in setup, for a head that acts between encoder stages: it has no boundary to cut at.
    """

    def __init__(self, *, alpha: float = 4.0) -> None:
        self.alpha = alpha

    def setup(self, run: Run) -> None:
        if run.model.head.couples:
            raise Incompatible(
                f"DGL cuts the gradient between encoders and head; head {type(run.model.head).__name__} acts inside the "
                "encoders. Use a head that reads features: mmzoo list heads."
            )

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        step.scratch[self] = feats
        return {m: z.detach() for m, z in feats.items()}

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        live = step.scratch[self]
        own = {m: single_logits(step, live, m, train_head=False) for m in out.features}
        return out.replace(features=live, unimodal=own)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        own = {
            f"dgl/{m}": self.alpha * step.loss(step.kept(z), step.here(m))
            for m, z in out.unimodal.items()
            if step.pass_.moves(m)
        }
        return {**terms, **own}
