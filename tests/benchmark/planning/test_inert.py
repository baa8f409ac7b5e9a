"""Methods that an optimizer cancels are named by what they declare."""

from __future__ import annotations

import pytest

from mmzoo.benchmark.planning.refusals import inert
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.registry.plugins import catalogue
from mmzoo.training.config import OPTIMIZERS, SCALE_INVARIANT, Training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("method", "scales"),
    [("ogm", True), ("ogm_ge", False), ("agm", False), ("agm_detached", True), ("concat", False), ("ogm+pmr", True)],
)
def test_only_what_scales_gradients_under_an_optimizer_that_undoes_it(
    optimizer: str, method: str, scales: bool
) -> None:
    parts = resolve_method(catalogue(), method, Settings(catalogue(), ())).parts
    notes = inert(catalogue(), parts, Training(optimizer=optimizer))
    assert bool(notes) == (scales and optimizer in SCALE_INVARIANT)
    assert all("train.optimizer=sgd" in note for note in notes)
