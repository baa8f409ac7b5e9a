"""Method specs, settings, seeds and suites, and what makes two runs the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.grammar import parse_seeds, parse_setting, shown
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue, Incompatible, MmzooError
from mmzoo.io.yaml_file import parse
from mmzoo.registry import Catalogue
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
MakePlan = Callable[..., Plan]


@pytest.fixture
def resolve(catalogue: Catalogue) -> Callable[..., Method]:
    def run(text: str, *pairs: tuple[str, Any]) -> Method:
        return resolve_method(catalogue, text, Settings(catalogue, pairs))

    return run


# ---------------------------------------------------------------------- methods
def test_a_spec_is_parts_with_windows_and_a_head(resolve: Callable[..., Method]) -> None:
    method = resolve("ogm:0-50+pmr:50%-@sum")
    assert [(p.strategy, p.first, p.last) for p in method.parts] == [("ogm", "0", "50"), ("pmr", "50%", None)]
    assert method.head == "sum" and method.label == "ogm:0-50+pmr:50%-@sum" and not method.each_modality
    assert set(method.versions) == {"heads/sum", "strategies/ogm", "strategies/pmr"}


@pytest.mark.parametrize(
    ("text", "label"),
    [("ogm@concat", "ogm"), (" ogm ", "ogm"), ("plain", "concat"), ("lfm_lb", "dynamic_gap_lb"), ("concat@sum", "sum")],
)
def test_two_ways_to_say_the_same_are_one_method(resolve: Callable[..., Method], text: str, label: str) -> None:
    assert resolve(text).label == label
    assert resolve(text).identity == resolve(label).identity


def test_settings_show_in_the_label_only_where_they_change_something(resolve: Callable[..., Method]) -> None:
    assert resolve("ogm", ("ogm.alpha", 0.3)).label == "ogm"
    changed = resolve("ogm@sum", ("ogm.alpha", 1), ("ogm.noise", True), ("sum.reduce", "mean"))
    assert changed.label == "ogm@sum[alpha=1.0,noise=true,head.reduce=mean]"
    assert resolve("ogm", ("ogm.noise", True)).label == "ogm[noise=true]"
    assert resolve("ogm", ("ogm.noise", True)).identity == resolve("ogm_ge").identity


@pytest.mark.parametrize(
    "method, settings, said",
    [
        (
            "dynamic_gap_h",
            (("dynamic_gap_h.alpha", 0.3),),
            "dynamic_gap_h.alpha: it means nothing where schedule is heuristic, only with",
        ),
        ("dynamic_gap_const", (("dynamic_gap_const.solver", "hessian"),), "only with learned"),
        ("dynamic_gap", (("dynamic_gap.alpha", 0.3),), "or set dynamic_gap.schedule too"),
        (
            "dynamic_gap_lb",
            (("dynamic_gap_lb.solver", "identity"), ("dynamic_gap_lb.damping", 0.1)),
            "where solver is identity",
        ),
        ("greedy_random", (("greedy_random.epsilon", 0.1),), "where schedule is random"),
        ("dynamic_gap", (("dynamic_gap.schedule", "lerned"), ("dynamic_gap.eta", 0.1)), "schedule must be one of"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    resolve: Callable[..., Method], method: str, settings: tuple[tuple[str, Any], ...], said: str
) -> None:
    with pytest.raises(BadValue, match=said):
        resolve(method, *settings)


def test_a_setting_for_all_methods_with_a_strategy_goes_to_those_that_it_means_something_to(
    resolve: Callable[..., Method],
) -> None:
    given = (("dynamic_gap.alpha", 0.3),)
    assert resolve("dynamic_gap_h", *given) == resolve("dynamic_gap_h")
    assert resolve("dynamic_gap_const", *given).parts[0].params["alpha"] == 0.3
    assert resolve("dynamic_gap", *given, ("dynamic_gap.schedule", "constant")).parts[0].params["alpha"] == 0.3


def test_a_setting_reaches_only_what_it_names(resolve: Callable[..., Method]) -> None:
    """A method's own head; a strategy under every recipe of it; a name that is both means the method."""
    pairs = (("ogm.head.reduce", "mean"), ("dynamic_gap.alpha", 0.2))
    assert resolve("ogm@sum", *pairs).head_params == {"reduce": "mean"}
    assert resolve("pmr@sum", *pairs).head_params == {"reduce": "sum"}
    for recipe in ("dynamic_gap_const", "dynamic_gap_lb"):
        assert resolve(recipe, *pairs).parts[0].params["alpha"] == 0.2
    assert resolve("ogm_ge", ("ogm.alpha", 0.7)).parts[0].params["alpha"] == 0.3


