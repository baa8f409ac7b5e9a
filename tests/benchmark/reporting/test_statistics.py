"""Tests, intervals and ranks against scipy, scikit-learn's resampling, published tables and brute force."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmzoo.benchmark.reporting import significance as sig
from mmzoo.benchmark.reporting.comparison import comparison_tables, rank_methods, right_items
from mmzoo.benchmark.reporting.figures import charts
from mmzoo.benchmark.reporting.figures.drawing import convert
from mmzoo.benchmark.reporting.groups import Group
from mmzoo.benchmark.reporting.statistics import detectable, enough_seeds, interval, smallest_p, spread
from mmzoo.benchmark.results.store import Store

Command = Callable[..., Any]
profile = settings(max_examples=40, deadline=None, derandomize=True)
ROLES: dict[str, Any] = {"methods": {"dynamic_gap_lb": "method"}, "refused": []}
small = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9)
distinct = st.lists(st.floats(0.01, 9), min_size=2, max_size=10, unique_by=lambda x: round(x, 6))


# ---------------------------------------------------------------------- seeds
@profile
@given(small)
def test_sign_flip_is_scipys_permutation_test(d: list[float]) -> None:
    if len(d) > 1:
        oracle = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", alternative="two-sided", n_resamples=10**6
        )
        assert sig.sign_flip(d) == pytest.approx(oracle.pvalue)
    assert sig.sign_flip(d) >= smallest_p(len(d)) and sig.sign_flip(d) == sig.sign_flip([-x for x in d])


def test_many_seeds_are_drawn_and_agree_with_the_exact_answer() -> None:
    d = np.random.default_rng(1).integers(-5, 8, sig.ENUMERATED + 4)
    exact = sig._flipped(d)
    assert sig.sign_flip(d.tolist()) == pytest.approx(exact, abs=4 * math.sqrt(exact / sig.DRAWN))
    assert sig.sign_flip(d.tolist()) == sig.sign_flip(d.tolist())


@profile
@given(distinct, st.data())
def test_wilcoxon_is_scipys(magnitudes: list[float], data: st.DataObject) -> None:
    d = [m * data.draw(st.sampled_from([-1, 1])) for m in magnitudes]
    assert sig.wilcoxon(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


@profile
@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8))
def test_wilcoxon_with_ties_is_the_enumeration(d: list[float]) -> None:
    kept = [x for x in d if x]
    ranks = stats.rankdata(np.abs(kept)) if kept else np.zeros(0)
    seen = abs(float((np.sign(kept) * ranks).sum())) if kept else 0.0
    sums = [abs(float((np.array(s) * ranks).sum())) for s in itertools.product([-1, 1], repeat=len(kept))]
    assert sig.wilcoxon(d) == pytest.approx(np.mean([s >= seen - 1e-9 for s in sums]))


@profile
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p: list[float]) -> None:
    """A hypothesis falls when every set of hypotheses with it does, each by its smallest p times its size."""
    for i, adjusted in enumerate(sig.holm(p)):
        others = [j for j in range(len(p)) if j != i]
        sets = [(i, *rest) for n in range(len(p)) for rest in itertools.combinations(others, n)]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))


def test_intervals_and_effects_of_few_seeds() -> None:
    d = [0.1, 0.3, 0.2, 0.6]
    oracle = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert sig.t_interval(d) == pytest.approx((oracle.low, oracle.high))
    for few in ([0.1], [0.1, 0.3], [0.3, 0.1 + 0.2, 0.3]):  # 0.1 + 0.2 is 0.3 but for rounding
        assert sig.t_interval(few) == interval(spread(few)) == (-math.inf, math.inf)
    assert sig.effect_size(d) == pytest.approx(np.mean(d) / np.std(d, ddof=1) * (1 - 3 / 11))
    assert math.isnan(sig.effect_size([0.1, 0.1, 0.1])) and math.isnan(sig.effect_size([0.1]))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30, 200])
def test_what_can_be_detected_is_the_power_of_scipys_t(n: int) -> None:
    d, df = detectable(n), n - 1
    threshold = stats.t.ppf(0.975, df)
    power = stats.nct.sf(threshold, df, d * math.sqrt(n)) + stats.nct.cdf(-threshold, df, d * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=2e-3)
    assert detectable(1) == math.inf


def test_how_many_seeds_it_takes() -> None:
    assert [smallest_p(n) for n in (1, 2, 3, 5)] == [1.0, 0.5, 0.25, 0.0625]
    assert enough_seeds(0.05) == 6 and enough_seeds(0.05, 7) == 9
    assert 7 * smallest_p(9) <= 0.05 < 7 * smallest_p(8)


# ---------------------------------------------------------------------- items
def test_with_one_seed_the_test_of_items_is_mcnemars() -> None:
    rng = np.random.default_rng(0)
    for n, shift in ((30, 0.2), (500, 0.03), (500, 0.0)):
        a, b = rng.random((1, n)) < 0.7 + shift, rng.random((1, n)) < 0.7
        won, lost = int((a & ~b).sum()), int((~a & b).sum())
        assert sig.item_test(a, b) == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert sig.item_test(a, a) == 1.0


@profile
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=6))
def test_with_several_seeds_it_is_the_permutation_test_over_items(bits: list[list[bool]]) -> None:
    a, b = np.array(bits[: len(bits) // 2]), np.array(bits[len(bits) // 2 : 2 * (len(bits) // 2)])
    d = (a.astype(int) - b.astype(int)).sum(0)
    sums = [abs(int((np.array(s) * d).sum())) for s in itertools.product([-1, 1], repeat=6)]
    assert sig.item_test(a, b) == pytest.approx(np.mean([s >= abs(int(d.sum())) for s in sums]))


def test_the_bootstrap_is_that_of_resampled_items() -> None:
    values = np.random.default_rng(3).choice([-1.0, 0.0, 0.5, 1.0], 400)
    low, high = sig.bootstrap(values)
    oracle = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.01)
    assert sig.bootstrap(np.ones(5)) == (1.0, 1.0)


# ---------------------------------------------------------------------- data sets
def test_friedman_and_the_critical_difference() -> None:
    scores = np.random.default_rng(5).random((12, 5)) + np.array([0.0, 0.1, 0.3, 0.3, 0.5])
    found = sig.friedman(scores)
    oracle = stats.friedmanchisquare(*scores.T)
    assert found.p == pytest.approx(oracle.pvalue) and found.w == pytest.approx(oracle.statistic / (12 * 4))
    assert found.ranks == pytest.approx(stats.rankdata(-scores, axis=1).mean(0))
    # q at 5 % as printed in table 5a of Demsar (JMLR 2006), for 3, 5 and 10 methods
    for k, q in ((3, 2.343), (5, 2.728), (10, 3.164)):
        given = np.random.default_rng(k).random((8, k))
        assert sig.friedman(given).critical == pytest.approx(q * math.sqrt(k * (k + 1) / 48), abs=1e-3)
    alike = sig.friedman(np.ones((3, 4)))
    assert alike.p == 1.0 and alike.w == 0.0 and alike.ranks == (2.5,) * 4


def test_cliques_join_what_is_not_told_apart() -> None:
    assert sig.cliques([3.0, 1.0, 2.0, 6.0], 1.5) == [(1, 2), (2, 0)]
    assert sig.cliques([1.0, 5.0], 1.0) == []


def test_methods_are_ranked_where_all_data_sets_have_them() -> None:
    def groups(**scores: float) -> Sequence[Group]:
        made = []
        for label, acc in scores.items():
            row = {"seed": 0, "status": "ok", "modality": None, "metrics": {"main_metric": "acc", "acc": acc}}
            made.append(Group(label, "method", (row,)))
        return made

    given = {"x": groups(a=0.9, b=0.5, c=0.7, d=0.1), "y": groups(a=0.8, c=0.8, b=0.1)}
    found = rank_methods(given)
    assert found is not None and found[0] == ["a", "b", "c"] and found[2].ranks == (1.25, 3.0, 1.75)
    assert (
        rank_methods({"x": given["x"]}) is None and rank_methods({"x": groups(a=1, b=0), "y": groups(a=1, b=0)}) is None
    )


# ---------------------------------------------------------------------- the report
def test_the_report_says_what_its_seeds_cannot_decide(mmzoo: Command, results: Path) -> None:
    done = mmzoo("report", results, "--stats")
    assert done.code == 0 and done.err == ""
    for part in (
        "tests over seeds",
        "tests over shared test samples",
        "intervals over test samples",
        "cannot decide",
        "1 seed cannot decide",
        "McNemar",
    ):
        assert part in done.out, part


def test_items_are_those_of_the_predictions(results: Path) -> None:
    store = Store(results)
    rows, _ = store.rows()
    for row in rows:
        assert right_items(row, store).mean() == pytest.approx(row["metrics"]["acc"], abs=1e-12)
    tables = comparison_tables(rows, ROLES, store)
    items = next(t for t in tables if "shared test samples" in t.title)
    by_label = {r["label"]: r for r in rows}
    for line in items.body:
        other = by_label[line[0].text.partition(" minus ")[2]]["metrics"]["acc"]
        assert line[1].text == f"{100 * (by_label['dynamic_gap_lb']['metrics']['acc'] - other):+.1f}"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def spoil(folder: Path, marker: Path, how: str) -> None:
    path = next(folder.glob("runs/*/predictions.npz"))
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "others":
        kept = dict(np.load(path))
        np.savez(path, **{**kept, "scores": -kept["scores"]})
    else:
        np.savez(path, index=np.array([Touch(marker)], dtype=object), target=np.zeros(1), scores=np.zeros((1, 2)))


@pytest.mark.parametrize("how", ["gone", "cut", "others", "pickle"])
def test_predictions_from_outside_cost_their_own_row(how: str, results: Path, tmp_path: Path, mmzoo: Command) -> None:
    folder, marker = Path(shutil.copytree(results, tmp_path / "r")), tmp_path / "ran"
    spoil(folder, marker, how)
    done = mmzoo("report", folder, "--stats")
    assert done.code == 2 and done.err.count("predictions.npz cannot be used") == 1 and not marker.exists()
    assert "tests over seeds" in done.out and "Traceback" not in done.err


def test_a_report_of_tests_says_when_scipy_is_missing(
    results: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    assert "pip install scipy" in refused("report", results, "--stats")
    assert "has none" in refused("report", results, "--stats", "--format", "json")


# ---------------------------------------------------------------------- figures
def test_figures_are_drawn_and_the_same_each_time(results: Path, tmp_path: Path, mmzoo: Command) -> None:
    pytest.importorskip("vl_convert")
    for name in ("a", "b"):
        assert mmzoo("report", results, "--figures", tmp_path / name).code == 0
    drawn = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    kinds = ("scores", "branches", "curves", "alpha", "gap", "cost", "calibration")
    assert set(drawn) == {f"{kind}-mfeat.{form}" for kind in kinds for form in ("pdf", "svg")}
    again = {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert all(again[name] == data for name, data in drawn.items() if name.endswith("svg"))  # PDF objects have no order
    assert all(data.startswith(b"%PDF" if name.endswith("pdf") else b"<svg") for name, data in drawn.items())


def test_a_diagram_of_ranks_takes_any_name() -> None:
    pytest.importorskip("vl_convert")
    labels = ["ogm", "$\\frac{", "<b>&", "x" * 60]
    points = [{"method": m, "rank": r, "row": i} for i, (m, r) in enumerate(zip(labels, (1.0, 2.5, 2.5, 4.0)))]
    drawn = convert(charts.ranks(points, [{"method": "ogm", "low": 1.0, "high": 2.5}], 1.6, 7) or {}, "svg")
    assert b"<b>" not in drawn and len(drawn) > 1000
