"""A plan that is read back from its folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark import bench as benches
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan, planned_runs
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling import timing
from mmzoo.benchmark.scheduling.worker_loop import Order
from mmzoo.config import methods, spec
from mmzoo.config.spec import BenchSpec, RunSpec
from mmzoo.errors import CorruptFile
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]


def test_a_plan_comes_back_from_its_folders_as_it_was(tmp_path: Path, plan: MakePlan) -> None:
    runs = plan("dynamic_gap_lb", baselines=("umt", "ogm:0-50%+pmr@sum"), references=True, epochs=4).runs
    store = Store(tmp_path)
    order = Order.of(runs, store, device="cpu", checkpoint_every=5.0)
    back = Order.from_dict(json.loads(json.dumps(order.as_dict())), store)
    assert [p.spec.run_id for p in back.runs] == [p.spec.run_id for p in runs]
    assert [p.as_dict() for p in back.runs] == [p.as_dict() for p in runs]
    assert [[t.spec.run_id for t in p.teachers] for p in back.runs] == [
        [t.spec.run_id for t in p.teachers] for p in runs
    ]
    assert (back.bench, back.device, back.checkpoint_every) == (order.bench, "cpu", 5.0)


def spoil(kept: dict[str, Any], how: str, other: str) -> Any:
    return {
        "another seed": {**kept, "spec": {**kept["spec"], "seed": 9}},
        "no spec": {**kept, "spec": {}},
        "a list": [kept],
        "a path": {**kept, "teachers": ["../../x"]},
        "no keep": {**kept, "keep": "yes"},
        "an unknown teacher": {**kept, "teachers": ["0" * 16]},
        "its own teacher": {**kept, "teachers": [other]},
        "a number for a name": {**kept, "method": 3},
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "another seed",
        "no spec",
        "a list",
        "a path",
        "no keep",
        "an unknown teacher",
        "its own teacher",
        "a number for a name",
    ],
)
def test_a_plan_that_was_tampered_with_is_not_run(tmp_path: Path, plan: MakePlan, how: str) -> None:
    (planned,) = plan("concat").runs
    store, run_id = Store(tmp_path), planned.spec.run_id
    store.note_planned(run_id, planned.as_dict())
    path = store.folder(run_id) / "planned.json"
    path.write_text(json.dumps(spoil(planned.as_dict(), how, run_id)))
    with pytest.raises(CorruptFile, match=r"planned\.json cannot be used"):
        planned_runs(store, [run_id])
    store.note_planned(run_id, planned.as_dict())  # the next bench writes it anew
    assert planned_runs(store, [run_id])[0].spec == RunSpec.from_dict(planned.spec.as_dict())


def test_a_bench_does_not_wait_for_the_disk_before_it_trains(
    tmp_path: Path, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    order = Order.of(plan("concat", seeds=(0, 1, 2)).runs, Store(tmp_path), device="cpu", checkpoint_every=5.0)
    assert len(order.runs) == 3 and not waits


def test_an_estimate_reads_few_rows_of_a_large_folder(
    tmp_path: Path, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, store = plan("concat", seeds=(0, 1, 2, 3)).runs, Store(tmp_path)
    for planned in runs:
        store.folder(planned.spec.run_id).mkdir(parents=True)
    read: list[str] = []
    monkeypatch.setattr(Store, "row", lambda self, run_id: read.append(run_id))
    monkeypatch.setattr(timing, "MOST", 2)
    assert timing.recorded(runs, store) == {} and read == store.run_ids()[:2]


def test_faults_are_looked_for_with_one_seed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        benches, "make_plan", lambda spec, *rest, **named: asked.append(spec.seeds) or make_plan(spec, *rest, **named)
    )
    bench = BenchSpec("concat", datasets=("mfeat",), seeds=(0, 1, 2))
    made = benches.prepared_plan(bench, Store(tmp_path), benches.Execution(), benches.Events())
    assert asked == [(0,), (0, 1, 2)] and {p.spec.seed for p in made.runs} == {0, 1, 2}


def test_the_text_of_a_method_is_parsed_once(monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue) -> None:

    parsed: list[str] = []
    parse = spec.parse_method
    for module in (spec, methods):
        monkeypatch.setattr(module, "parse_method", lambda text: parsed.append(text) or parse(text))
    overrides = ((("ogm.alpha", 0.1),), (("ogm.alpha", 0.2),))
    bench = BenchSpec("umt", ("ogm:0-2+refit@sum",), epochs=4, overrides=overrides)
    assert make_plan(bench, catalogue, stores=False).runs and make_plan(bench, catalogue).runs
    assert parsed == ["umt", "ogm:0-2+refit@sum"]
