"""Why a method cannot work on a data set, as far as the catalogue tells: before anything is trained. No torch at import."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmzoo.config.methods import acts_after, holds
from mmzoo.config.spec import Method, Part
from mmzoo.errors import Incompatible
from mmzoo.registry import Catalogue, Entry
from mmzoo.training.compatibility import HeadFacts, Needs, out_of_range, unmet, unsuited, unsuited_device, unsuited_head
from mmzoo.training.config import SCALE_INVARIANT, Training


def obstacle(
    catalogue: Catalogue, method: Method, modalities: tuple[str, ...], training: Training, device: str = "auto"
) -> str | None:
    """The first reason that there is. device: where it will be trained; "auto" where that is not known yet."""
    n = 1 if method.each_modality else len(modalities)
    return next(_obstacles(catalogue, method, n, training, device), None)


def lacks_meta_set(entry: Entry, params: Mapping[str, Any]) -> str:
    """Why no method that learns from a meta set can be benched on a data set; empty where there is one."""
    if params.get("split") not in entry.extra.get("without_meta_set", ()):
        return ""
    return (
        f"{entry.name} has no meta set: its manifest does without one, or its groups are too few for four sets. This "
        "method learns from labels of one; set meta_set to true, or give smaller groups."
    )


def chooses_after(catalogue: Catalogue, method: Method) -> str | None:
    """Why a method cannot be scored without a holdout; None where it can."""
    after = [p.strategy for p in method.parts if acts_after(catalogue.get("strategies", p.strategy))]
    if not after:
        return None
    return f"{after[0]} chooses on the validation set after training, and --selection last trains on it. Take --selection holdout."


def _obstacles(catalogue: Catalogue, method: Method, n: int, training: Training, device: str) -> Iterator[str]:
    entry = catalogue.get("heads", method.head)
    head = HeadFacts(entry.name, entry.extra["how"], *(bool(entry.extra.get(k)) for k in _DECLARED))
    yield from out_of_range(f"head {entry.name}", n, *_limits(entry))
    if device != "auto":
        yield from unsuited_device(training, device)
    yield from _without_compiler(training, device)
    yield from unsuited_head(head, training)
    for part in method.parts:
        strategy = catalogue.get("strategies", part.strategy)
        plain = {"plain_steps"} if holds(strategy.extra.get("plain_steps_if", []), part.params) else set()
        alone = strategy.extra.get("single_process", "")
        needs = Needs(strategy.name, frozenset(strategy.requires) | plain, *_limits(strategy), alone)
        yield from unmet(needs, head, n, processes=training.processes)
        yield from unsuited(needs, training)


def check_options(encoder: Entry, given: Mapping[str, Any]) -> None:
    """Raise Incompatible for an option of an encoder that has nothing for it to act on, as far as its entry tells."""
    if given.get("channels_last") and not encoder.extra.get("convolutions", True):
        raise Incompatible(f"encoder {encoder.name} has no convolution for channels_last to act on: leave it out.")


def inert(catalogue: Catalogue, parts: Iterable[Part], training: Training) -> list[str]:
    """Parts of a method that can hardly do anything in this training, in words.

    They only scale gradients, and the optimizer divides by their size (`scales_gradients_if`); or what they learn moves by
    `step` times a `typical` value, at most `limit`, an epoch, which is below `least` in the whole run (`reach`).
    """
    found = [(catalogue.get("strategies", part.strategy), part.params) for part in parts]
    entries = [(entry, {name: p.default for name, p in entry.params.items()} | dict(params)) for entry, params in found]
    return [
        note
        for entry, params in entries
        for note in (*_undone(entry, params, training), *_slow(entry, params, training))
    ]


def _undone(entry: Entry, params: Mapping[str, Any], training: Training) -> Iterator[str]:
    condition = entry.extra.get("scales_gradients_if")
    if training.optimizer in SCALE_INVARIANT and condition is not None and holds(condition, params):
        yield (
            f"{entry.name} only scales gradients, and {training.optimizer} normalises each gradient by its running magnitude: a "
            "slowly changing factor has almost no effect. To see the method's effect: --set train.optimizer=sgd, with a rate for "
            "SGD (--set train.lr=0.02)"
        )


def _slow(entry: Entry, params: Mapping[str, Any], training: Training) -> Iterator[str]:
    reach = entry.extra.get("reach")
    if reach is None or not holds(reach["if"], params) or params[reach["every"]] is not None:
        return
    moved = training.epochs * min(params[reach["step"]] * reach["typical"], params[reach["limit"]])
    if moved < reach["least"]:
        yield (
            f"{reach['moves']} moves by only about {moved:.2g} in {training.epochs} epochs ({reach['step']} "
            f"{params[reach['step']]:g} x typical {reach['typical']:g}, once per epoch), close to a fixed {reach['moves']}. "
            f"preset=paper_like, {reach['every']}=4 or a larger {reach['step']} moves it further"
        )


def _without_compiler(training: Training, device: str) -> Iterator[str]:
    if training.compile and device == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            yield f"train.compile needs a C++ compiler on a CPU, and there is no {compiler}: install one, or leave it out."


#: what an entry says of a head, in the order of HeadFacts
_DECLARED = ("additive", "evidential", "couples", "mean_gates")


def _limits(entry: Entry) -> tuple[int, int | None]:
    """The least and the most modalities that an entry takes."""
    limits = entry.extra.get("modalities", {})
    return limits.get("min", 1), limits.get("max")
