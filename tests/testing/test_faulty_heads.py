"""Each check of a head catches the fault that it is there for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from helpers.catching import is_caught
from torch import Tensor, nn

from mmzoo.api import FusionHead, Outputs, Pass
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.testing import check_head
from mmzoo.testing.harness.report import CHECKS
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing

DRAWS = 4


# Heads with one fault each


class FaultyHead(Sum):
    """A sound head for the faulty ones to spoil."""


class UnknownWord(FaultyHead):
    how = "guessed"  # type: ignore[assignment]


class ForgetsDims(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.dims = dict.fromkeys(dims, 0)


class DoublePrecision(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.double(), aux


class NotAdditive(Concat):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: z + self.bias for m, z in super().split(features, present, aux).items()}


class Swapped(FaultyHead):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        parts = dict(aux["parts"])
        return dict(zip(parts, [*list(parts.values())[1:], next(iter(parts.values()))]))


class UnusedLayer(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.idle = nn.Linear(2, 2)


class DetachedModality(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        first = next(iter(features))
        return super().fuse({**features, first: features[first].detach()}, present)


class BatchMean(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits - logits.mean(0), aux


class BiasOfTheAbsent(FusionHead):
    how = "exact"

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes) for m, d in dims.items()})

    def forward(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        own = {m: self.linear[m](z) for m, z in features.items()}
        return Outputs(torch.stack(list(own.values())).sum(0), dict(features), own)


class UnsavedGate(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self._gate = torch.rand(())

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits * self._gate.to(logits.dtype), aux


class RunningInEval(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.register_buffer("calls", torch.zeros(()))

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        self.calls += 1
        return super().fuse(features, present)


class EditsFeatures(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        with torch.no_grad():
            for z in features.values():
                z.clamp_(-1, 1)
        return super().fuse(features, present)


class Evidence(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.exp(), aux


class PicksRows(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits if present is None else logits.index_put((present.any(1),), logits[present.any(1)]), aux


class NegativeEvidence(FaultyHead):
    evidential = True


class EvidenceOfTheAbsent(FaultyHead):
    evidential = True

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.exp().log1p(), aux

    def split(self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]) -> dict[str, Any]:
        return {m: z.exp().log1p() for m, z in super().split(features, present, aux).items()}


class OwnedTwice(FaultyHead):
    def own(self, modality: str) -> Any:
        return self.linear["audio"].parameters()


class HalvedAblation(Mixing):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: z / 2 for m, z in super().split(features, present, aux).items()}


class UnitFeatures(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        return super().fuse({m: z / z.norm(dim=1, keepdim=True) for m, z in features.items()}, present)


class ShrinkingCouple(CoupledConcat):
    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return {m: x.mean(0, keepdim=True) for m, x in maps.items()}


class DeafToFlags(Channel):
    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return super().couple(stage, maps, present, Pass(), masks)


class NoMeans(CoupledConcat):
    mean_gates = True


HEAD_FAULTS: Sequence[tuple[str, type[FusionHead], str]] = [
    ("check_head_tags", UnknownWord, "'guessed'"),
    ("check_head_tags", ForgetsDims, "'audio': 0"),
    ("check_head_shapes", DoublePrecision, "torch.float64"),
    ("check_head_additive", NotAdditive, "differs by up to"),
    ("check_head_evidential", NegativeEvidence, "below zero: the joint"),
    ("check_head_evidential", EvidenceOfTheAbsent, "not zero: audio"),
    ("check_head_unimodal", Swapped, "other features change them"),
    ("check_head_parameter_gradients", UnusedLayer, "idle.weight"),
    ("check_head_feature_gradients", DetachedModality, "audio"),
    ("check_head_rows", BatchMean, "differs by up to"),
    ("check_head_absent", BiasOfTheAbsent, "the logits change"),
    ("check_head_state", UnsavedGate, "differs by up to"),
    ("check_head_pure", RunningInEval, "calls"),
    ("check_head_pure", EditsFeatures, "differs by up to"),
    ("check_head_no_waiting", PicksRows, "an index of booleans"),
    ("check_head_extremes", Evidence, "not finite: logits"),
    ("check_head_groups", OwnedTwice, "linear.audio.weight in 3"),
    ("check_head_couples", ShrinkingCouple, "audio at stage"),
    ("check_head_ablations", HalvedAblation, "differs by up to"),
    ("check_head_ablations", UnitFeatures, "not finite"),
    ("check_head_gates", DeafToFlags, "its features change"),
    ("check_head_gates", NoMeans, "changes no buffer"),
]


@pytest.mark.parametrize(("check", "head", "seen"), HEAD_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_head_is_caught(check: str, head: type[FusionHead], seen: str) -> None:
    is_caught(check_head(head, only=[check], draws=DRAWS, raise_failures=False), check, seen)


def test_every_head_check_has_caught_a_fault() -> None:
    assert {check for check, _, _ in HEAD_FAULTS} == set(CHECKS["head"])