def test_leading_zeros_do_not_make_another_run(resolve: Callable[..., Method]) -> None:
    assert resolve("ogm:00-010%").identity == resolve("ogm:0-10%").identity


@FIXED
@given(text=st.text(max_size=30) | st.text("ogmpr:+@-%0123 ./", max_size=12))
def test_no_text_breaks_the_parser(catalogue: Catalogue, text: str) -> None:
    try:
        assert resolve_method(catalogue, text, Settings(catalogue, ())).parts
    except MmzooError as error:
        assert str(error)


def test_a_strategy_without_a_recipe_is_a_method_with_the_plain_head(resolve: Callable[..., Method]) -> None:
    method = resolve("dynamic_gap")
    assert method.head == "concat" and method.label == "dynamic_gap_h"


# ---------------------------------------------------------------------- values and seeds
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("x", "x"),
        ("[a, b]", ["a", "b"]),
        ("'1'", 1.0),
        ("a=b", "a=b"),
    ],
)
def test_a_setting_means_what_it_looks_like(text: str, value: Any) -> None:
    key, read = parse_setting(f" ogm.alpha ={text}")
    assert key == "ogm.alpha" and read == value and type(read) is type(value)


def test_a_value_is_shown_as_it_is_written() -> None:
    for value in (0.3, 1e-7, True, None, "mean", [1, 2], ["a", "b"]):
        assert parse_setting(f"a.b={shown(value)}")[1] == value
    assert shown("a\nb\x1b") == r'"a\nb\u001b"' and shown("") == '""'


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (0, 1, 2)),
        ("0,4", (0, 4)),
        ("7,", (7,)),
        ("5-7", (5, 6, 7)),
        ("1,1,0-2", (1, 0, 2)),
        (" 2 , 3 ", (2, 3)),
        ("0,", (0,)),
    ],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@FIXED
@given(st.text("0123456789,- ", max_size=12))
def test_seeds_are_a_list_or_a_message(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except BadValue as error:
        assert repr(text) in str(error)
    else:
        assert seeds and len(set(seeds)) == len(seeds) and min(seeds) >= 0


# ---------------------------------------------------------------------- training
def test_training_names_all_values_out_of_range_at_once() -> None:
    with pytest.raises(BadValue) as caught:
        Training(lr=-1.0, epochs=0, schedule="cosinus", momentum=-0.1)
    for part in (
        "lr must be positive, not -1.0",
        "epochs must be positive",
        "schedule must be one of",
        "momentum must",
    ):
        assert part in str(caught.value)


def test_a_whole_number_is_the_same_rate_as_its_float() -> None:
    assert Training().replace(lr=1, clip=2).as_dict() == Training(lr=1.0, clip=2.0).as_dict()


# ---------------------------------------------------------------------- identity of runs
def test_the_id_of_a_run_is_its_content(plan: MakePlan) -> None:
    (one,), (again,) = plan("ogm").runs, plan("ogm@concat", baselines=("pmr",)).runs[:1]
    assert one.spec.run_id == again.spec.run_id and len(one.spec.run_id) == 16
    others = [
        plan("ogm_ge"),
        plan("ogm", epochs=2),
        plan("ogm", seeds=(1,)),
        plan("ogm", preset="paper"),
        plan("ogm", datasets=("mfeat:six",)),
        plan("ogm", settings=(("mlp.width", 8),)),
        plan("ogm:0-50%"),
        plan("ogm", settings=(("train.lr", 0.5),)),
    ]
    assert len({one.spec.run_id, *(p.runs[0].spec.run_id for p in others)}) == 9
    assert plan("ogm", seeds=(1,)).runs[0].spec.config_id == one.spec.config_id


def test_a_new_version_of_a_part_is_another_run(plan: MakePlan) -> None:
    spec = plan("ogm").runs[0].spec
    assert set(spec.versions) == {"heads/concat", "strategies/ogm", "datasets/mfeat", "encoders/mlp"}
    newer = dataclasses.replace(spec, versions={**spec.versions, "strategies/ogm": 99})
    assert newer.run_id != spec.run_id


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
        ("a: &x [*x]", "unknown key"),
        ("set: {ogm.alpha: 2020-13-45}", "month must be in 1..12"),
        ("[" * 5000, "YAML"),
    ],
)
def test_a_suite_with_one_fault(catalogue: Catalogue, tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(BadValue) as caught:
        read_suite(suite(tmp_path, text), catalogue)
    assert part in str(caught.value) and "suite.yaml" in str(caught.value)


def test_an_alias_that_is_used_often_is_read_once() -> None:
    """Nine levels of ten aliases each would be a thousand million nodes."""
    levels = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
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
