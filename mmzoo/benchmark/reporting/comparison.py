"""Tables of tests and intervals from rows and their kept predictions. No numpy, scipy or torch at import."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.reporting.groups import METRICS, Group, Row, compared, main_metric, main_score
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.statistics import NO_INTERVAL, detectable, enough_seeds, smallest_p, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent
from mmzoo.benchmark.results.predictions import read_predictions
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile, MmzooError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmzoo.benchmark.reporting.significance import Ranking

LEVEL = 0.05


def comparison_tables(
    rows: Sequence[Row], bench: Mapping[str, Any], store: Store, faults: list[CorruptFile] | None = None
) -> list[Table]:
    """For each data set: tests over seeds, intervals and tests over test items; then ranks over data sets.

    Args:
        rows: all rows.
        bench: order and roles of the methods.
        store: where the predictions of the rows are.
        faults: receives an error for each row whose predictions cannot be used; all tables omit such a row.

    Raises:
        CorruptFile: predictions cannot be used, and there is no `faults`.
        MmzooError: scipy is not installed.
    """
    _check_scipy()
    right, rows = _with_predictions(rows, store, faults)
    tables: list[Table] = []
    per_dataset: dict[str, list[Group]] = {}
    for dataset, groups in by_dataset(rows, bench).items():
        per_dataset[dataset] = [g for g in groups if not g.alone and g.by_seed(main_score)]
        pairs = compared(groups)
        if pairs:
            tables.append(_over_seeds(dataset, pairs, METRICS[main_metric(groups)]))
        if per_dataset[dataset]:
            items = {id(g): _items(g, right) for g in per_dataset[dataset]}
            tables.append(_intervals(dataset, per_dataset[dataset], items))
            if pairs:
                tables.append(_over_items(dataset, pairs, items))
    if ranked := rank_methods(per_dataset):
        tables.append(_over_datasets(*ranked))
    return tables


# ---------------------------------------------------------------------------------------------- seeds
def _over_seeds(dataset: str, pairs: Sequence[tuple[Group, Group]], metric: str) -> Table:
    from mmzoo.benchmark.reporting.significance import effect_size, holm, sign_flip, t_interval, wilcoxon

    header = "difference|mean ± std|95 % interval|g|sign-flip p|Wilcoxon p|Holm p|detectable|seeds|verdict"
    table = Table(f"{dataset}: tests over seeds, differences in {metric}, points", header.split("|"))
    found = [_differences(a, b) for a, b in pairs]
    p = [sign_flip(d) for d in found]
    for (a, b), d, raw, adjusted in zip(pairs, found, p, holm(p)):
        s = spread(d)
        small = None if s.deviation is None else detectable(len(d)) * s.deviation
        g = effect_size(d)
        cells = [
            f"{a.label} minus {b.label}",
            percent(s, sign=True),
            _interval(t_interval(d)),
            DASH if math.isnan(g) else f"{g:+.2f}",
            _p(raw),
            _p(wilcoxon(d)),
            _p(adjusted),
            DASH if small is None else f"{100 * small:.1f}",
            str(len(d)),
            _verdict(adjusted, s.mean, len(d), len(pairs)),
        ]
        table.body.append([Cell(c) for c in cells])
    n = min(len(d) for d in found)
    table.notes.append(
        f"Tests over seeds. 95 % interval: Student's t. {NO_INTERVAL} g: Hedges' g of the paired differences. sign-flip: exact "
        "permutation of signs; Wilcoxon: exact signed ranks; Holm: sign-flip p, corrected over the lines of this table. "
        "detectable: the difference that a paired t-test at 5 % detects with 80 % power."
    )
    least = min(1.0, len(pairs) * smallest_p(n))
    if least > LEVEL:
        table.notes.append(
            f"{n} seed{'s' if n > 1 else ''} cannot decide: over {len(pairs)} comparison{'s' if len(pairs) > 1 else ''}, "
            f"no outcome has a Holm p below {least:g} (one comparison: {smallest_p(n):g}). A decision at 5 % takes "
            f"{enough_seeds(LEVEL, len(pairs))} seeds, or {enough_seeds(LEVEL)} for one planned comparison."
        )
    return table


def _differences(a: Group, b: Group) -> list[float]:
    left, right = a.by_seed(main_score), b.by_seed(main_score)
    return [left[s] - right[s] for s in sorted(set(left) & set(right))]


def _verdict(p: float, mean: float, n: int, comparisons: int) -> str:
    if comparisons * smallest_p(n) > LEVEL:
        return "cannot decide"
    return "undecided" if p > LEVEL else "higher" if mean > 0 else "lower"


# -------------------------------------------------------------------------------------------- samples
def right_items(row: Row, store: Store) -> NDArray[np.bool_]:
    """(N,) whether each test sample is classified correctly, in the order of the samples' indices.

    Raises CorruptFile for a file that is missing, that cannot be read, or whose accuracy is not the row's.
    """
    return read_predictions(row, store).right


def _with_predictions(
    rows: Sequence[Row], store: Store, faults: list[CorruptFile] | None
) -> tuple[dict[str, NDArray[np.bool_]], list[Row]]:
    """By run which test items it has right, and the rows without those whose predictions cannot be used."""
    right, kept = {}, []
    for row in rows:
        try:
            if row["status"] == "ok" and row["modality"] is None:
                right[row["run_id"]] = right_items(row, store)
        except CorruptFile as error:
            if faults is None:
                raise
            faults.append(error)
            continue
        kept.append(row)
    return right, kept


def _items(group: Group, right: Mapping[str, NDArray[np.bool_]]) -> dict[int, NDArray[np.bool_]]:
    return {r["seed"]: right[r["run_id"]] for r in group.rows if r["status"] == "ok"}


def _intervals(dataset: str, groups: Sequence[Group], items: Mapping[int, Mapping[int, NDArray[np.bool_]]]) -> Table:
    import numpy as np

    from mmzoo.benchmark.reporting.significance import bootstrap

    table = Table(
        f"{dataset}: ACC in % with intervals over test samples",
        ["method", "mean ± std over seeds", "95 % over samples", "samples", "seeds"],
    )
    for group in groups:
        right = np.stack(list(items[id(group)].values()))
        over_seeds = percent(spread(right.mean(1).tolist()))
        cells = [
            group.label,
            over_seeds,
            _interval(bootstrap(right.mean(0)), sign=False),
            str(right.shape[1]),
            str(right.shape[0]),
        ]
        table.body.append([Cell(c) for c in cells])
    table.notes.append(
        "Two sources of error: the std is over seeds; the interval is a bootstrap over the test samples for fixed "
        "models. Neither includes the other."
    )
    return table


def _over_items(
    dataset: str, pairs: Sequence[tuple[Group, Group]], items: Mapping[int, Mapping[int, NDArray[np.bool_]]]
) -> Table:
    import numpy as np

    from mmzoo.benchmark.reporting.significance import bootstrap, holm, item_test

    table = Table(
        f"{dataset}: tests over shared test samples, differences in ACC, points",
        ["difference", "mean", "95 % over samples", "won : lost", "samples p", "Holm p", "seeds"],
    )
    found = []
    for a, b in pairs:
        common = sorted(set(items[id(a)]) & set(items[id(b)]))
        left, right = (np.stack([items[id(g)][s] for s in common]) for g in (a, b))
        if left.shape == right.shape:
            found.append((a, b, left, right))
    p = [item_test(left, right) for _, _, left, right in found]
    for (a, b, left, right), raw, adjusted in zip(found, p, holm(p)):
        d = (left.astype(float) - right.astype(float)).mean(0)
        cells = [
            f"{a.label} minus {b.label}",
            f"{100 * d.mean() + 0.0:+.1f}",
            _interval(bootstrap(d)),
            f"{int((d > 0).sum())} : {int((d < 0).sum())}",
            _p(raw),
            _p(adjusted),
            str(len(left)),
        ]
        table.body.append([Cell(c) for c in cells])
    table.notes.append(
        "Tests over test samples for fixed models: a small p says that these models differ, not that models of other "
        "seeds do. samples p: exact sign test of the per-sample differences, summed over the common seeds; with one seed "
        "it is McNemar's exact test. won : lost: samples that one side classifies correctly more often. Holm: over the "
        "lines of this table."
    )
    return table


# ---------------------------------------------------------------------------------------------- data sets
def rank_methods(per_dataset: Mapping[str, Sequence[Group]]) -> tuple[list[str], list[str], Ranking] | None:
    """Labels, data sets and ranking of the methods that were scored on every data set; None where there are too few."""
    if len(per_dataset) < 2:
        return None
    by_label = {d: {g.label: g.spread(main_score).mean for g in groups} for d, groups in per_dataset.items()}
    labels = [label for label in next(iter(by_label.values())) if all(label in found for found in by_label.values())]
    if len(labels) < 3:
        return None
    import numpy as np

    from mmzoo.benchmark.reporting.significance import friedman

    return (
        labels,
        list(by_label),
        friedman(np.array([[found[label] for label in labels] for found in by_label.values()])),
    )


def _over_datasets(labels: Sequence[str], datasets: Sequence[str], found: Ranking) -> Table:
    best = min(found.ranks)
    table = Table(
        f"average ranks over {found.n} data sets",
        ["method", "average rank", "behind the best", "differs from the best"],
    )
    for i in sorted(range(len(labels)), key=lambda i: found.ranks[i]):
        behind = found.ranks[i] - best
        apart = DASH if not behind else "yes" if behind >= found.critical else "no"
        table.body.append([Cell(labels[i]), Cell(f"{found.ranks[i]:.2f}"), Cell(f"{behind:.2f}"), Cell(apart)])
    table.notes.append(
        f"Friedman's test: p = {_p(found.p)}, Kendall's W = {found.w:.2f}. Nemenyi's critical difference at 5 %: "
        f"{found.critical:.2f} ranks; methods closer than that do not differ significantly. Ranks are of the mean over seeds."
    )
    k = len(labels)
    if found.critical > k - 1:
        table.notes.append(
            f"{found.n} data sets cannot decide: with {k} methods no two average ranks can differ by {found.critical:.2f}."
        )
    if found.n < 10:
        table.notes.append("p is the chi-square approximation, which is rough below about ten data sets.")
    sources = [d.partition(":")[0].partition("[")[0] for d in datasets]
    if shared := sorted({s for s in sources if sources.count(s) > 1}):
        table.notes.append(
            f"Presets of one data set share samples; the test assumes independent data sets: {', '.join(shared)}."
        )
    return table


# ---------------------------------------------------------------------------------------------- form
def _p(p: float) -> str:
    return f"{max(p, 1e-15):.0e}" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"  # below, rounding rules


def _interval(bounds: tuple[float, float], *, sign: bool = True) -> str:
    if not all(map(math.isfinite, bounds)):
        return DASH
    low, high = (f"{100 * b + 0.0:{'+' if sign else ''}.1f}" for b in bounds)
    return f"{low} to {high}"


def _check_scipy() -> None:
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise MmzooError(
            f"the tests need scipy, which cannot be imported: {error}. Install it: pip install scipy"
        ) from None
