"""Small tables of a user's own, with pictures, texts and numbers that tell two classes apart."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = {"=cat": ("meow", "purr", "whisker"), "dog": ("bark", "fetch", "tail")}


def write_table(folder: Path, *, n: int = 60, kind: str = "image", missing: int = 0) -> Path:
    """The manifest of a table with a modality of some kind and a text, and beside it new.csv with the same rows without labels
    and in the same order. missing: each so many-th row lacks the first modality; 0: none."""
    draw = random.Random(0)
    rows = []
    for k in range(n):
        label = list(WORDS)[k % 2]
        first = [f"{draw.gauss(k % 2, 0.3):.4f}", f"{draw.gauss(-(k % 2), 0.3):.4f}"]
        if kind == "image":
            level = 40 if k % 2 else 200
            Image.fromarray(np.full((8, 8, 3), [level, draw.randrange(255), 90], np.uint8)).save(folder / f"p{k}.png")
            first = [f"p{k}.png"]
        if missing and k % missing == 0:
            first = [""] * len(first)
        text = " ".join(draw.choice((*WORDS[label], "the")) for _ in range(5))
        rows.append((f"@item{k}", label, *first, text))
    columns = ["picture"] if kind == "image" else ["x", "y"]
    for name, skip in (("items.csv", -1), ("new.csv", 1)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            for row in [("name", "label", *columns, "title"), *rows]:
                writer.writerow([cell for i, cell in enumerate(row) if i != skip])
    body = "{kind: image, column: picture, size: 8}" if kind == "image" else "{kind: vector, columns: [x, y]}"
    manifest = folder / "own.yaml"
    manifest.write_text(
        f"name: own\ntable: items.csv\nid: name\nmodalities:\n  first: {body}\n  words: {{kind: text, column: title}}\n"
    )
    return manifest
