"""Means, deviations and paired differences over seeds. No torch at import."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a paired permutation of signs over n seeds can give."""
    return min(1.0, 2.0 / 2**n)
