"""What is planted in a twin, and what can be read from it at best. No torch.

Each item has a class. Each *symbol* is erased with probability `erased`; otherwise it is the class with probability `hit`,
else another class, all equally probable. A modality shows the symbols that it carries so plainly that they can be read off
its media; everything else in the media is drawn without looking at the class. The best that can be done with a set of
modalities is then the Bayes rule on their symbols, and its accuracy is a finite sum.

Modalities share more than the class by two numbers, neither of which changes the law of a single modality:

- *content*: with this probability an item's symbols are drawn together: those that are wrong show the same wrong class, and what
  is erased or wrong less often is there or right wherever what is so more often is. Else they are independent given the class.
- *context*: with this probability all modalities of an item have one *scene*, a number that says nothing of the class, else each
  its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """One item: its class, the value of each symbol (ERASED or a class), and the scene of each modality, in [0, 1)."""

    label: int
    symbols: Mapping[str, int]
    scenes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planting:
    """What is planted. Classes are equally frequent.

    symbols: name -> how it is drawn. carries: modality -> the symbols that its media show. content, context: probabilities that
    symbols, and scenes, are drawn together (see the module).
    """

    n_classes: int
    symbols: Mapping[str, Symbol]
    carries: Mapping[str, tuple[str, ...]]
    content: float = 0.0
    context: float = 0.0

    def bayes(self, modalities: Iterable[str]) -> float:
        """The accuracy of the Bayes rule that sees these modalities: the sum over all values of their symbols of the
        largest joint probability of those values and a class."""
        carried = {s for m in modalities for s in self.carries[m]}
        seen = [self.symbols[name] for name in self.symbols if name in carried]
        joint = (1 - self.content) * self._independent(seen) + self.content * self._together(seen)
        return float(joint.max(axis=0).sum()) / self.n_classes

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
        values = []
        for label, (together, fate) in zip(labels.tolist(), self._fates(n, rng)):
            shift = rng.integers(1, self.n_classes, size=len(fate)).tolist()
            shift = shift[:1] * len(shift) if together else shift
            values.append(
                {
                    name: ERASED if f == "erased" else label if f == "hit" else (label + by) % self.n_classes
                    for name, f, by in zip(self.symbols, fate, shift)
                }
            )
        order = rng.permutation(n).tolist()
        return [Drawn(int(labels[i]), values[i], scenes) for i, scenes in zip(order, self._scenes(n, rng))]

    def as_dict(self) -> dict[str, Any]:
        return {
            "n_classes": self.n_classes,
            "symbols": {k: {"hit": s.hit, "erased": s.erased} for k, s in self.symbols.items()},
            "carries": {m: list(s) for m, s in self.carries.items()},
            "content": self.content,
            "context": self.context,
        }

    def _independent(self, seen: Sequence[Symbol]) -> np.ndarray:
        """(C, C + 1, ...): the probability of the values of the symbols, independent given each class."""
        joint = np.ones(self.n_classes)
        for symbol in seen:
            given = self._given_class(symbol)
            joint = joint[..., None] * given.reshape(self.n_classes, *[1] * (joint.ndim - 1), self.n_classes + 1)
        return joint

    def _together(self, seen: Sequence[Symbol]) -> np.ndarray:
        """The same where they are drawn together."""
        joint = np.zeros((self.n_classes, *[self.n_classes + 1] * len(seen)))
        for words, probability in _together(seen):
            for label, wrong in itertools.permutations(range(self.n_classes), 2):
                shown = {"hit": label, "miss": wrong, "erased": ERASED}
                joint[(label, *(shown[w] for w in words))] += probability / (self.n_classes - 1)
        return joint

    def _given_class(self, symbol: Symbol) -> np.ndarray:
        """(C, C + 1): the probability of each value, the last one erased, given each class."""
        n, shown = self.n_classes, 1 - symbol.erased
        table = np.full((n, n + 1), shown * (1 - symbol.hit) / (n - 1))
        table[np.arange(n), np.arange(n)] = shown * symbol.hit
        table[:, n] = symbol.erased
        return table

    def _fates(self, n: int, rng: np.random.Generator) -> list[tuple[bool, tuple[str, ...]]]:
        """n pairs: whether symbols are drawn together, and a word for each of them; in their expected numbers (largest
        remainders), shuffled."""
        symbols = tuple(self.symbols.values())
        chances = [
            {"hit": (1 - s.erased) * s.hit, "miss": (1 - s.erased) * (1 - s.hit), "erased": s.erased} for s in symbols
        ]
        patterns: list[tuple[bool, tuple[str, ...]]] = []
        shares: list[float] = []
        for words in itertools.product(("hit", "miss", "erased"), repeat=len(symbols)):
            patterns.append((False, words))
            shares.append((1 - self.content) * float(np.prod([p[w] for p, w in zip(chances, words)])))
        for words, probability in _together(symbols):
            patterns.append((True, words))
            shares.append(self.content * probability)
        expected = n * np.array(shares)
        counts = np.floor(expected).astype(int)
        counts[np.argsort(counts - expected, kind="stable")[: n - counts.sum()]] += 1
        return [patterns[row] for row in rng.permutation(np.repeat(np.arange(len(patterns)), counts))]

    def _scenes(self, n: int, rng: np.random.Generator) -> list[dict[str, float]]:
        """For each of n items the scene of each modality, uniform in [0, 1)."""
        together, common = rng.random(n) < self.context, rng.random(n)
        found = {m: np.where(together, common, rng.random(n)).tolist() for m in self.carries}
        return [dict(zip(found, values)) for values in zip(*found.values())]


def _together(symbols: Sequence[Symbol]) -> list[tuple[tuple[str, ...], float]]:
    """A word for each symbol, and how probably, where they are drawn together."""
    found = []
    for there, p in _nested([s.erased for s in symbols]):
        for right, q in _nested([1 - s.hit for s in symbols]):
            words = tuple("erased" if not t else "hit" if r else "miss" for t, r in zip(there, right))
            found.append((words, p * q))
    return found


def _nested(thresholds: Sequence[float]) -> list[tuple[tuple[bool, ...], float]]:
    """Which thresholds a number that is uniform in [0, 1) reaches, and how probably."""
    edges = sorted({0.0, *thresholds, 1.0})
    return [(tuple(low >= t for t in thresholds), high - low) for low, high in itertools.pairwise(edges)]
