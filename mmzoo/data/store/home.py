"""Where prepared data lies: everything is below MMZOO_HOME. No torch, no numpy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmzoo.data.sources.source import Recipe, Source

#: at the top of a generated twin of a data set; says generator version, seed and Bayes accuracies
MARKER = "MMZOO-MINI.json"


def home() -> Path:
    """MMZOO_HOME, else the platform's folder for a user's data. It need not exist.

    A relative one is that of the folder in which this process first asks; workers, which may run elsewhere, are told so.
    """
    if given := os.environ.get("MMZOO_HOME"):
        path = Path(given).expanduser()
        if not path.is_absolute():
            path = path.absolute()
            os.environ["MMZOO_HOME"] = str(path)
        return path
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "mmzoo"


def stores(name: str, *, mini: bool = False) -> Path:
    """The folder of all stores of a data set; those of a generated twin lie apart from real ones."""
    return home() / ("mini-stores" if mini else "stores") / name


def store_folder(source: Source | type[Source], recipe: Recipe, *, mini: bool) -> Path:
    """Where the store of a recipe lies. Sources of one name that say where they come from have stores of their own."""
    place = f"-{source.place}" if source.place else ""
    return stores(source.name, mini=mini) / f"{recipe.name}-{recipe.hash[:8]}{place}"


def mini_root(name: str) -> Path:
    """Where `mmzoo data mini` puts the generated twin of a data set, in its published layout."""
    return home() / "mini" / name


def is_mini(root: Path) -> bool:
    return (root / MARKER).is_file()


def store_folders(name: str, *, mini: bool = False) -> Iterator[Path]:
    """The finished stores of a data set, by name."""
    folder = stores(name, mini=mini)
    if folder.is_dir():
        yield from sorted(p.parent for p in folder.glob("*/meta.json") if p.parent.suffix not in (".part", ".old"))
