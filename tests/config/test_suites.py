"""Suites: flags that win over them, and faults with their lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.spec import Method
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue, Incompatible, MmzooError
from mmzoo.io.yaml_file import parse
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- suites
def suite(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_suite_and_the_flags_that_win_over_it(mmzoo: Callable[..., Any], tmp_path: Path) -> None:
    path = suite(
        tmp_path,
        "schema: 1\nmethod: ogm\nbaselines: [pmr]\ndatasets: [mfeat]\nseeds: [0, 4]\nepochs: 3\n"
        "references: false\npreset: release\n"
        "set: {ogm.alpha: 0.7, ogm.head.reduce: mean}\n",
    )
    done = mmzoo("bench", "--suite", path, "--method", "ogm@sum", "--epochs", "2", "--plan", "--out", tmp_path / "o")
    assert done.code == 0, done.err
    assert "4 runs (2 methods, 2 seeds)" in done.out and "mfeat: 4 runs of 2 epochs" in done.out
    assert "method: ogm@sum[alpha=0.7,head.reduce=mean]" in done.out and "baselines: pmr" in done.out


FAULTY = """\
schema: 1
method: ogn
baselines:
  - pmr
  - prm
datasets: [mfeat:sixx]
seeds: [0, -1]
epochs: zero
sed: 3
epochs: 4
preset: papr
references: no way
set:
  ogm.alpha: 0.5
  ogm.alhpa: 0.5
  pmr.alpha: strong
  train.lr: .inf
  sum.reduce: max
  mlp.width: 0
  nobody.x: 1
"""


def test_all_faults_of_a_suite_are_told_at_once_with_their_lines(refused: Callable[..., str], tmp_path: Path) -> None:
    path = suite(tmp_path, FAULTY)
    first, *rest = refused("bench", "--suite", path, "--plan", "--out", tmp_path / "out").splitlines()
    assert first == f"{path} has 14 faults:"
    wanted = [
        (2, "method: no method 'ogn'. Did you mean 'ogm'?"),
        (5, "baselines.1: no method 'prm'. Did you mean 'pmr'?"),
        (6, "datasets.0: no preset of mfeat 'sixx'"),
        (7, "seeds: seeds '0,-1,'"),
        (9, "sed: unknown key."),
        (10, "epochs: given twice"),
        (11, "preset: no training preset 'papr'"),
        (12, "references: must be true or false, not 'no way'"),
        (15, "set.ogm.alhpa: no parameter of ogm 'alhpa'"),
        (16, "set.pmr.alpha: strategy pmr: alpha must be a number"),
        (17, "set.train.lr: training: lr must be"),
        (18, "set.sum.reduce: head sum: reduce must be one of sum, mean, not 'max'"),
        (19, "set.mlp.width: encoder mlp: width must be"),
        (20, "set.nobody.x: --set nobody.x: no method"),
    ]
    assert len(rest) == len(wanted)
    for line, (number, start) in zip(rest, wanted):
        assert line.startswith(f"  line {number}: {start}"), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "must be a mapping with the keys baselines"),
        ("- ogm", "must be a mapping"),
        ("a: b\nmethod: [ogm, ]]", "line 2: "),
        ("method: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("method: ogm\nmethod: pmr", "line 2: method: given twice"),
        ("schema: 2", "reads schema 1, not 2"),
        ("baselines: pmr", "must be a list of names"),
        ("set: [a]", "must map WHAT.KEY to values"),
        ("seeds: true", "seeds 'True'"),
        ("seeds: []", "seeds '[]'"),
        ("epochs: true", "must be a whole number from 1 or null, not True"),
        ("epochs: 0", "must be a whole number from 1"),
        ("method: 3", "must be a method, not 3"),
        ("? [a]\n: b", "plain word"),
        ("a: &x [*x]", "an alias stands within"),
        ("set: {ogm.alpha: 2020-13-45}", "month must be in 1..12"),
        ("[" * 5000, "YAML"),
    ],
)
def test_a_suite_with_one_fault(catalogue: Catalogue, tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(BadValue) as caught:
        read_suite(suite(tmp_path, text), catalogue)
    assert part in str(caught.value) and "suite.yaml" in str(caught.value)


def test_an_alias_that_is_used_often_is_read_once() -> None:
    """Six levels of ten aliases each are a million nodes."""
    levels = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 7)]
    assert parse("\n".join(levels), "text").faults == []


# ---------------------------------------------------------------------- what cannot work together
def test_pairs_that_cannot_work_are_refused_with_the_reason(plan: MakePlan) -> None:
    with pytest.raises(Incompatible, match="cannot be combined, since both replace 'task'"):
        plan("dynamic_gap_h+dynamic_gap_lb")
    with pytest.raises(Incompatible, match=r"ogm cannot run on .*needs at least 2 modalities; there is 1"):
        plan("ogm", settings=(("mfeat.views", ["fou"]),))
    partly = plan("concat", baselines=("ogm",), settings=(("mfeat.views", ["fou"]),))
    assert [r.method for r in partly.refused] == ["ogm"] and len(partly.runs) == 1


def test_references_come_with_each_head_in_use(plan: MakePlan) -> None:
    methods = plan("ogm@sum", baselines=("pmr",), references=True).methods()
    assert [m for m, role in methods.items() if role == "reference"] == [
        "sum",
        "joint_unimodal@sum",
        "concat",
        "joint_unimodal",
        "unimodal: fou",
        "unimodal: zer",
    ]


def test_what_is_asked_for_twice_runs_once(plan: MakePlan) -> None:
    once = plan("ogm", references=True)
    twice = plan("ogm", baselines=("ogm@concat", "concat"), datasets=("mfeat", "mfeat:default"), references=True)
    assert {r.spec.run_id for r in once.runs} == {r.spec.run_id for r in twice.runs}
    assert len(twice.runs) == 5


def test_presets_of_a_strategy_give_way_to_what_is_set_beside_them(
    catalogue: Catalogue, resolve: Callable[..., Method]
) -> None:
    wanted = catalogue.get("strategies", "ogm").preset("vggsound")
    alone = resolve("ogm", ("ogm.preset", "vggsound"))
    assert wanted.items() <= alone.parts[0].params.items() and alone.label == "ogm[alpha=0.1]"
    both = resolve("ogm", ("ogm.preset", "vggsound"), ("ogm.alpha", 0.7), ("ogm.form", "journal")).parts[0].params
    assert (both["alpha"], both["form"]) == (0.7, "journal")
    with pytest.raises(MmzooError, match=r"preset of strategy ogm 'cremed'.*cremad"):
        resolve("ogm", ("ogm.preset", "cremed"))


def test_a_preset_may_stand_in_a_suite_and_must_be_a_name(
    catalogue: Catalogue, resolve: Callable[..., Method], tmp_path: Path
) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text("method: ogm\nset: {ogm.preset: vggsound}\n", encoding="utf-8")
    assert read_suite(suite, catalogue)["settings"] == (("ogm.preset", "vggsound"),)
    suite.write_text("method: ogm\nset: {ogm.preset: vgsound}\n", encoding="utf-8")
    with pytest.raises(BadValue, match="vggsound"):
        read_suite(suite, catalogue)
    with pytest.raises(MmzooError, match="preset of strategy ogm"):
        resolve("ogm", ("ogm.preset", ["vggsound"]))
