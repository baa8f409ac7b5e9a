"""A strategy declares which checks it cannot pass, and variants keep the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from mmzoo.api import Chain, Outputs, Step, Strategy, Window
from mmzoo.heads.shared import Shared
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.plain import Plain
from mmzoo.testing import check_strategy


class InTurn(Strategy):
    expected_failures: ClassVar[Mapping[str, str]] = {"check_modality_order": "the first one is trained twice"}

    def losses(self, step: Step, out: Outputs, terms: Any) -> Any:
        first = step.run.modalities[0]
        return (
            {**terms, "in_turn/first": step.run.criterion(step.kept(out.unimodal[first]), step.target)}
            if (first in out.unimodal)
            else terms
        )


def test_a_strategy_may_say_which_checks_it_cannot_pass() -> None:
    only = ["check_modality_order", "check_terms"]
    expected = {"check_modality_order": "expected", "check_terms": "passed"}
    for strategy in (InTurn(), Chain(Plain(), InTurn()), Window(InTurn())):
        assert {r.name: r.status for r in check_strategy(strategy, only=only, draws=3)} == expected

    class Wrong(Plain):
        expected_failures: ClassVar[Mapping[str, str]] = {"check_terms": "no reason"}

    with pytest.raises(AssertionError, match="is expected to fail: no reason"):
        check_strategy(Wrong, only=only, draws=3)


@pytest.mark.parametrize("strategy", [AGM(cap=3.0, symmetric=True), AGM(gradient="detached", clip=None)], ids=str)
def test_parameters_without_a_recipe_keep_the_contract(strategy: Strategy) -> None:
    assert check_strategy(strategy, draws=3).ok


@pytest.mark.parametrize("strategy", [MLA(projection="owm_normalized"), MLA(fusion="mean")], ids=str)
def test_other_forms_of_mla_keep_the_contract(strategy: Strategy) -> None:
    assert check_strategy(strategy, head=Shared, draws=3).ok
