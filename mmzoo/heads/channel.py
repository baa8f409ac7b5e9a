"""Channel exchange (MMTM): after each stage, a gate computed from all branches scales the channels of every branch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core import distributed
from mmzoo.core.head import FusionHead
from mmzoo.core.values import Pass
from mmzoo.errors import Incompatible
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum

Classifier = Literal["mean", "sum", "concat", "stacked"]


def squeezed(map_: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of a map over its positions; zeros in a row without any valid position.

    Args:
        map_: (B, C, *spatial).
        mask: (B, *spatial) bool, the positions that count; None: all.

    Returns:
        (B, C).
    """
    flat = map_.reshape(*map_.shape[:2], -1)
    if mask is None:
        return flat.mean(-1)
    weight = mask.reshape(len(mask), 1, -1).to(flat.dtype)
    return (flat * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)


class Gate(nn.Module):
    """scale * sigmoid(W e + b), one gate per channel, with a running mean of its values.

    r <- (n r + g) / (n + 1), g the mean gate of batch n + 1 (Wu et al., ICML 2022, the authors' code).

    Args:
        hidden: width of e.
        width: number of channels C.
        scale: factor on the sigmoid.

    Attributes:
        mean: (C,) buffer, the running mean r.
        steps: buffer, the number of batches n.

    Shape:
        Input: (B, hidden). Output: (B, C).
    """

    mean: Tensor
    steps: Tensor

    def __init__(self, hidden: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(hidden, width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, joint: Tensor) -> Tensor:
        found: Tensor = self.scale * self.linear(joint).sigmoid()
        return found

    def absorb(self, total: Tensor, count: Tensor) -> None:
        """Update the running mean with a batch.

        Args:
            total: (C,), the sum of the batch's gates.
            count: number of samples; zero leaves the mean unchanged.
        """
        there = count > 0
        fresh = total / count.clamp_min(torch.finfo(count.dtype).tiny)
        self.mean += torch.where(there, (fresh - self.mean) / (self.steps + 1), 0.0)
        self.steps += there


class Exchange(nn.Module):
    """Squeeze and excitation across the maps of one stage (Joze et al., CVPR 2020, MMTM).

    s_m = mean of map m over its positions; e = relu(sum_m S_m s_m + b); g_m = scale * sigmoid(W_m e + b_m); map m <-
    g_m * map m. An absent modality has s_m = 0.

    Args:
        widths: modality -> number of channels C_m.
        ratio: e has int(2 * sum of widths / ratio) units.
        scale: factor on the gates.

    Shape:
        maps: modality -> (B, C_m, *spatial), input and output.
    """

    def __init__(self, widths: Mapping[str, int], ratio: float = 4.0, scale: float = 1.0) -> None:
        super().__init__()
        hidden = max(1, int(2 * sum(widths.values()) / ratio))
        # One weight block a modality, so that their order does not matter; together they are the joint layer.
        joint = nn.Linear(sum(widths.values()), hidden)
        blocks = joint.weight.detach().split(list(widths.values()), dim=1)
        self.squeeze = nn.ParameterDict({m: nn.Parameter(w.clone()) for m, w in zip(widths, blocks)})
        self.bias = nn.Parameter(joint.bias.detach().clone())
        self.gate = nn.ModuleDict({m: Gate(hidden, width, scale) for m, width in widths.items()})

    def joint(self, squeezes: Mapping[str, Tensor]) -> Tensor:
        """(B, hidden), the joint representation e from the squeezes (B, C_m) of any non-empty subset."""
        parts = [F.linear(s, self.squeeze[m]) for m, s in squeezes.items()]
        return (sum(parts[1:], parts[0]) + self.bias).relu()

    def forward(
        self,
        maps: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        here: Mapping[str, Tensor] | None = None,
        held: Mapping[str, Any] | None = None,
        frozen: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """The gated maps.

        Args:
            maps: modality -> (B, C_m, *spatial).
            masks: modality -> (B, *spatial) bool, False at padding.
            here: modality -> (B,) bool, the rows that have it; a modality left out is in all rows.
            held: modality -> bool, whether its running mean replaces its gate.
            frozen: modalities whose running mean is not updated.
        """
        masks, here, held = masks or {}, here or {}, held or {}
        gates: dict[str, Tensor] = {}
        if maps:
            joint = self.joint({m: squeezed(x, masks.get(m)) for m, x in maps.items()})
            gates = {m: self.gate[m](joint) for m in maps}
        if self.training:
            self._absorb({m: g for m, g in gates.items() if m not in frozen}, here)
        return {m: x * _spread(self._held(m, gates[m], held), x) for m, x in maps.items()}

    def _held(self, modality: str, gate: Tensor, held: Mapping[str, Any]) -> Tensor:
        """The gate, or its running mean once there is one. This batch is in that mean, as in the authors' code."""
        if modality not in held:
            return gate
        kept: Any = self.gate[modality]
        instead = torch.as_tensor(held[modality], device=gate.device) & (kept.steps > 0)
        return torch.where(instead, kept.mean.to(gate.dtype), gate)

    @torch.no_grad()
    def _absorb(self, gates: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> None:
        """Move the running means by the mean gates over the batches of all processes, in one message."""
        sums: list[Tensor] = []
        for m, kept in self.gate.items():
            if m not in gates:
                sums += [torch.zeros_like(kept.mean), kept.mean.new_zeros(1)]  # type: ignore[arg-type, operator]
                continue
            g = gates[m].to(kept.mean.dtype)  # type: ignore[arg-type]
            rows = here[m].to(g.dtype) if m in here else g.new_ones(len(g))
            sums += [rows @ g, rows.sum()[None]]
        whole = distributed.mean(torch.cat(sums)).split([len(s) for s in sums])
        for kept, total, count in zip(self.gate.values(), whole[::2], whole[1::2]):
            kept.absorb(total, count[0])  # type: ignore[operator]


class Stacked(FusionHead):
    """l = U [l_1; ...; l_M] + c on the logits l_m = W_m z_m + b_m of each modality.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
    """

    how = "exact"

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.each = Sum(dims, n_classes)
        self.joint = Concat(dict.fromkeys(dims, n_classes), n_classes)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return [*self.each.own(modality), *self.joint.own(modality)]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        aux = self.each.fuse(features, present)[1]
        return self.joint.fuse(aux["parts"], present)[0], aux

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return self.each.split(features, present, aux)


FINALS: Mapping[str, Any] = {"mean": partial(Sum, reduce="mean"), "sum": Sum, "concat": Concat, "stacked": Stacked}


class Channel(FusionHead):
    """An `Exchange` after each chosen stage, then a simple classifier (Joze et al., CVPR 2020, MMTM).

    Encoders of different depth are aligned at the end, and a stage needs two encoders that have it. With a single
    modality only the classifier remains. The unimodal logits are exact, but slices for "concat"; they belong to a
    branch that the others have influenced. Running means of the gates can replace them: see `Exchange` and
    `FusionHead.mean_gates`. They are updated in training only; in the code of Wu et al. (ICML 2022) validation and test
    samples update them too.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        stages: stages counted from the end, -1 the last. None (default): the last three, or as many as exist; both
            papers use three.
        ratio: reduction of the joint representation, 4 in the authors' code.
        scale: factor on the gates: 1 as in the authors' code, which halves all maps initially; 2 as reported for the
            paper.
        final: "mean" of one linear classifier per modality (default, the code of both papers), their "sum", "concat":
            one linear layer on the features, or "stacked": one on the logits of each modality (an option of MMTM's
            code).

    Raises:
        Incompatible: an encoder lacks `stage_dims`, or fewer than two encoders have a stage.

    Shape:
        maps: modality -> (B, C_m, *spatial). features: modality -> (B, D_m). Logits: (B, C).
    """

    couples = True
    mean_gates = True
    how = "exact"

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        stages: Sequence[int] | None = None,
        ratio: float = 4.0,
        scale: float = 1.0,
        final: Classifier = "mean",
    ) -> None:
        super().__init__(dims, n_classes)
        self.stages = stages
        self.ratio = ratio
        self.scale = scale
        self.final: FusionHead = FINALS[final](dims, n_classes)
        self.how, self.additive = self.final.how, self.final.additive
        self.exchange = nn.ModuleDict()
        self.widths: dict[str, tuple[int, ...]] = {}

    def build_stages(self, widths: Mapping[str, Sequence[int]]) -> None:
        """Build one `Exchange` for each chosen stage.

        Raises:
            Incompatible: fewer than two encoders have a stage, encoders lack `stage_dims`, or the head was built for
                others.
        """
        given = {m: tuple(w) for m, w in widths.items()}
        if self.widths and self.widths != given:
            raise Incompatible(f"this head was built for stages of the widths {self.widths}, not {given}.")
        if silent := [m for m, w in given.items() if not w]:
            raise Incompatible(
                f"head Channel needs to know the widths of stage maps, and the encoders of {', '.join(silent)} do not "
                "tell. Set `stage_dims` in the encoder."
            )
        if self.widths:
            return
        self.widths = given
        for stage in self._chosen(given):
            here = {m: w[stage] for m, w in given.items() if len(w) >= -stage}
            self.exchange[str(stage)] = Exchange(here, self.ratio, self.scale)
        self.exchange.to(next(self.final.parameters()))

    def _chosen(self, widths: Mapping[str, Sequence[int]]) -> list[int]:
        """The stages to act after, in order."""
        depths = sorted(len(w) for w in widths.values())
        if len(depths) < 2:
            return []
        common = range(-depths[-2], 0)
        if self.stages is None:
            return list(common[-3:])
        if odd := [s for s in self.stages if s not in common]:
            raise Incompatible(
                f"head Channel cannot act after stage {odd[0]}: fewer than two encoders have it. Stages count from the "
                f"end, here {', '.join(map(str, common))}."
            )
        return sorted(set(self.stages))

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if str(stage) not in self.exchange:
            return maps
        here = {} if present is None else {m: present[:, i] for i, m in enumerate(self.dims)}
        found: Mapping[str, Tensor] = self.exchange[str(stage)](
            maps, masks, here, pass_.flags.get("mean_gates"), pass_.freeze
        )
        return found

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        gates = [p for g in self._gates(modality) for p in g.parameters()]
        return [*gates, *self.final.own(modality)]

    def bypass(self, modality: str) -> Iterable[nn.Parameter]:
        """The gates of a modality and, at the same stages, the squeeze that all modalities share."""
        own = [p for g in self._gates(modality) for p in g.parameters()]
        shared = [[*e.squeeze.values(), e.bias] for e in self._exchanges() if modality in e.gate]
        return [*own, *(p for ps in shared for p in ps)]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        return self.final.fuse(features, present)

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return self.final.split(features, present, aux)

    def _exchanges(self) -> list[Any]:
        return list(self.exchange.values())

    def _gates(self, modality: str) -> list[nn.Module]:
        return [e.gate[modality] for e in self._exchanges() if modality in e.gate]


def _spread(gate: Tensor, map_: Tensor) -> Tensor:
    """A gate (B, C) or (C,) shaped to scale a map (B, C, *spatial)."""
    return gate.reshape(*gate.shape, *[1] * (map_.ndim - 2))
