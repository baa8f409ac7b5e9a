"""Tests and intervals, over seeds, over test items and over data sets. Needs numpy, and scipy where a test is made.

Two questions that are often taken for one: whether a *training procedure* is better (the seeds are the sample), and
whether *these trained models* differ on the population that the test items were drawn from (the items are the sample).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmzoo.benchmark.reporting.statistics import has_interval

#: as many seeds are enumerated; with more, so many random choices of signs are drawn
ENUMERATED, DRAWN = 16, 100_000
RESAMPLES = 10_000
Floats = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------- seeds
def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the mean of paired differences under random signs (Fisher's permutation test for pairs).

    Exact up to ENUMERATED differences; beyond, from DRAWN choices, always the same, the observed one counted in.
    """
    d = np.asarray(differences, dtype=float)
    if not len(d):
        return 1.0
    if len(d) <= ENUMERATED:
        signs = 1 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
        extra = 0
    else:
        signs, extra = np.random.default_rng(0).choice([-1, 1], (DRAWN, len(d))), 1
    sums = np.abs(signs @ d)
    # Equal sums differ by rounding, and must count as equal.
    as_extreme = int((sums >= abs(d.sum()) - 1e-9 * np.abs(d).sum()).sum())
    return (as_extreme + extra) / (len(signs) + extra)


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: exact, with ties (mid-ranks) too; differences of zero are left out."""
    d = np.asarray([x for x in differences if x], dtype=float)
    if not len(d):
        return 1.0
    from scipy import stats

    ranks = stats.rankdata(np.round(np.abs(d), 12))
    return _flipped(np.sign(d) * np.rint(2 * ranks))


def t_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of Student's t for the mean difference; unbounded where there is none, see `has_interval`."""
    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or not has_interval(len(d), float(d.std(ddof=1))):
        return -math.inf, math.inf
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
    return float(d.mean() - half), float(d.mean() + half)


def effect_size(differences: Sequence[float]) -> float:
    """Hedges' g of paired differences: mean / deviation, times 1 - 3 / (4 (n - 1) - 1) against the bias of few; NaN
    where there is no deviation."""
    d = np.asarray(differences, dtype=float)
    if len(d) < 3 or not d.std(ddof=1) > 1e-12:
        return math.nan
    return float(d.mean() / d.std(ddof=1) * (1 - 3 / (4 * (len(d) - 1) - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below a level together they err with at most its probability, however they depend."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted


# ---------------------------------------------------------------------------------------------- items
def item_test(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Two-sided exact p that two sets of models, (S, N) right or wrong on each item, are alike over items.

    Under the null the sign of each item's difference, summed over the seeds, is random. With one seed this is McNemar's
    exact test. The seeds are taken as given: it says nothing of seeds not run.
    """
    return _flipped((a.astype(int) - b.astype(int)).sum(0))


def _flipped(values: NDArray[np.generic]) -> float:
    """P(|sum of randomly signed |values|| >= |their sum|) for whole numbers, by convolving the distribution of each
    magnitude's share of the sum."""
    whole = np.asarray(values).astype(int)
    observed, total = abs(int(whole.sum())), int(np.abs(whole).sum())
    if not total:
        return 1.0
    from scipy import signal, stats

    pmf = np.ones(1)
    for magnitude, count in zip(*np.unique(np.abs(whole[whole != 0]), return_counts=True)):
        steps = np.zeros(2 * magnitude * count + 1)
        steps[:: 2 * magnitude] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        pmf = np.convolve(pmf, steps) if len(pmf) * len(steps) < 10**7 else signal.fftconvolve(pmf, steps)
    sums = np.arange(len(pmf)) - total
    return float(min(1.0, pmf[np.abs(sums) >= observed].clip(0).sum()))


def bootstrap(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval, over resampled items, of the mean of (N,) values; always the same draws.

    Values of few kinds (right or wrong by S seeds) are resampled by kind, which is the same distribution.
    """
    kinds, counts = np.unique(np.round(values, 12), return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(values), counts / len(values), RESAMPLES)
    low, high = np.quantile(draws @ kinds / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------- data sets
@dataclass(frozen=True)
class Ranking:
    """Friedman's test over data sets and Nemenyi's critical difference (Demsar, JMLR 2006).

    ranks: average rank of each method, 1 the best. p: of the chi-square approximation. w: Kendall's W, from 0 to 1 where
    all data sets agree. critical: average ranks that differ by less are not told apart at the level.
    """

    ranks: tuple[float, ...]
    p: float
    w: float
    critical: float
    n: int


def friedman(scores: Floats, level: float = 0.05) -> Ranking:
    """scores: (data sets, methods), higher is better; at least two of the former and three of the latter."""
    from scipy import stats

    n, k = scores.shape
    ranks = np.stack([stats.rankdata(-np.round(row, 12)) for row in scores])
    if np.ptp(ranks) == 0:
        chi2, p = 0.0, 1.0
    else:
        chi2, p = map(float, stats.friedmanchisquare(*ranks.T))
    q = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    critical = q * math.sqrt(k * (k + 1) / (6 * n))
    return Ranking(tuple(ranks.mean(0).tolist()), p, chi2 / (n * (k - 1)), critical, n)


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, ...]]:
    """The largest sets of methods whose average ranks lie within the critical difference, best first; none of one."""
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    found: list[tuple[int, ...]] = []
    for start in range(len(order)):
        inside = tuple(i for i in order[start:] if ranks[i] - ranks[order[start]] < critical)
        if len(inside) > 1 and not any(set(inside) <= set(f) for f in found):
            found.append(inside)
    return found
