"""Unimodal ensemble (UME): the average prediction of models that were each trained on one modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmzoo.api import Incompatible, Outputs, Pass, Run, Step, Strategy, mean_over_present

Average = Literal["probs", "logits"]


def ensemble(logits: Sequence[Tensor], average: Average = "probs", present: Tensor | None = None) -> Tensor:
    """(B, C) logits of the average prediction, from one (B, C) per modality.

    Args:
        logits: (B, C) of each modality.
        average: "probs": log of the mean of softmax(logits_m), so that softmax returns the mean. "logits": the mean of
            the logits, i.e. a normalised geometric mean of the probabilities.
        present: (B, M) bool, the modalities that count; None: all. For a sample without any, all classes are equal.
    """
    stacked = torch.stack(list(logits), 1)
    if average == "logits":
        return mean_over_present(stacked, present)
    log_p = stacked.log_softmax(-1)
    if present is None:
        return log_p.logsumexp(1) - math.log(len(logits))
    none = ~present.any(1)
    counted = present | none[:, None]
    mean = log_p.masked_fill(~counted[..., None], -torch.inf).logsumexp(1) - counted.sum(1, keepdim=True).log()
    return torch.where(none[:, None], -math.log(stacked.shape[-1]), mean)


class UME(Strategy):
    """Averages the predictions of unimodal models, p = mean_m p_m, without joint training (UME, Du et al., ICML 2023).

    Setup fills the model's encoders and classifiers with those of the teachers and ends training before it starts, so
    that the model is the ensemble and its own logits of m are those of m's teacher.

    Args:
        average: "probs" (default) averages softmax(logits_m), "logits" the logits; the sources leave this open.

    Raises:
        Incompatible: in setup, the head has no linear classifier for each modality (the head `sum` has), or a given
            teacher has none or another encoder.
    """

    requires = frozenset({"teachers", "unimodal"})
    owns = frozenset({"predict"})
    min_modalities = 2
    solo = True
    # Nothing is trained but the teachers.
    cost = {"forward": 0, "backward": 0}  # noqa: RUF012

    def __init__(self, *, average: Average = "probs") -> None:
        self.average = average

    def setup(self, run: Run) -> None:
        for m in run.modalities:
            teacher = run.teacher(m)
            theirs, ours = _tensors(teacher.encoders[m]), _tensors(run.model.encoders[m])
            if {n: t.shape for n, t in theirs.items()} != {n: t.shape for n, t in ours.items()}:
                raise Incompatible(
                    f"UME puts the encoder of the teacher of {m} into the model, but the two are built differently. "
                    "Give both the same encoder."
                )
            run.restore(f"encoder:{m}", theirs)
            _put_classifier(run, m, teacher.head.classifier(m))
        run.stop()

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return []

    def predict(self, out: Outputs) -> Outputs:
        present = None if out.present is None else torch.stack([out.present[m] for m in out.unimodal], 1)
        return out.replace(logits=ensemble(list(out.unimodal.values()), self.average, present))


def _tensors(module: nn.Module) -> Mapping[str, Tensor]:
    """All parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _put_classifier(run: Run, modality: str, given: tuple[Tensor, Tensor] | None) -> None:
    """Make W z + b the own logits of a modality. Raises Incompatible unless that is what the head then computes."""
    head = run.model.head
    if given is None:
        raise Incompatible(
            f"UME averages linear classifiers, and the teacher of {modality} has none. Give it the head concat or sum."
        )
    weight, bias = given
    if head.classifier(modality) is not None and f"head:{modality}" in run.model.groups():
        run.edit(f"head:{modality}", lambda name, p: weight if p.ndim == 2 else bias)
        now = head.classifier(modality)
        if now is not None and torch.equal(now[0], weight) and torch.equal(now[1], bias):
            return
    raise Incompatible(
        f"UME needs a head with a separate linear classifier for each modality; {type(head).__name__} has none for "
        f"{modality}. Use the head sum: ume@sum."
    )
