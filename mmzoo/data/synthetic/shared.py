"""Two or more vector modalities that share a stated amount of their within-class variation, with known Bayes accuracies.

A sample of class y shows in modality m the *content* c_m = s_m h_y + e_m and the *context* t_m, both mixed by a fixed
random rotation. h_1 ... h_C are the corners of a regular simplex in C - 1 dimensions, sqrt(2) apart; e_m and t_m are
standard normal. The modalities are correlated given the class: corr(e_m, e_n) = `content` along every class direction,
corr(t_m, t_n) = `context` along every direction that says nothing of the class. Neither changes the law of a single
modality. `hard` random signs multiply the content of the last modality and are shown beside it: nothing is lost, but
an encoder has to learn their parity before it can read the class.

The content of a set S of modalities has the covariance R = (1 - content) I + content 1 1', so that S is worth one modality
of strength sqrt(s_S' R^-1 s_S), and C equidistant classes of strength d are told apart with probability

    A(d) = integral of phi(z - d) Phi(z)^(C - 1) dz

(orthogonal signals in white noise; Proakis, Digital Communications, section 4.4). Labels that are replaced and
modalities that are missing enter in closed form. No torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: nodes of the quadrature of A(d); its error is below 1e-9 for strengths up to MOST_STRENGTH
NODES = 400
MOST_STRENGTH = 8.0


@dataclass(frozen=True)
class Shared:
    """What is planted.

    Args:
        n_classes: classes, equally frequent.
        strength: modality -> s_m, from 0 (says nothing) to 8.
        content: correlation between modalities along class directions, in [0, 1).
        context: correlation between modalities along the other directions, in [0, 1].
        hard: number of random signs that multiply the content of the last modality.
        context_dim: number of directions that say nothing of the class.
        label_noise: share of labels that are replaced by another class, drawn evenly; in every split.
        missing: probability that a sample lacks a modality, for each by itself; none lacks all.
    """

    n_classes: int
    strength: Mapping[str, float]
    content: float = 0.0
    context: float = 0.0
    hard: int = 0
    context_dim: int = 16
    label_noise: float = 0.0
    missing: float = 0.0

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.strength)

    def bayes(self, modalities: Iterable[str]) -> float:
        """The accuracy of the Bayes rule that sees these modalities of each sample, where the sample has them."""
        asked = set(modalities)
        clean = 0.0
        for there, probability in self._patterns():
            clean += probability * self._clean(tuple(m for m in there if m in asked))
        n, noise = self.n_classes, self.label_noise
        return (1 - noise) * clean + noise * (1 - clean) / (n - 1)

    def all_bayes(self) -> dict[str, float]:
        """`a`, `b`, `a+b` ... -> Bayes accuracy, for every subset of the modalities in their order."""
        every = self.modalities
        subsets = itertools.chain.from_iterable(itertools.combinations(every, n) for n in range(1, len(every) + 1))
        return {"+".join(subset): self.bayes(subset) for subset in subsets}

    def _clean(self, seen: Sequence[str]) -> float:
        """The accuracy on samples that have exactly the modalities `seen`, labels not replaced."""
        if not seen:
            return 1 / self.n_classes
        s = np.array([self.strength[m] for m in seen])
        covariance = np.full((len(s), len(s)), self.content) + (1 - self.content) * np.eye(len(s))
        return simplex_accuracy(math.sqrt(s @ np.linalg.solve(covariance, s)), self.n_classes)

    def _patterns(self) -> list[tuple[tuple[str, ...], float]]:
        """Which modalities a sample may have, each with its probability."""
        every, lost = self.modalities, self.missing
        some = 1 - lost ** len(every)
        return [
            (there, (1 - lost) ** len(there) * lost ** (len(every) - len(there)) / some)
            for n in range(1, len(every) + 1)
            for there in itertools.combinations(every, n)
            if lost or n == len(every)
        ]

    def draw(self, n: int, seed: int) -> Drawn:
        """n samples. Each ingredient has a stream of its own, so that a knob changes nothing but what it is about."""
        names, classes = self.modalities, self.n_classes
        target = _stream(seed, "label").permutation(np.arange(n) % classes)
        corners = simplex(classes)
        noise = self._correlated(n, classes - 1, self.content, seed, "content")
        scene = self._correlated(n, self.context_dim, self.context, seed, "context")
        signs = _stream(seed, "signs").choice([-1.0, 1.0], (n, self.hard))
        latent, inputs = {}, {}
        for m in names:
            latent[m] = self.strength[m] * corners[target] + noise[m]
            flip = signs if m == names[-1] else signs[:, :0]
            shown = np.concatenate([latent[m] * flip.prod(1, keepdims=True), scene[m]], 1)
            inputs[m] = np.concatenate([shown @ _rotation(shown.shape[1], seed, m), flip], 1)
        return Drawn(self._relabelled(target, seed), inputs, latent, self._present(n, seed))

    def _correlated(self, n: int, dims: int, correlation: float, seed: int, name: str) -> dict[str, np.ndarray]:
        """modality -> (n, dims) standard normal; each pair of modalities has the correlation in each place."""
        common = _stream(seed, name).standard_normal((n, dims))
        return {
            m: math.sqrt(correlation) * common
            + math.sqrt(1 - correlation) * _stream(seed, name, m).standard_normal((n, dims))
            for m in self.modalities
        }

    def _relabelled(self, target: np.ndarray, seed: int) -> np.ndarray:
        rng = _stream(seed, "label noise")
        replaced = rng.random(len(target)) < self.label_noise
        shift = rng.integers(1, self.n_classes, len(target))
        return np.where(replaced, (target + shift) % self.n_classes, target)

    def _present(self, n: int, seed: int) -> np.ndarray | None:
        """(n, M) bool; None where nothing is missing."""
        if not self.missing:
            return None
        patterns = self._patterns()
        chosen = _stream(seed, "missing").choice(len(patterns), n, p=[p for _, p in patterns])
        table = np.array([[m in there for m in self.modalities] for there, _ in patterns])
        return table[chosen]


@dataclass(frozen=True)
class Drawn:
    """target: (n,). inputs: modality -> (n, D_m), as encoders see them. latent: modality -> (n, C - 1), the content
    before signs and rotation, for tests. present: (n, M) bool, or None when nothing is missing."""

    target: np.ndarray
    inputs: Mapping[str, np.ndarray]
    latent: Mapping[str, np.ndarray]
    present: np.ndarray | None


def simplex(n_classes: int) -> np.ndarray:
    """(C, C - 1): the corners of a regular simplex around zero, sqrt(2) apart (the Helmert contrasts)."""
    rows = np.zeros((n_classes - 1, n_classes))
    for k in range(1, n_classes):
        rows[k - 1, :k], rows[k - 1, k] = 1.0, -k
        rows[k - 1] /= math.sqrt(k * (k + 1))
    return rows.T


def simplex_accuracy(strength: float, n_classes: int) -> float:
    """A(d): how often the nearest of C equidistant corners, `strength` * sqrt(2) apart, is the right one in white noise."""
    from scipy.special import ndtr

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    z = 9.0 * nodes  # the density beyond nine deviations is below 1e-18
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float(9.0 * np.sum(weights * density * ndtr(z + strength) ** (n_classes - 1)))


def _stream(seed: int, *names: str) -> np.random.Generator:
    import hashlib

    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _rotation(dims: int, seed: int, modality: str) -> np.ndarray:
    """(dims, dims): a random orthogonal matrix; signs of the columns are fixed so that it is one on every machine."""
    q, r = np.linalg.qr(_stream(seed, "rotation", modality).standard_normal((dims, dims)))
    return q * np.sign(np.diag(r))
