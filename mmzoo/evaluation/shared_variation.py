"""What two modalities share beyond the class: canonical correlations within classes, with permutation intervals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmzoo.errors import BadValue

#: directions kept of each modality at most, and samples that each of them needs
MOST, EACH = 64, 10
#: samples below which nothing is estimated
LEAST = 60


@dataclass(frozen=True)
class Correlation:
    """One canonical correlation within classes.

    Args:
        value: on samples not used to fit the directions, mean of two halves; in [-1, 1].
        chance: the central 95 % of the value when pairs are permuted within each class.
        p: the fraction of permutations with at least this value (itself counted).
    """

    value: float
    chance: tuple[float, float]
    p: float

    @property
    def decided(self) -> bool:
        """Whether the value is above the chance interval."""
        return self.value > self.chance[1]


@dataclass(frozen=True)
class Shared:
    """What two modalities share within classes.

    Args:
        content: along the directions that separate the classes; None if there are none.
        context: along the directions that do not; None if there are none.
        n: number of samples used.
    """

    content: Correlation | None
    context: Correlation | None
    n: int


def shared_variation(
    x: Tensor, y: Tensor, target: Tensor, *, permutations: int = 199, generator: torch.Generator | None = None
) -> Shared:
    """Canonical correlations within classes of the features of two modalities (Hotelling, 1936).

    Each modality is whitened within classes; its class means then span the directions of content, and their orthogonal
    complement is context. Directions are fitted on one half of the samples and correlated on the other, and vice versa,
    so that a large number of directions does not look like correlation.

    Args:
        x: (N, D1), features of one modality.
        y: (N, D2), features of the other, of the same samples.
        target: (N,), classes.
        permutations: number of permutations of the pairs within each class.
        generator: draws halves and permutations; None: always the same.

    Raises:
        BadValue: fewer than LEAST samples, or a single class.
    """
    if len(target) < LEAST or len(target.unique()) < 2:
        raise BadValue(
            f"{len(target)} samples of {len(target.unique())} classes are too few for correlations within classes: give at "
            f"least {LEAST} of two classes."
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    halves = _halves(target, generator)
    sides = [(_sides(x.double(), target, half), _sides(y.double(), target, half)) for half in halves]
    orders = [_within(target, generator) for _ in range(permutations)]

    def correlation(which: int) -> Correlation | None:
        if any(parts[which].shape[1] == 0 for pair in sides for parts in pair):
            return None
        value = _crossed(sides, halves, which, None)
        drawn = torch.tensor([_crossed(sides, halves, which, order) for order in orders], dtype=torch.float64)
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        p = (1 + int((drawn >= value).sum())) / (1 + permutations)
        return Correlation(value, (low, high), p)

    return Shared(correlation(0), correlation(1), len(target))


def _halves(target: Tensor, generator: torch.Generator) -> list[Tensor]:
    """(N,) masks of two halves, each class split evenly."""
    first = torch.zeros(len(target), dtype=torch.bool)
    for c in target.unique():
        rows = torch.nonzero(target == c).flatten()
        first[rows[torch.randperm(len(rows), generator=generator)][: (len(rows) + 1) // 2]] = True
    return [first, ~first]


def _within(target: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) a permutation of the samples that stays within classes."""
    order = torch.arange(len(target))
    for c in target.unique():
        rows = torch.nonzero(target == c).flatten()
        order[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return order


def _sides(z: Tensor, target: Tensor, fit: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K1) and (N, K2): the variation within classes along the directions that tell classes apart, and along the others;
    whitened. Class means, whitening and directions are those of the samples in `fit`."""
    means = torch.zeros(int(target.max()) + 1, z.shape[1], dtype=z.dtype)
    for c in target.unique():
        here = fit & (target == c)
        means[c] = z[here if bool(here.any()) else target == c].mean(0)
    within = z - means[target]
    values, basis = torch.linalg.eigh(within[fit].T @ within[fit] / int(fit.sum()))
    keep = min(MOST, int(fit.sum()) // EACH, int((values > 1e-8 * values[-1].clamp_min(1e-30)).sum()))
    if keep < 1:
        return z[:, :0], z[:, :0]
    whiten = basis[:, -keep:] / values[-keep:].sqrt()
    centres = (means[target.unique()] - means[target.unique()].mean(0)) @ whiten
    _, sizes, directions = torch.linalg.svd(centres, full_matrices=True)
    rank = min(len(centres) - 1, keep, int((sizes > 1e-6 * sizes[0].clamp_min(1e-30)).sum()))
    white = within @ whiten
    return white @ directions[:rank].T, white @ directions[rank:].T


def _crossed(
    sides: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]],
    halves: list[Tensor],
    which: int,
    order: Tensor | None,
) -> float:
    """The first canonical correlation, fitted on one half and taken on the other; the mean of both ways."""
    found = []
    for (left, right), half in zip(sides, halves):
        a, b = left[which], right[which] if order is None else right[which][order]
        u, _, v = torch.linalg.svd(a[half].T @ b[half], full_matrices=False)
        p, q = a[~half] @ u[:, 0], b[~half] @ v[0]
        p, q = p - p.mean(), q - q.mean()
        size = float(p.norm() * q.norm())
        found.append(float(p @ q) / size if size > 0 else 0.0)
    return sum(found) / len(found)
