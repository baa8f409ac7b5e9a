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


@pytest.mark.parametrize(
    ("settings", "epochs", "slow"),
    [
        ({}, 30, True),  # 30 * 0.1 * 0.07 = 0.21
        ({}, 43, False),  # 0.301
        ({"eta": 0.2}, 22, False),
        ({"eta": 0.2, "max_change": 0.01}, 22, True),
        ({"step": "rms"}, 3, False),
        ({"normalize": False}, 3, False),
        ({"every": 4}, 3, False),
        ({"schedule": "constant"}, 3, False),
    ],
)
def test_an_alpha_that_cannot_move_by_a_third_is_noted(settings: dict[str, object], epochs: int, slow: bool) -> None:
    given = tuple((f"dynamic_gap_lb.{k}", v) for k, v in settings.items())
    parts = resolve_method(catalogue(), "dynamic_gap_lb", Settings(catalogue(), given)).parts
    notes = inert(catalogue(), parts, Training(epochs=epochs))
    assert [("alpha moves by only about" in note and "every=4" in note) for note in notes] == [True] * slow


@pytest.mark.parametrize("preset", ["paper_like", "thorough"])
def test_a_preset_that_lets_alpha_move_has_no_note(preset: str) -> None:
    given = (("dynamic_gap_lb.preset", preset),)
    parts = resolve_method(catalogue(), "dynamic_gap_lb", Settings(catalogue(), given)).parts
    assert bool(inert(catalogue(), parts, Training(epochs=5))) == (preset == "thorough")
