"""Means, deviations, paired differences over seeds, and what so many seeds can show. No torch at import."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

#: an interval over seeds needs as many, and a deviation above that of values that are equal but for rounding
LEAST_SEEDS, EQUAL = 3, 1e-9
NO_INTERVAL = f"No interval where fewer than {LEAST_SEEDS} seeds are common or all differences are equal."


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the sample, n - 1) over n runs; the deviation of one run is not known."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return Spread(math.nan, None, 0)
    return Spread(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Spread:
    """a - b over the seeds that both have."""
    return spread([a[seed] - b[seed] for seed in sorted(set(a) & set(b))])


def interval(s: Spread) -> tuple[float, float]:
    """Student's 95 % interval of a mean over seeds; unbounded where there is none, see `has_interval`."""
    if not has_interval(s.n, s.deviation):
        return -math.inf, math.inf
    half = t_quantile(s.n - 1) * (s.deviation or 0.0) / math.sqrt(s.n)
    return s.mean - half, s.mean + half


def has_interval(n: int, deviation: float | None) -> bool:
    """Whether so many values, of this deviation, say how far their mean may be off: two do not, nor do equal ones."""
    return n >= LEAST_SEEDS and deviation is not None and deviation > EQUAL


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a paired permutation of signs over n seeds can give."""
    return min(1.0, math.ldexp(2.0, -n))


def enough_seeds(level: float, comparisons: int = 1) -> int:
    """The number of seeds from which a sign-flip test can give p <= level after Holm's correction over so many."""
    return next(n for n in range(1, 200) if comparisons * smallest_p(n) <= level)


@lru_cache(maxsize=64)
def detectable(n: int, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference, in deviations of the differences, that a two-sided paired t-test over n seeds
    finds with the given power; infinite for one seed."""
    if n < 2:
        return math.inf
    spreads = _spreads(n - 1)

    def found(shift: float, threshold: float) -> float:
        """P(|T| > threshold) where the mean difference is `shift` standard errors."""
        return sum(w * (_upper(threshold * s - shift) + _upper(threshold * s + shift)) for s, w in spreads)

    threshold = _bisect(lambda t: level - found(0.0, t))
    return _bisect(lambda shift: found(shift, threshold) - power) / math.sqrt(n)


@lru_cache(maxsize=64)
def t_quantile(df: int, level: float = 0.95) -> float:
    """The half-width, in standard errors, of Student's two-sided interval with `df` degrees of freedom."""
    spreads = _spreads(df)
    return _bisect(lambda t: 1 - level - 2 * sum(w * _upper(t * s) for s, w in spreads)) if df > 0 else math.inf


@lru_cache(maxsize=64)
def nemenyi(k: int, n: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference of the mean ranks of k methods over n data sets (Demsar, JMLR 2006).

    q sqrt(k (k + 1) / (6 n)), with q the quantile of the studentized range over sqrt(2) at infinite degrees of freedom.
    """
    points = [-8 + i * 0.01 for i in range(1601)]
    density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * 0.01 for z in points]
    below = [1 - _upper(z) for z in points]

    def within(q: float) -> float:
        """P(range of k standard normals <= q), less the level wanted."""
        inside = (p * (b - 1 + _upper(z - q)) ** (k - 1) for z, p, b in zip(points, density, below))
        return k * sum(inside) - (1 - level)

    return _bisect(within) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def _spreads(df: int, points: int = 600) -> list[tuple[float, float]]:
    """Points and weights of the distribution of the sample deviation around a true one of 1."""
    reach = 9 / math.sqrt(2 * df)
    low, high = max(0.0, 1 - reach), 1 + reach
    grid = [low + (high - low) * (i + 0.5) / points for i in range(points)]
    logs = [(df - 1) * math.log(s) - df * (s * s - 1) / 2 for s in grid]
    weights = [math.exp(v - max(logs)) for v in logs]
    total = sum(weights)
    return [(s, w / total) for s, w in zip(grid, weights)]


def _upper(z: float) -> float:
    """P(Z > z) of a standard normal."""
    return math.erfc(z / math.sqrt(2)) / 2


def _bisect(rising: Callable[[float], float]) -> float:
    """The root above 0 of a function that rises from below zero."""
    high = 1.0
    while rising(high) < 0:
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
