"""Linear floors: logistic regression on fixed features of the same samples. No torch model is trained.

A floor is the baseline without deep learning. Texts become TF-IDF, pictures pooled pixels with colour and gradient
histograms, spectrograms pooled statistics, and vectors stay as they are; all are standardised on the training samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.evaluation.metrics import classification
from mmzoo.functional import in_steps

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: inverse strengths of the L2 penalty that the validation set chooses from, on features of unit mean squared norm
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
#: cells a side of pooled pixels, bins of a colour's histogram, cells a side and orientations of the gradients' histograms
POOLED, COLOURS, CELLS, ORIENTATIONS = 8, 8, 4, 9
#: rows and columns that a spectrogram is averaged to beside its statistics, and pieces that a series is
PATCHES, PIECES = (16, 8), 16
_ITERATIONS = 300

#: kind of a modality -> what its features are, in words that follow "on"
FEATURES: Mapping[str, str] = {
    "text": "TF-IDF of words",
    "image": "pooled pixels, colour and gradient histograms",
    "video": "pooled pixels, colour and gradient histograms, mean and std over frames",
    "spectrogram": "mean, std, least and largest of each band, and pooled cells",
    "vector": "standardised numbers",
    "series": "mean, std, least and largest of each channel, and means of sixteen runs of steps",
}
#: the words for any other kind
OTHER = "mean, std, least and largest along its last axis, and pooled pieces"


def features(kind: str, x: Any) -> np.ndarray:
    """(B, F) float32 features of a batch of one modality, in the form an encoder receives it; not for texts.

    Args:
        kind: kind of input, see `InputSpec`.
        x: the batch.
    """
    if kind == "series":
        x = _series(x["values"].float(), x["mask"].bool())
        kind = "vector"
    x = x.float()
    made: Tensor
    if kind == "vector":
        made = x.flatten(1)
    elif kind == "image":
        made = _picture(x)
    elif kind == "video":
        frames = _picture(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        made = torch.cat([frames.mean(1), frames.std(1, unbiased=False)], 1)
    elif kind == "spectrogram":
        cells = F.adaptive_avg_pool2d(x[:, None], _at_most(PATCHES, x.shape[1:]))
        made = torch.cat([_statistics(x), cells.flatten(1)], 1)
    else:
        x = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
        pieces = F.adaptive_avg_pool1d(x, min(PIECES, x.shape[-1]))
        made = torch.cat([_statistics(x), pieces.flatten(1)], 1)
    found: np.ndarray = made.nan_to_num().cpu().numpy()
    return found


def _series(x: Tensor, mask: Tensor) -> Tensor:
    """Of series (B, C, T), each over the steps that it has."""
    there = mask[:, None]
    n = there.sum(2).clamp_min(1)
    mean = torch.where(there, x, 0.0).sum(2) / n
    std = (torch.where(there, x - mean[..., None], 0.0).square().sum(2) / n).sqrt()
    low, high = torch.where(there, x, torch.inf).amin(2), torch.where(there, x, -torch.inf).amax(2)
    runs = in_steps(torch.where(there, x, 0.0), mask, PIECES).flatten(1)
    return torch.cat([mean, std, low, high, runs], 1).nan_to_num(posinf=0.0, neginf=0.0)


def _statistics(x: Tensor) -> Tensor:
    """Of (B, C, T): mean, std, least and largest of each channel, side by side."""
    return torch.cat([x.mean(-1), x.std(-1, unbiased=False), x.amin(-1), x.amax(-1)], 1)


def _picture(x: Tensor) -> Tensor:
    """Of pictures (B, C, H, W): pooled pixels, histograms of colours, and of orientations in cells (after HOG)."""
    size = x.shape[-2:]
    pixels = F.adaptive_avg_pool2d(x, _at_most((POOLED, POOLED), size)).flatten(1)
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    place = (x - low) / (high - low).clamp_min(1e-6) * (COLOURS - 1)
    colours = torch.stack([(1 - (place - b).abs()).clamp_min(0).mean((-2, -1)) for b in range(COLOURS)], -1)
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    gx = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]
    gy = grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
    strength = (gx**2 + gy**2).sqrt()
    angle = torch.atan2(gy, gx) % torch.pi * (ORIENTATIONS / torch.pi)
    bins = torch.arange(ORIENTATIONS, device=x.device).view(1, -1, 1, 1)
    apart = (angle - bins).abs()
    share = (1 - torch.minimum(apart, ORIENTATIONS - apart)).clamp_min(0)
    edges = F.adaptive_avg_pool2d(strength * share, _at_most((CELLS, CELLS), size)).flatten(1)
    edges = edges / edges.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return torch.cat([pixels, low.flatten(1), high.flatten(1), colours.flatten(1), edges], 1)


def _at_most(wanted: tuple[int, int], size: Sequence[int]) -> tuple[int, int]:
    return min(wanted[0], int(size[0])), min(wanted[1], int(size[1]))


@dataclass(frozen=True)
class Block:
    """One modality of the samples of a split.

    Args:
        values: (N, F) features, or N texts.
        seen: (N,) bool, the samples that have it; the others count as the average sample.
    """

    values: np.ndarray | Sequence[str]
    seen: np.ndarray

    @property
    def text(self) -> bool:
        return not isinstance(self.values, np.ndarray)


@dataclass(frozen=True)
class Samples:
    """The samples of a split: their modalities and their classes (N,).

    Args:
        blocks: modality -> its values.
        target: (N,), the classes.
    """

    blocks: Mapping[str, Block]
    target: np.ndarray

    def some(self) -> Samples:
        """The samples that have at least one modality."""
        seen = np.any([b.seen for b in self.blocks.values()], axis=0)
        kept = {m: Block(_rows(b.values, seen), b.seen[seen]) for m, b in self.blocks.items()}
        return Samples(kept, self.target[seen])


@dataclass(frozen=True)
class Floor:
    """The scores of a floor.

    Args:
        test: metric -> score on the test set.
        validation: metric -> score on the validation set.
        strength: the selected C.
        width: number of features of all modalities together.
        scores: (N, C), scores of the test samples.
    """

    test: Mapping[str, float]
    validation: Mapping[str, float]
    strength: float
    width: int
    scores: Tensor


def linear_floor(train: Samples, validation: Samples, test: Samples, *, n_classes: int, metric: str = "acc") -> Floor:
    """Multinomial logistic regression on the features of `train`, with its strength selected on `validation`.

    Ties go to the lower validation loss, then to the stronger penalty. The test set is scored once, for the selection.

    Args:
        train: training samples.
        validation: validation samples.
        test: test samples.
        n_classes: number of classes C.
        metric: the metric that selects.
    """
    from threadpoolctl import threadpool_limits

    train = train.some()
    scaled = _Scaled(train)
    x, held, tested = scaled(train), scaled(validation), scaled(test)
    best = (-np.inf, -np.inf)
    with threadpool_limits(1):  # the products are small, and other runs want the other cores
        for strength, model in zip(STRENGTHS, _models(x, train.target)):
            validated = _scored(*_answers(model, held, n_classes), validation.target)
            if (rank := (validated[metric], -validated["loss"])) > best:
                best = rank
                chosen = strength, validated, _answers(model, tested, n_classes)
    strength, validated, (scores, logits) = chosen
    return Floor(_scored(scores, logits, test.target), validated, strength, int(x.shape[1]), scores)


def _scored(scores: Tensor, logits: Tensor, target: np.ndarray) -> dict[str, float]:
    return classification(scores, torch.from_numpy(target), logits)


class _Scaled:
    """Features of all modalities side by side, each standardised on the training samples and of unit mean squared norm
    there, so that one strength fits all of them."""

    def __init__(self, train: Samples) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._made: dict[str, Any] = {}
        for m, block in train.blocks.items():
            known = _rows(block.values, block.seen)
            if block.text:
                words = TfidfVectorizer(token_pattern=r"\S+")
                try:
                    words.fit(known)
                except ValueError:  # not a single word
                    continue
                self._made[m] = words
            else:
                x = np.asarray(known, np.float64)
                std = x.std(0)
                width = max(1, int((std > 0).sum()))
                self._made[m] = x.mean(0), np.where(std > 0, std, np.inf) * np.sqrt(width)

    def __call__(self, samples: Samples) -> np.ndarray | csr_array:
        from scipy import sparse

        parts = []
        for m, made in self._made.items():
            block = samples.blocks[m]
            if block.text:
                parts.append(made.transform([t if s else "" for t, s in zip(block.values, block.seen)]))
            else:
                mean, scale = made
                parts.append(np.where(block.seen[:, None], (block.values - mean) / scale, 0.0))
        if not parts:
            return np.zeros((len(samples.target), 1))
        dense = all(isinstance(p, np.ndarray) for p in parts)
        return np.hstack(parts) if dense else sparse.csr_array(sparse.hstack(parts))


def _models(x: Any, target: np.ndarray) -> Iterable[Any]:
    """A fitted model for each of STRENGTHS, each begun where the one before ended; of one class, what always says it."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(target)) < 2:
        yield DummyClassifier(strategy="prior").fit(x, target)
        return
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early is one more penalty, chosen or not
            yield model.fit(x, target)


def _answers(model: Any, x: Any, n_classes: int) -> tuple[Tensor, Tensor]:
    """Probabilities (N, n_classes) and their logarithms; a class that training lacks has no chance."""
    p = torch.zeros(x.shape[0], n_classes, dtype=torch.float64)
    p[:, torch.as_tensor(model.classes_)] = torch.from_numpy(model.predict_proba(x)).double()
    return p, p.clamp_min(1e-12).log()


def _rows(values: np.ndarray | Sequence[str], chosen: np.ndarray) -> Any:
    return values[chosen] if isinstance(values, np.ndarray) else [v for v, c in zip(values, chosen) if c]


def words_for(kind: str) -> str:
    """The features of a kind of modality, in words."""
    return FEATURES.get(kind, OTHER)
