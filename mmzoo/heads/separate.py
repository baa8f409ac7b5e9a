"""One classifier per modality, with a joint classifier beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead, mean_over_present
from mmzoo.core.readouts import to_one_width
from mmzoo.errors import Incompatible
from mmzoo.heads.concat import Concat


class Separate(FusionHead):
    """l_m = W_m z_m + b_m for each modality, and l = V relu(U x + c) + d from the joined features x.

    The networks of DOMFN (Yang et al., ACM MM 2022) from the features on. Their code applies a sigmoid to each output,
    which here belongs to the strategy. An absent modality is zeros for "concat", and left out of mean and maximum.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        join: x is the concatenation of the features ("concat", default), their "mean", or their elementwise "max"; the
            last two need equal widths, which `readout` provides.
        hidden: width of the joint classifier's hidden layer (64 in the authors' code); 0: a single linear layer.

    Raises:
        Incompatible: features of different widths for "mean" or "max".

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "exact"

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        join: Literal["concat", "mean", "max"] = "concat",
        hidden: int = 64,
    ) -> None:
        super().__init__(dims, n_classes)
        widths = set(dims.values())
        if join != "concat" and len(widths) > 1:
            raise Incompatible(
                f"head {type(self).__name__} with join={join} needs features of one width, but got {dict(dims)}. "
                "Give it encoders of one output width, those that Separate.readout makes of yours, or join=concat."
            )
        self.join = join
        self.equal_dims = join != "concat"
        self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes) for m, d in dims.items()})
        width = hidden or n_classes
        self.blocks = Concat(dims, width) if join == "concat" else None
        first: list[nn.Module] = [] if join == "concat" else [nn.Linear(next(iter(widths)), width)]
        self.joint = nn.Sequential(*first, *([nn.ReLU(), nn.Linear(hidden, n_classes)] if hidden else []))

    @classmethod
    def readout(cls, encoders: Mapping[str, Encoder], *, join: str = "concat", **params: Any) -> Mapping[str, Encoder]:
        return encoders if join == "concat" else to_one_width(encoders)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        blocks = [] if self.blocks is None else self.blocks.own(modality)
        return [*self.linear[modality].parameters(), *blocks]

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        layer: Any = self.linear[modality]
        return layer.weight, layer.bias

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        joined = self._joined(features, present)
        read = self.joint[:-1](joined)
        return self.joint(joined), {"penultimate": read} if len(self.joint) > 1 else {}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: self.linear[m](z) for m, z in features.items()}

    def _joined(self, features: Mapping[str, Tensor], present: Tensor | None) -> Tensor:
        if self.blocks is not None:
            return self.blocks.fuse(features, present)[0]
        stacked = torch.stack(list(features.values()), 1)
        if self.join == "mean":
            return mean_over_present(stacked, present)
        if present is not None:
            absent = ~present & present.any(1, keepdim=True)  # of an item without any modality, zeros are left
            stacked = stacked.masked_fill(absent.unsqueeze(-1), -torch.inf)
        return stacked.amax(1)
