"""Strategies as objects: misspelt hooks, ownership, windows, chains, state."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import equal, model, run, train, weights

from mmzoo.api import BadValue, Chain, Incompatible, Outputs, Step, Strategy, Terms, Training, Window
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gradient", "gradients"),
        ("on_epoch_start", "epoch_start"),
        ("loss", "losses"),
        ("output", "outputs"),
        ("epoch_begin", "epoch_start"),
        ("predicts", "predict"),
        ("after_backward", "backward"),
    ],
)
def test_a_misspelt_hook_is_refused_when_the_class_is_made(name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"Did you mean '{meant}'"):
        type("Mine", (Strategy,), {name: lambda self, step: None})


def test_a_hook_with_other_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match=r"called as losses\(step, out, terms\)"):
        type("Mine", (Strategy,), {"losses": lambda self, out, terms: terms})


def test_unknown_claims_are_refused() -> None:
    with pytest.raises(TypeError, match="slices"):
        type("Mine", (Strategy,), {"requires": frozenset({"slices"})})
    with pytest.raises(TypeError, match="optimizer"):
        type("Mine", (Strategy,), {"owns": frozenset({"optimizer"})})


def test_helpers_of_ones_own_are_welcome() -> None:
    class Mine(Strategy):
        def _gradient(self) -> None: ...
        def coefficients(self) -> None: ...

    assert repr(Mine()) == "Mine()"


def test_two_owners_fail_when_the_chain_is_made() -> None:
    with pytest.raises(Incompatible, match="DynamicGap and DynamicGap cannot be combined: both replace 'task'"):
        Chain(DynamicGap(), OGM(), Window(DynamicGap(), 3))


def test_a_chain_is_flat_and_adds_up_its_claims() -> None:
    chain = Chain(OGM(), Chain(PMR(), DynamicGap(schedule="learned")))
    assert len(chain.parts) == 3
    assert chain.requires >= {"unimodal", "slice"}
    assert chain.owns == {"task"} and chain.min_modalities == 2
    assert chain.cost["forward"] == pytest.approx(1.1)
    with pytest.raises(BadValue, match="3 has parts"):
        chain.load_state_dict({"0": {}})


class Marking(Strategy):
    """Notes the epochs in which each hook is called."""

    def __init__(self) -> None:
        self.epochs: dict[str, set[int]] = {}

    def _note(self, hook: str, r: Any) -> None:
        self.epochs.setdefault(hook, set()).add(r.epoch)

    def epoch_start(self, run: Any) -> None:
        self._note("epoch_start", run)

    def epoch_end(self, run: Any, metrics: Any) -> None:
        self._note("epoch_end", run)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        self._note("losses", step.run)
        return terms

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        self._note("updated", step.run)


@pytest.mark.parametrize(
    ("first", "last", "open_in"),
    [
        (0, 1, {0, 1}),
        (2, None, {2, 3, 4, 5}),
        (3, 3, {3}),
        (0.0, 0.5, {0, 1, 2}),
        (0.5, 1.0, {3, 4, 5}),
        (9, None, set()),
    ],
)
def test_a_window_is_inclusive_at_both_ends(first: Any, last: Any, open_in: set[int]) -> None:
    inner = Marking()
    train(run(Window(inner, first, last), training=Training(epochs=6)), 6)
    assert all(inner.epochs.get(h, set()) == open_in for h in ("epoch_start", "epoch_end", "losses", "updated"))


def test_a_window_must_not_end_before_it_starts() -> None:
    with pytest.raises(BadValue, match="5-2"):
        Window(OGM(), 5, 2)


def test_an_open_window_is_the_strategy_and_a_closed_one_plain_training() -> None:
    def after(strategy: Strategy) -> Any:
        return weights(train(run(strategy, model(norm=True)), 3).model)

    assert equal(after(Window(OGM(noise=True), 0)), after(OGM(noise=True)))
    assert equal(after(Window(OGM(noise=True), 7)), after(Strategy()))
    assert not equal(after(OGM(noise=True)), after(Strategy()))


def test_repr_and_params() -> None:
    assert repr(JointUnimodal(weight=2.0)) == "JointUnimodal(weight=2.0)"
    assert OGM().params() == {"alpha": 0.3, "noise": False, "form": "conference", "tensors": "matrix"}
    assert "Window(inner=OGM(" in repr(Chain(Window(OGM(), 0, 3)))


def test_state_with_other_keys_is_refused() -> None:
    with pytest.raises(BadValue, match="prototypes"):
        PMR().load_state_dict({"proto": 1})
