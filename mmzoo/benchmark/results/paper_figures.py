"""The figures that `mmzoo reproduce` left in a results folder. No torch at import."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmzoo.io.files import read_bytes
from mmzoo.io.json_file import read_json

#: name -> what the figure shows
FIGURES = {
    "fig1": "accuracy of the fused logits and of each branch, by the labels that are fitted",
    "fig2": "features of the modalities in a plane, with the accuracy and the modality gap of each method",
    "fig3": "alpha over the course of training, beside the heuristic 1 - exp(-1/t)",
    "fig4": "Grad-CAM heat maps of the image branch over training",
}
#: bytes of the largest picture that a report shows
LARGEST = 2 << 20


@dataclass(frozen=True)
class PaperFigure:
    """A picture of a figure of the paper.

    Args:
        title: "Figure 1", say.
        shows: What the figure shows.
        caption: What this picture of it shows, a data set say.
        source: The picture as a data URL; empty where it cannot be shown.
        fault: Why it cannot be shown.
        notes: What its makers say about it.
    """

    title: str
    shows: str
    caption: str
    source: str
    fault: str
    notes: tuple[str, ...]


def paper_folder(root: Path) -> Path:
    """Where the documents of `mmzoo reproduce` are, beside the runs of a results folder."""
    return root / "paper"


def read_figures(root: Path) -> list[PaperFigure]:
    """The figures that were made in a results folder, in the order of the paper."""
    found = []
    for name, shows in FIGURES.items():
        told = _told(paper_folder(root) / f"{name}.json")
        pictures = told.get("pictures") or {f"{name}.svg": ""}  # captions are absent in folders of version 0.1
        notes = tuple(map(str, told.get("notes") or ()))
        for i, (file, caption) in enumerate(pictures.items()):
            path = paper_folder(root) / Path(str(file)).name
            if path.exists():
                source, fault = _picture(path)
                about = notes if i == len(pictures) - 1 else ()
                found.append(PaperFigure(f"Figure {name[-1]}", shows, str(caption), source, fault, about))
    return found


def _told(path: Path) -> Mapping[str, Any]:
    """Captions and notes of a figure; empty where there are none."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    pictures, notes = (found.get(k) for k in ("pictures", "notes")) if isinstance(found, dict) else (None, None)
    return {
        "pictures": pictures if isinstance(pictures, dict) else {},
        "notes": notes if isinstance(notes, list) else [],
    }


def _picture(path: Path) -> tuple[str, str]:
    """An SVG file as a data URL, and why there is none. A browser runs no script of an SVG that it loads as an image."""
    try:
        data = read_bytes(path, LARGEST)
    except OSError as error:
        return "", f"{path.name} cannot be shown: {error.strerror or error}"
    if not data.startswith(b"<svg"):
        return "", f"{path.name} cannot be shown: it is not an SVG picture"
    return f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}", ""
