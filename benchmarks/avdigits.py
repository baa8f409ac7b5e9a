"""Spoken and written digits as a data set for studies: FSDD recordings paired with MNIST images of the same digit.

    python benchmarks/avdigits.py FOLDER       # writes FOLDER/pairs.csv and says whether it is the one that was used
    MMZOO_AVDIGITS=FOLDER python benchmarks/which_first.py confirm --datasets avdigits

FOLDER holds recordings/*.wav, the 3,000 recordings of the Free Spoken Digit Dataset (github.com/Jakobovski/
free-spoken-digit-dataset, commit 26eb9aa; 8 kHz, mono), and the two files of the MNIST test set, t10k-*-ubyte.gz. They are
not part of mmzoo and not redistributed; benchmarks that use them are skipped, with a word, where MMZOO_AVDIGITS does not
name the folder. Voice and image of a pair share the digit and nothing else: nobody wrote what he said.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import sys
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from mmzoo.api import BadValue, DataModule
from mmzoo.data.store.splits import hashed_split, split_hash
from mmzoo.io.files import write_bytes

#: sha256 of the pairs that every committed row of avdigits was made with
PAIRS = "8e0611be5dec8eb5d377397c953dd8d33a5afc681ca13759fa1b47fb13e89108"
SAMPLES, BANDS = 8000, 32  # one second at 8 kHz; 32 bands of equal width


def load(*, pairs: int = 1200) -> DataModule:
    """Image (28, 28) and audio (32 bands, 61 frames) of the official split, with the first `pairs` training pairs.

    Pairs are taken by hash, in equal numbers a class; a fifth of them are the slice. Holdout is the `val` part.
    """
    folder = Path(os.environ.get("MMZOO_AVDIGITS", ""))
    if not (folder / "pairs.csv").is_file():
        raise BadValue(
            f"avdigits: no pairs.csv in {folder}. Set MMZOO_AVDIGITS to its folder; python benchmarks/avdigits.py FOLDER "
            "makes it."
        )
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    target = torch.tensor([int(r["label"]) for r in rows])
    items = [f"{r['recording']}+{r['mnist_t10k_index']}" for r in rows]
    parts = {name: [i for i, r in enumerate(rows) if r["split"] == name] for name in ("train", "val", "test")}
    names, labels = [items[i] for i in parts["train"]], [int(target[i]) for i in parts["train"]]
    share = Fraction(pairs, len(parts["train"]))
    cut = hashed_split(names, labels, {"train": share * Fraction(4, 5), "slice": share / 5}, salt="avdigits")
    splits = {
        **{name: [parts["train"][i] for i in cut[name]] for name in ("train", "slice")},
        "holdout": parts["val"],
        "test": parts["test"],
    }
    fitted = splits["train"] + splits["slice"]
    spoken = {name: _spectrogram(folder / "recordings" / name) for name in {r["recording"] for r in rows}}
    inputs = {
        "audio": _scaled(torch.stack([spoken[r["recording"]] for r in rows]), fitted),
        "image": _scaled(_images(folder)[[int(r["mnist_t10k_index"]) for r in rows]], fitted),
    }
    recipe = hashlib.sha256(f"avdigits {pairs} {SAMPLES} {BANDS}".encode()).hexdigest()[:16]
    return DataModule("avdigits", inputs, target, 10, splits, split_hash(items, splits), recipe)


def pairs_csv(recordings: Sequence[str], labels: np.ndarray) -> str:
    """pairs.csv: each recording, sorted by name, with the next two images of its digit, in an order drawn with seed 0.

    No image is used twice. The split is that of FSDD by the number at the end of a name: 0 to 4 are test; 5 to 9 are val here.
    """
    draw = np.random.default_rng(0)
    left = {digit: draw.permutation(np.flatnonzero(labels == digit)).tolist() for digit in range(10)}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["recording", "mnist_t10k_index", "label", "speaker", "split"])
    for name in sorted(recordings):
        digit, speaker, number = name.removesuffix(".wav").split("_")
        split = "test" if int(number) < 5 else "val" if int(number) < 10 else "train"
        writer.writerows([name, left[int(digit)].pop(), digit, speaker, split] for _ in range(2))
    return text.getvalue()


def main(folder: Path) -> None:
    names = [path.name for path in (folder / "recordings").glob("*.wav")]
    file = folder / "t10k-labels-idx1-ubyte.gz"
    if not names or not file.is_file():
        sys.exit(
            f"avdigits: {folder} needs recordings/*.wav of FSDD and {file.name} of MNIST: see the top of benchmarks/avdigits.py"
        )
    with gzip.open(file) as packed:
        text = pairs_csv(names, np.frombuffer(packed.read(), np.uint8, offset=8))
    write_bytes(folder / "pairs.csv", text.encode())
    same = hashlib.sha256(text.encode()).hexdigest() == PAIRS
    print(f"{folder / 'pairs.csv'}: {'the pairs' if same else 'NOT the pairs'} of the committed rows")


def _images(folder: Path) -> torch.Tensor:
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28) / 255.0).float()


def _spectrogram(path: Path) -> torch.Tensor:
    """Log power in bands of equal width; a recording is cut or filled with silence to one second."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    padded = np.zeros(SAMPLES, np.float32)
    padded[: min(SAMPLES, len(samples))] = samples[:SAMPLES]
    power = (
        torch.stft(torch.from_numpy(padded), 256, 128, window=torch.hann_window(256), center=False, return_complex=True)
        .abs()
        .square()[: 4 * BANDS]
    )
    return power.reshape(BANDS, 4, -1).mean(1).add(1e-6).log()


def _scaled(x: torch.Tensor, fitted: list[int]) -> torch.Tensor:
    """One mean and one deviation for the whole map, of the training items."""
    return (x - x[fitted].mean()) / x[fitted].std()


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
