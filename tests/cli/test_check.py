"""mmzoo check: the contract checks as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmzoo.cli import main
from mmzoo.errors import BadValue, UnknownName
from mmzoo.registry.plugins import catalogue
from mmzoo.testing.targets import find

PARTS = '''
from mmzoo.api import FusionHead, Strategy


class Edits(Strategy):
    """Writes into the features."""

    def features(self, step, feats):
        return {m: z.mul_(0.5) for m, z in feats.items()}


class Unusable(FusionHead):
    """Cannot be made."""

    def __init__(self, dims, n_classes):
        raise ValueError("no head today")
'''


def test_a_report_names_claim_finding_and_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.py"
    file.write_text(PARTS)
    assert main(["check", f"{file}:Edits", "--quiet", "--only", "purity,owners,terms"]) == 1
    text = capsys.readouterr().out
    assert (
        "FAILED    purity" in text and "edited in place: feature audio" in text and "to do: build new tensors" in text
    )
    assert "passed  " not in text

    assert main(["check", f"{file}:Edits", "--json", "--only", "check_purity,owners,terms"]) == 1
    (part,) = json.loads(capsys.readouterr().out)
    failed = {c["name"]: c["reason"] for c in part["checks"] if c["status"] == "failed"}
    assert not part["ok"] and "check_purity" in failed
    found = {c["name"]: c["status"] for c in part["checks"]}
    assert found == {"check_purity": "failed", "check_terms": "passed", "check_owners": "skipped"}
    assert main(["check", f"{file}:Edits", "--only", "puritee"]) == 2
    assert "Did you mean 'purity'" in capsys.readouterr().err


def test_a_part_that_cannot_be_made_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parts.py"
    file.write_text(PARTS)
    assert main(["check", f"{file}:Unusable"]) == 1
    assert "no head today" in capsys.readouterr().out


def test_a_head_of_the_zoo_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "heads/shared"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("head shared") and "FAILED" not in out and "passed" in out


def test_targets() -> None:
    labels = {
        text: [t.label for t in find(catalogue(), text)] for text in ("ogm", "concat", "strategies/ogm", "text_bag")
    }
    assert labels == {
        "ogm": ["method ogm"],
        "concat": ["method concat", "head concat"],
        "strategies/ogm": ["strategy ogm"],
        "text_bag": ["encoder text_bag (text)"],
    }
    every = {t.label for t in find(catalogue(), "mmzoo")}
    assert {"method dynamic_gap_lb", "head channel", "method umt", "encoder mlp (vector)"} <= every
    with pytest.raises(UnknownName, match="Did you mean 'ogm'"):
        find(catalogue(), "ogmm")
    with pytest.raises(BadValue, match="mmzoo data check cremad --root DIR"):
        find(catalogue(), "cremad")


@pytest.mark.parametrize("given", ["nowhere.py", "nothing_called_so", "cremad"])
def test_what_cannot_be_checked_is_bad_input(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", given]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_strategy_is_checked_under_the_head_of_a_method_that_uses_it() -> None:
    """Some work under few heads; and a package's methods stand for their strategies, which are not checked twice."""
    every = catalogue()
    labels = [t.label for t in find(every, "mmzoo")]
    assert "method domfn" in labels and not [label for label in labels if label.startswith("strategy ")]
    for name, head in (("domfn", "Separate"), ("mla", "Shared"), ("greedy", "Channel"), ("ogm", "Concat")):
        (target,) = find(every, f"strategies/{name}")
        case = target.case()
        assert type(case.head({"a": 3, "b": 3}, 2)).__name__ == head


def test_an_error_of_ours_names_the_line_of_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from mmzoo.api import Strategy\n\nclass Mine(Strategy):\n    def gradients(self, step, out, grads):\n"
        "        grads.params('encoder.audio')\n"
    )
    assert main(["check", f"{file}:Mine", "--json", "--only", "purity"]) == 1
    (part,) = json.loads(capsys.readouterr().out)
    (reason,) = {c["reason"] for c in part["checks"] if c["status"] == "failed"}
    assert "UnknownName: " in reason and "'encoder.audio'" in reason and f"({tmp_path.name}/mine.py:5)" in reason


def test_the_list_says_what_each_check_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["strategy", "  steps"] and "data set" in lines and "  hashes" in lines
    assert main(["check", "--list", "--json"]) == 0
    claims = json.loads(capsys.readouterr().out)
    assert set(claims) == {"strategy", "head", "encoder", "dataset"}
    assert all(len(said.split()) > 3 for checks in claims.values() for said in checks.values())
    assert main(["check"]) == 2 and "wants a TARGET" in capsys.readouterr().err


def test_parameters_are_set_as_in_a_bench() -> None:
    (target,) = find(catalogue(), "ogm", [("alpha", 0.25)])
    assert target.case().first.alpha == 0.25
    (target,) = find(catalogue(), "ogm", [("ogm.alpha", 0.5)])
    assert target.case().first.alpha == 0.5
    (target,) = find(catalogue(), "strategies/pmr", [])
    with pytest.raises(BadValue, match="nothing that is checked uses 'pmr'"):
        find(catalogue(), "ogm", [("pmr.alpha", 1.0)])
    with pytest.raises(UnknownName, match="Did you mean 'alpha'"):
        find(catalogue(), "ogm", [("alphaa", 1.0)])


def test_a_method_of_several_strategies_is_checked_as_a_chain() -> None:
    (target,) = find(catalogue(), "dynamic_gap")
    assert [type(p).__name__ for p in target.case().first.parts] == ["DynamicGap", "Refit"]
    (alone,) = find(catalogue(), "strategies/dynamic_gap")
    assert type(alone.case().first).__name__ == "DynamicGap"


def test_a_data_set_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "mfeat"]) == 0
    assert capsys.readouterr().out.startswith("data set mfeat\n  passed    loads")
