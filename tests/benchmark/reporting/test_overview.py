"""The overview: numbers by hand, ranks against scipy, and what happens where something is missing."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.reporting.details import detail_tables
from mmzoo.benchmark.reporting.overview import Line, make_overview, mean_ranks, overview_table
from mmzoo.benchmark.reporting.short import short_tables
from mmzoo.benchmark.reporting.statistics import nemenyi, t_quantile
from mmzoo.benchmark.reporting.tables import DASH, Table
from mmzoo.benchmark.results.store import Store

Row = dict[str, Any]
ROLES = {"methods": {"new": "method", "concat": "reference", "control": "reference"}, "refused": []}


@pytest.fixture(scope="module")
def template(results: Path) -> Row:
    rows, _ = Store(results).rows()
    return next(r for r in rows if r["label"] == "concat")


@pytest.fixture
def row(template: Row) -> Callable[..., Row]:
    def make(label: str, seed: int, acc: float, dataset: str = "a", **changes: Any) -> Row:
        made = copy.deepcopy(template)
        made |= {"label": label, "seed": seed, "dataset": dataset, "config_id": f"{dataset} {label}"}
        made |= {"run_id": f"{dataset}{label}{seed}"}
        made["metrics"] |= {"acc": acc}
        strategies = {"concat": "plain", "control": "joint_unimodal"}
        made["spec"]["parts"][0]["strategy"] = strategies.get(label, label)
        return made | changes

    return make


def line(overview: Any, label: str) -> Line:
    return next(each for each in overview.lines if each.label == label)


def cells(table: Table, label: str) -> dict[str, str]:
    found = next(each for each in table.body if each[0].text == label)
    return dict(zip(table.header, (c.text for c in found), strict=True))


def test_differences_are_means_over_data_sets_with_an_interval_over_seeds(row: Callable[..., Row]) -> None:
    new = {"a": [0.5, 0.7, 0.9], "b": [0.8, 0.6, 0.7]}
    plain = {"a": [0.4, 0.5, 0.9], "b": [0.7, 0.6, 0.4]}
    rows = [row("new", s, x, d) for d, xs in new.items() for s, x in enumerate(xs)]
    rows += [row("concat", s, x, d) for d, xs in plain.items() for s, x in enumerate(xs)]
    found = line(make_overview(rows, ROLES), "new").to_plain
    per_seed = [statistics.fmean(new[d][s] - plain[d][s] for d in "ab") for s in range(3)]
    assert found is not None and found.n_datasets == 2
    assert found.spread.mean == pytest.approx(statistics.fmean(per_seed))
    scipy = pytest.importorskip("scipy.stats")
    low, high = scipy.t.interval(0.95, 2, statistics.fmean(per_seed), statistics.stdev(per_seed) / math.sqrt(3))
    assert found.interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert line(make_overview(rows, ROLES), "concat").to_plain is None
    assert line(make_overview(rows, ROLES), "new").to_control is None


def test_a_seed_that_one_data_set_lacks_is_left_out(row: Callable[..., Row]) -> None:
    rows = [row("new", s, 0.5 + s / 10, d) for d in "ab" for s in range(2)]
    rows += [row("concat", s, 0.5, "a") for s in range(2)] + [row("concat", 0, 0.4, "b")]
    found = line(make_overview(rows, ROLES), "new").to_plain
    assert found is not None and found.spread.n == 1 and found.spread.mean == pytest.approx(0.05)
    assert found.interval == (-math.inf, math.inf)


def test_two_seeds_and_equal_differences_have_no_interval(row: Callable[..., Row]) -> None:
    for seeds in (2, 4):
        rows = [row("new", s, 0.5 + s / 10 + 0.016) for s in range(seeds)]
        rows += [row("concat", s, 0.5 + s / 10) for s in range(seeds)]
        table = overview_table(make_overview(rows, ROLES))
        assert cells(table, "new")["Δ plain"] == "+1.6"
        assert any(n.startswith("No interval where fewer than 3 seeds") for n in table.notes)
        assert not any("95 % interval" in n for n in table.notes)


REFIT = {"strategy": "finisher", "params": {"keep": True}, "first": None, "last": None}
CHOICE = {"finish": {"chosen": "as trained", "validation": {}, "as_trained": {}}}


@pytest.fixture
def finished(row: Callable[..., Row]) -> Callable[..., Row]:
    """A row whose method also acts after training."""

    def make(label: str, seed: int, acc: float, strategy: str, params: dict[str, Any] | None = None) -> Row:
        made = row(label, seed, acc)
        after = REFIT if params is None else {**REFIT, "params": params}
        made["spec"]["parts"] = [{**made["spec"]["parts"][0], "strategy": strategy}, after]
        made["metrics"] |= CHOICE
        return made

    return make


def test_a_method_that_acts_after_training_is_compared_with_references_that_do_so_alike(
    row: Callable[..., Row], finished: Callable[..., Row]
) -> None:
    rows = [row("concat", s, 0.5) for s in range(2)] + [row("control", s, 0.6) for s in range(2)]
    rows += [finished("new", s, 0.8, "new") for s in range(2)]
    alone = overview_table(make_overview(rows, ROLES))
    assert cells(alone, "new") | {"Δ plain": "+30.0*", "Δ control": "+20.0*"} == cells(alone, "new")
    assert any(n.startswith("* to the reference without what the method does after") for n in alone.notes)
    other = [finished("concat+x[keep=false]", s, 0.6, "plain", {"keep": False}) for s in range(2)]
    assert cells(overview_table(make_overview([*rows, *other], ROLES)), "new")["Δ plain"] == "+30.0*"
    rows += [finished("concat+x", s, 0.65, "plain") for s in range(2)]
    rows += [finished("control+x", s, 0.79, "joint_unimodal") for s in range(2)]
    table = overview_table(make_overview(rows, ROLES))
    wanted = {
        "new": ("+15.0", "+1.0"),
        "control": ("+10.0", DASH),
        "concat+x": ("+15.0", "-14.0"),  # what the part adds, and both with it
        "control+x": ("+14.0", "+19.0"),
    }
    assert {k: (cells(table, k)["Δ plain"], cells(table, k)["Δ control"]) for k in wanted} == wanted
    assert any("compared with the reference that does the same" in n for n in table.notes)
    assert not any(n.startswith("*") for n in table.notes)
    (short,) = short_tables(rows, ROLES)
    assert cells(short, "new")["Δ plain"] == "+15.0 ± 0.0"
    details, *_ = detail_tables(rows, ROLES)
    assert cells(details, "new")["Δ ACC to plain"] == "+15.0 ± 0.0"


def test_a_method_that_only_acts_after_training_is_compared_with_plain_training(
    row: Callable[..., Row], finished: Callable[..., Row]
) -> None:
    rows = [row("concat", 0, 0.5), row("control", 0, 0.6), finished("new", 0, 0.55, "new")]
    rows[2]["spec"]["parts"] = rows[2]["spec"]["parts"][1:]
    found = cells(overview_table(make_overview(rows, ROLES)), "new")
    assert (found["Δ plain"], found["Δ control"]) == ("+5.0", "-5.0*")


def test_a_difference_of_fewer_seeds_than_others_says_so(row: Callable[..., Row]) -> None:
    rows = [row("new", s, 0.8) for s in range(4)] + [row("concat", s, 0.5) for s in range(4)] + [row("control", 0, 0.6)]
    table = overview_table(make_overview(rows, ROLES))
    assert cells(table, "new")["Δ plain"] == "+30.0" and cells(table, "new")["Δ control"] == "+20.0 (1 seed)"
    assert cells(table, "control")["Δ plain"] == "+10.0 (1 seed)"
    assert any("rests on fewer of them" in n for n in table.notes)
    (short,) = short_tables(rows, ROLES)
    assert cells(short, "control")["Δ plain"] == "+10.0 (1 seed)" and cells(short, "new")["Δ plain"] == "+30.0 ± 0.0"


def test_a_difference_over_fewer_data_sets_than_others_says_so(row: Callable[..., Row]) -> None:
    rows = [row(label, 0, acc, name) for name in "ab" for label, acc in (("new", 0.8), ("concat", 0.5))]
    table = overview_table(make_overview([*rows, row("control", 0, 0.6, "b")], ROLES))
    assert cells(table, "new")["Δ plain"] == "+30.0" and cells(table, "new")["Δ control"] == "+20.0 (1 data set)"
    assert cells(table, "control")["Δ plain"] == "+10.0 (1 data set)"
    assert any("rests on fewer of them" in n for n in table.notes)
    fewer = [row("control", 0, 0.6, "b"), row("new", 1, 0.8, "b"), row("concat", 1, 0.5, "b")]
    both = overview_table(
        make_overview([r for r in [*rows, *fewer] if (r["label"], r["dataset"]) != ("new", "a")], ROLES)
    )
    assert cells(both, "new")["Δ control"] == "+20.0 (1 seed)"


def test_the_overview_gives_the_test_samples_and_the_standard_error_of_their_choice(row: Callable[..., Row]) -> None:
    rows = [row("new", 0, 0.9, "a"), row("concat", 0, 0.8, "a"), row("new", 0, 0.5, "b"), row("concat", 0, 0.4, "b")]
    table = overview_table(make_overview(rows, ROLES))
    wanted = "(standard error of the best accuracy): a 500 (1.3 points), b 500 (2.2 points)."  # sqrt(p (1 - p) / 500)
    assert any(wanted in n for n in table.notes)


def test_an_unfinished_bench_says_so_first(copied: Path, mmzoo: Callable[..., Any]) -> None:
    assert "unfinished" not in mmzoo("report", copied).out
    lost = next(r for r in Store(copied).rows()[0] if r["label"] == "concat")
    n = len(Store(copied).run_ids())
    (copied / "runs" / lost["run_id"] / "result.json").unlink()
    text = mmzoo("report", copied).out
    assert text.startswith(f"### unfinished: 1 of {n} planned runs has no row\n")
    assert "| mfeat    | concat  |                  1 |" in text
    pytest.importorskip("vl_convert")
    mmzoo("report", copied, "-o", copied / "page.html")
    assert f"Unfinished: 1 of {n} planned runs has no row." in (copied / "page.html").read_text()


def test_best_and_second_are_joint_methods_and_ties_share(row: Callable[..., Row]) -> None:
    rows = [row("new", 0, 0.9), row("concat", 0, 0.9), row("control", 0, 0.8), row("alone", 0, 0.99, modality="fou")]
    overview = make_overview(rows, ROLES)
    assert [line(overview, name).scores["a"].place for name in ("new", "concat", "control", "alone")] == [1, 1, 2, 0]
    table = overview_table(overview)
    assert cells(table, "best unimodal")["a"] == "99.0"


def test_cost_is_relative_to_plain_training(row: Callable[..., Row]) -> None:
    rows = [row("new", 0, 0.9), row("concat", 0, 0.9)]
    rows[0]["cost"] |= {"forward": 10.0, "backward": 20.0}
    rows[1]["cost"] |= {"forward": 10.0, "backward": 10.0}
    assert line(make_overview(rows, ROLES), "new").cost == pytest.approx(50 / 30)


def test_failures_and_refusals_leave_a_dash_and_a_reason(row: Callable[..., Row]) -> None:
    lost = row("new", 0, 0.5, status="diverged", reason="epoch 3: loss is nan", metrics={}, cost={})
    refused = [{"dataset": "a", "method": "odd", "role": "baseline", "reason": "it needs three modalities"}]
    table = overview_table(make_overview([lost, row("concat", 0, 0.4)], {**ROLES, "refused": refused}))
    assert cells(table, "new")["a"] == DASH and cells(table, "odd")["a"] == DASH
    assert any("new on a: seed 0: diverged, epoch 3: loss is nan" in n for n in table.notes)
    assert any("odd on a: it needs three modalities" in n for n in table.notes)


def test_data_sets_come_in_the_order_of_the_bench(row: Callable[..., Row]) -> None:
    rows = [row("concat", 0, 0.4, name) for name in ("x", "y", "z")]
    assert make_overview(rows, {**ROLES, "datasets": ["z", "x", "y"]}).datasets == ("z", "x", "y")


def test_closed_is_a_ratio_of_means_with_its_standard_error(row: Callable[..., Row]) -> None:
    new, plain, bayes = [0.8, 0.9], [0.7, 0.6], 0.95
    rows = [row("new", s, x, bayes=bayes) for s, x in enumerate(new)]
    rows += [row("concat", s, x, bayes=bayes) for s, x in enumerate(plain)]
    gains, gaps = [0.1, 0.3], [0.25, 0.35]
    ratio = sum(gains) / sum(gaps)
    residual = [g - ratio * w for g, w in zip(gains, gaps, strict=True)]
    error = statistics.stdev(residual) / math.sqrt(2) / statistics.fmean(gaps)
    (table,) = short_tables(rows, ROLES)
    assert cells(table, "new")["closed"] == f"{100 * ratio:.0f} ± {100 * error:.0f} %"
    assert "Bayes accuracy 95.0" in table.title


@settings(derandomize=True, database=None, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=2, max_size=5))
def test_mean_ranks_are_scipys(scores: list[list[int]]) -> None:
    stats = pytest.importorskip("scipy.stats")

    class Stub:
        """What ranks need of a group."""

        alone = False

        def __init__(self, label: str, score: float) -> None:
            self.label, self._score = label, score

        def by_seed(self, get: object) -> dict[int, float]:
            return {0: self._score}

        def spread(self, get: object) -> Any:
            return type("S", (), {"mean": self._score})

    found: Any = {str(d): [Stub(f"m{i}", x) for i, x in enumerate(line)] for d, line in enumerate(scores)}
    wanted = sum(stats.rankdata([-x for x in line]) for line in scores) / len(scores)
    assert list(mean_ranks(found).values()) == pytest.approx(wanted.tolist())


def test_quantiles_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 4, 9, 30):
        assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-3)
    for k in (2, 3, 7, 25):
        q = stats.studentized_range.ppf(0.95, k, math.inf) / math.sqrt(2)
        assert nemenyi(k, 6) == pytest.approx(q * math.sqrt(k * (k + 1) / 36), rel=1e-6)


def test_the_main_command_prints_the_overview_first(results: Path, mmzoo: Callable[..., Any]) -> None:
    text = mmzoo("report", results).out
    titles = [each for each in text.splitlines() if each.startswith("### ")]
    assert titles[0].startswith("### overview: ") and titles[1].startswith("### mfeat: ") and len(titles) == 2
    every = mmzoo("report", results, "--all").out
    for title in ("each modality's ACC in %", "paired differences in ACC", "tests over seeds", "contribut"):
        assert title in every
