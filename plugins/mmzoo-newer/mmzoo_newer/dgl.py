"""DGL: encoders learn from their own losses only, and the fusion head from the joint loss only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms
from mmzoo_newer.single import single_logits


class DGL(Strategy):
    """Separates the gradients of encoders and fusion head (disentangled gradient learning, Wei et al., ICCV 2025).

    f = head(sg(z_1), ..., sg(z_M)) and o_m = sg(head)(z_m), the head with modality m only and without a gradient to its
    parameters (sg: stop-gradient); L = CE(f, y) + alpha sum_m CE(o_m, y). The encoder of m receives only the gradient
    of alpha CE(o_m, y), the head only that of CE(f, y), in one backward pass where the authors take two. A linear head
    adds its whole bias to o_m. Later parts of a chain see o_m as unimodal logits. Gradient clipping couples the two
    again through their common norm.

    Args:
        alpha: factor on the unimodal losses.

    Raises:
        Incompatible: in setup, the head acts between encoder stages, so that there is no boundary to cut.
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
