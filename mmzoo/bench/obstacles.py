"""Why a method cannot work on a data set, as far as the catalogue tells: before anything is trained. No torch at import."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mmzoo.catalogue import Catalogue, Entry
from mmzoo.config.methods import holds
from mmzoo.config.spec import Method
from mmzoo.errors import Incompatible
from mmzoo.training import Training, bent


def obstacle(
    catalogue: Catalogue, method: Method, modalities: tuple[str, ...], training: Training, device: str = "auto"
) -> str | None:
    """The first reason that there is. device: where it will be trained; "auto" where that is not known yet."""
    head = catalogue.get("heads", method.head)
    n = 1 if method.each_modality else len(modalities)
    return next((reason for reason in (
        _outside(head, f"head {head.name}", n), *_of_device(training, device), *_of_head(head, training),
        *(r for part in method.parts for r in _of_part(catalogue.get("strategies", part.strategy), part.params, head, n, training)),
    ) if reason), None)  # fmt: skip


def check_options(encoder: Entry, given: Mapping[str, Any]) -> None:
    """Raise Incompatible for an option of an encoder that has nothing for it to act on, as far as its entry tells."""
    if given.get("channels_last") and not encoder.extra.get("convolutions", True):
        raise Incompatible(f"encoder {encoder.name} has no convolution for channels_last to act on: leave it out.")


def _of_device(training: Training, device: str) -> Iterator[str]:
    if training.tf32 and device != "auto" and not device.startswith("cuda"):
        yield f"train.tf32 is a mode of CUDA GPUs, and this is to run on {device}: leave it out."
    if training.compile and device == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            yield f"train.compile needs a C++ compiler on a CPU, and there is no {compiler}: install one, or leave it out."


def _of_head(head: Entry, training: Training) -> Iterator[str]:
    whole = [f"train.{k}" for k in ("micro_batch", "compile") if getattr(training, k)]
    if head.extra.get("couples") and whole:
        yield (f"head {head.name} acts between the stages of the encoders, so that they are not run one by one: leave "
               f"out {' and '.join(whole)}.")  # fmt: skip


def _of_part(
    strategy: Entry, params: Mapping[str, Any], head: Entry, n: int, training: Training
) -> Iterator[str | None]:
    name, needs = strategy.name, strategy.requires
    yield _outside(strategy, name, n)
    plain = "plain_steps" in needs or holds(strategy.extra.get("plain_steps_if", []), params)
    if plain and (options := bent(training)):
        yield f"{name} as set follows the steps as they are taken: leave out {' and '.join(options)}."
    if "double_backward" in needs and training.compile:
        yield f"{name} differentiates its steps twice, which compiled encoders cannot: leave out train.compile."
    if "unimodal" in needs and head.extra["how"] == "ablated":
        yield f"{name} needs logits of each modality; head {head.name} has none of its own."
    if "additive" in needs and not head.extra.get("additive"):
        yield f"{name} needs unimodal logits that add up; those of head {head.name} do not."
    if "evidence" in needs and not head.extra.get("evidential"):
        yield f"{name} needs a head that gives opinions; head {head.name} does not."
    if "staged" in needs and not head.extra.get("couples"):
        yield f"{name} needs a head that acts between encoder stages; {head.name} does not."
    if "mean_gates" in needs and not head.extra.get("mean_gates"):
        yield f"{name} needs a head with gates between encoder stages; {head.name} has none."


def _outside(entry: Entry, name: str, n: int) -> str | None:
    """Why an entry does not take n modalities."""
    limits = entry.extra.get("modalities", {})
    if n < limits.get("min", 1):
        return f"{name} needs at least {limits['min']} modalities; there {'is' if n == 1 else 'are'} {n}."
    if n > limits.get("max", n):
        return f"{name} is defined for at most {limits['max']} modalities, not {n}."
    return None
