"""What is planted in a twin, and what can be read from it at best. No torch.

Each item has a class. Independent given the class, each *symbol* is erased with probability `erased`; otherwise it is
the class with probability `hit`, else another class, all equally probable. A modality shows the symbols that it carries so
plainly that they can be read off its media; everything else in the media is drawn without looking at the class. The best
that can be done with a set of modalities is then the Bayes rule on their symbols, and its accuracy is a finite sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: the value of a symbol that is erased
ERASED = -1


@dataclass(frozen=True)
class Symbol:
    """hit: probability that a symbol which is not erased is the class. erased: probability that it is erased."""

    hit: float
    erased: float


@dataclass(frozen=True)
class Drawn:
    """One item: its class, and the value of each symbol (ERASED or a class)."""

    label: int
    symbols: Mapping[str, int]


@dataclass(frozen=True)
class Planting:
    """symbols: name -> how it is drawn. carries: modality -> the symbols that its media show. Classes are equally frequent."""

    n_classes: int
    symbols: Mapping[str, Symbol]
    carries: Mapping[str, tuple[str, ...]]

    def bayes(self, modalities: Iterable[str]) -> float:
        """The accuracy of the Bayes rule that sees these modalities: the sum over all values of their symbols of the
        largest joint probability of those values and a class."""
        seen = {s for m in modalities for s in self.carries[m]}
        joint = np.full((self.n_classes,), 1 / self.n_classes)
        for name in self.symbols:
            if name in seen:
                given = self._given_class(self.symbols[name])
                joint = joint[..., None] * given.reshape(self.n_classes, *[1] * (joint.ndim - 1), self.n_classes + 1)
        return float(joint.max(axis=0).sum())

    def all_bayes(self) -> dict[str, float]:
        """`audio`, `video`, `audio+video` ... -> Bayes accuracy, for every subset of the modalities in their order."""
        every = tuple(self.carries)
        subsets = itertools.chain.from_iterable(itertools.combinations(every, n) for n in range(1, len(every) + 1))
        return {"+".join(subset): self.bayes(subset) for subset in subsets}

    def draw(self, a_class: int, rng: np.random.Generator) -> list[Drawn]:
        """`a_class` items of each class, shuffled. How many items have which symbols erased, right or wrong is the
        expected number, rounded, so that a small part is not luckier than the population; which items, and the
        wrong values, are drawn."""
        n = a_class * self.n_classes
        labels = np.repeat(np.arange(self.n_classes), a_class)
        fates = self._fates(n, rng)
        items = []
        for label, fate in zip(labels.tolist(), fates):
            shift = rng.integers(1, self.n_classes, size=len(fate)).tolist()
            values = {
                name: ERASED if f == "erased" else label if f == "hit" else (label + by) % self.n_classes
                for name, f, by in zip(self.symbols, fate, shift)
            }
            items.append(Drawn(label, values))
        return [items[i] for i in rng.permutation(n)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "n_classes": self.n_classes,
            "symbols": {k: {"hit": s.hit, "erased": s.erased} for k, s in self.symbols.items()},
            "carries": {m: list(s) for m, s in self.carries.items()},
        }

    def _given_class(self, symbol: Symbol) -> np.ndarray:
        """(C, C + 1): the probability of each value, the last one erased, given each class."""
        n, shown = self.n_classes, 1 - symbol.erased
        table = np.full((n, n + 1), shown * (1 - symbol.hit) / (n - 1))
        table[np.arange(n), np.arange(n)] = shown * symbol.hit
        table[:, n] = symbol.erased
        return table

    def _fates(self, n: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
        """n tuples of a word for each symbol, in their expected numbers (largest remainders), shuffled."""
        words = ("hit", "miss", "erased")
        chances = [((1 - s.erased) * s.hit, (1 - s.erased) * (1 - s.hit), s.erased) for s in self.symbols.values()]
        patterns = list(itertools.product(range(3), repeat=len(chances)))
        expected = n * np.array([np.prod([p[i] for p, i in zip(chances, pattern)]) for pattern in patterns])
        counts = np.floor(expected).astype(int)
        counts[np.argsort(counts - expected, kind="stable")[: n - counts.sum()]] += 1
        rows = rng.permutation(np.repeat(np.arange(len(patterns)), counts))
        return [tuple(words[i] for i in patterns[row]) for row in rows]
