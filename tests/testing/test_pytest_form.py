"""The contract checks as tests of a plugin author."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.faulty_strategies import Dropping

from mmzoo.errors import UnknownName
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.plain import Plain
from mmzoo.testing import check_part, check_strategy, parametrize_with_checks

# How results are reported


@parametrize_with_checks([Concat], kind="head", draws=2)
def test_the_form_for_plugin_authors(check: Any) -> None:
    check()


def _bound(cls: Any, name: str, **options: Any) -> Any:
    mark = parametrize_with_checks([cls], **options).mark
    return next(p.values[0] for p in mark.args[1] if p.id.endswith(name))


def test_the_pytest_form_fails_skips_and_expects() -> None:
    with pytest.raises(pytest.fail.Exception, match="'company/size' is gone"):
        _bound(Dropping, "check_terms")()
    with pytest.raises(pytest.skip.Exception, match="owns nothing"):
        _bound(Dropping, "check_owners")()
    with pytest.raises(pytest.xfail.Exception, match="known"):
        _bound(Dropping, "check_terms", expected_failures={"check_terms": "known"})()


def test_expected_failures() -> None:
    only = ["check_terms", "check_state"]
    report = check_strategy(Dropping, only=only, expected_failures={"check_terms": "replaces all terms"})
    assert {r.name: r.status for r in report} == {"check_terms": "expected", "check_state": "passed"}
    with pytest.raises(AssertionError, match="is expected to fail: no reason"):
        check_strategy(Plain, only=only, expected_failures={"check_terms": "no reason"})
    with pytest.raises(UnknownName, match="Did you mean 'check_terms'"):
        check_strategy(Plain, expected_failures={"check_term": "misspelt"})


def test_all_failures_are_listed() -> None:
    with pytest.raises(AssertionError, match=r"Dropping\(\) fails 2 of 3 contract checks") as failure:
        check_strategy(Dropping, only=["check_terms", "check_company", "check_state"])
    assert "check_terms: failed" in str(failure.value) and "check_company: failed" in str(failure.value)


def test_factories() -> None:
    only = ["check_neutral"]
    for strategy in (OGM, OGM(alpha=0.2), lambda: OGM(alpha=0.2)):
        assert check_strategy(strategy, only=only)[0].status == "passed"
    assert check_part("strategy", OGM, {"alpha": 0.2}, only=only).label.startswith("OGM(alpha=0.2")
    assert check_part("head", Sum, {"reduce": "mean"}, only=["check_head_tags"])[0].status == "passed"
    with pytest.raises(TypeError, match="must give a Strategy"):
        check_strategy(lambda: 3)  # type: ignore[arg-type, return-value]
