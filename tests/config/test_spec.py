"""Seeds, training settings, and what makes two runs the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.grammar import parse_seeds
from mmzoo.errors import BadValue
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
MakePlan = Callable[..., Plan]


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
