"""Stores that are prepared, killed and changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from helpers.small_dataset import Toy
from mmzoo.data.preparing.prepare import Prepared, prepare


def made(root: Path, on_bad: Sequence[str] | None = None, jobs: int = 0, **more: object) -> Prepared:
    return prepare(Toy(), root, jobs=jobs, on_bad=on_bad, sync_every=0.0, **more)  # type: ignore[arg-type]


def prepare_in_a_process(root: str, home: str) -> None:
    import os

    os.environ["MMZOO_HOME"] = home
    prepare(Toy(), Path(root), jobs=0, sync_every=0.0)
