"""The base of the attention heads: tokens from the last maps of the encoders, and one classifier per modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import Encoder, FusionHead, Incompatible, Pass, mean_over_present, to_one_width


class TokenHead(FusionHead):
    """Base of heads that act on the tokens of the encoders' last stage; each position of a map is a token.

    Tokens enter at the width `dim`, through a linear layer if the encoder has another width, and return the same way,
    added to the map. The encoder then computes its feature z_m, and l is the mean of W_m z_m + b_m over the modalities
    present.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        dim: width of the tokens.
        heads: number of attention heads.
        layers: number of layers.
        shared_classifier: use the same W and b for all modalities.

    Raises:
        Incompatible: `heads` does not divide `dim`, or a shared classifier gets features of different widths.

    Shape:
        maps: modality -> (B, C_m, *spatial). features: modality -> (B, D_m). Logits: (B, C).
    """

    couples = True
    how = "exact"

    def __init__(
        self, dims: Mapping[str, int], n_classes: int, *, dim: int, heads: int, layers: int, shared_classifier: bool
    ) -> None:
        super().__init__(dims, n_classes)
        if dim % heads:
            raise Incompatible(f"{type(self).__name__}: heads must divide dim, and {heads} does not divide {dim}.")
        if shared_classifier and len(set(dims.values())) > 1:
            raise Incompatible(
                f"{type(self).__name__}: one classifier for all needs features of one width, not {dict(dims)}. Give it "
                f"encoders of one output width, those that {type(self).__name__}.readout makes of yours, or set "
                "shared_classifier to false."
            )
        self.dim, self.heads, self.layers, self.shared_classifier = dim, heads, layers, shared_classifier
        one = nn.Linear(next(iter(dims.values())), n_classes) if shared_classifier else None
        self.classify = nn.ModuleDict({"all": one} if one else {m: nn.Linear(d, n_classes) for m, d in dims.items()})
        self.enter, self.leave = nn.ModuleDict(), nn.ModuleDict()
        self._widths: dict[str, int] = {}

    @classmethod
    def readout(
        cls, encoders: Mapping[str, Encoder], *, shared_classifier: bool = False, **params: Any
    ) -> Mapping[str, Encoder]:
        return to_one_width(encoders) if shared_classifier else encoders

    def build_stages(self, widths: Mapping[str, Sequence[int]]) -> None:
        """Build the layers for the last maps. Raises Incompatible if their widths are unknown or changed."""
        if silent := [m for m, w in widths.items() if not w]:
            raise Incompatible(
                f"head {type(self).__name__} needs to know the width of the last map, and the encoders of "
                f"{', '.join(silent)} do not give them. Set `stage_dims` in the encoder."
            )
        given = {m: w[-1] for m, w in widths.items()}
        if self._widths and self._widths != given:
            raise Incompatible(f"this head was built for maps of the widths {self._widths}, not {given}.")
        if self._widths:
            return
        self._widths = given
        for m, width in given.items():
            if width != self.dim:
                self.enter[m], self.leave[m] = nn.Linear(width, self.dim), nn.Linear(self.dim, width)
        self.build_layers(list(given))
        self.to(next(self.classify.parameters()))

    def build_layers(self, modalities: Sequence[str]) -> None:
        """Build the layers that act on the tokens of these modalities."""
        raise TypeError(f"{type(self).__name__} does not define build_layers")

    def mix(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], here: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """The tokens (B, N_m, dim) of any non-empty subset after the exchange.

        Args:
            tokens: modality -> (B, N_m, dim).
            masks: modality -> (B, N_m) bool, False at padding and in rows without the modality.
            here: modality -> (B,) bool, the rows that have it.
        """
        raise TypeError(f"{type(self).__name__} does not define mix")

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if stage != -1 or not maps:
            return maps
        rows = {m: i for i, m in enumerate(self.dims)}
        here, seen, tokens = {}, {}, {}
        for m, x in maps.items():
            flat = x.flatten(2).transpose(1, 2) if x.ndim > 2 else x[:, None]
            there = torch.ones(len(x), dtype=torch.bool, device=x.device) if present is None else present[:, rows[m]]
            mask = masks[m].flatten(1) if m in masks else flat.new_ones(flat.shape[:2], dtype=torch.bool)
            here[m], seen[m] = there, mask & there[:, None]
            tokens[m] = self.enter[m](flat) if m in self.enter else flat
        mixed = self.mix(tokens, seen, here)
        result = {}
        for m, x in maps.items():
            flat = x.flatten(2).transpose(1, 2) if x.ndim > 2 else x[:, None]
            back = flat + self.leave[m](mixed[m]) if m in self.leave else mixed[m]
            result[m] = back.transpose(1, 2).reshape(x.shape) if x.ndim > 2 else back[:, 0]
        return result

    def _layer(self, modality: str) -> Any:
        return self.classify["all" if self.shared_classifier else modality]

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        parts = [part[modality] for part in (self.enter, self.leave, self.classify) if modality in part]
        return [p for part in parts for p in part.parameters()]

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        layer = self._layer(modality)
        return layer.weight, layer.bias

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        own = {m: self._layer(m)(z) for m, z in features.items()}
        return mean_over_present(torch.stack(list(own.values()), 1), present), {"own": own}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return aux["own"]
