"""Names of data sets, and the files that the options of `mmzoo data` name. No torch at import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.config.datasets import is_manifest, is_table, table_given
from mmzoo.errors import BadValue, UnknownName
from mmzoo.registry.elsewhere import hint
from mmzoo.registry.plugins import catalogue

if TYPE_CHECKING:
    from mmzoo.data.sources.source import Source
    from mmzoo.registry import Entry


def source_of(text: str) -> Source:
    """The source of a data set or of a manifest. Raises UnknownName for another name, BadValue for a faulty manifest."""
    if is_manifest(text):
        from mmzoo.data.own.manifest import own_entry

        own: Source = own_entry(Path(text), catalogue()).load()
        return own
    return _published(catalogue().get("datasets", text)) if catalogue().has("datasets", text) else _nobody(text)


def _published(entry: Entry) -> Source:
    if not entry.extra.get("prepared"):
        raise BadValue(
            f"{entry.name} comes with {entry.package}: there is nothing to prepare. See: mmzoo show {entry.name}"
        )
    made: Source = entry.load()()
    return made


def _nobody(text: str) -> Any:
    names = [e.name for e in catalogue().entries("datasets")]
    if is_table(text):
        raise table_given(text)
    own = " A manifest of your own ends in .yaml." if Path(text).exists() else ""
    raise UnknownName(f"no data set {text!r}.{hint('datasets', text, names)}{own} List all: mmzoo data list")


def files_of(arguments: argparse.Namespace, source: Source) -> tuple[Path, Path | None, str | None]:
    """The folder to read, the folder of split lists, and the recipe, as they are asked for. Raises BadValue."""
    if arguments.jobs is not None and not 0 <= arguments.jobs <= 4096:
        raise BadValue(f"--jobs must be between 0 and 4096, not {arguments.jobs}.")
    root = _root(arguments, source)
    if arguments.splits in source.splits and not Path(arguments.splits).is_dir():
        raise BadValue(
            f"--splits {arguments.splits}: --splits is the folder of the split lists. All splits are prepared together; a bench "
            f"chooses one: --set {source.name}.split={arguments.splits}."
        )
    splits = None if arguments.splits is None else _folder(arguments.splits, "--splits")
    return root, splits, arguments.recipe or _usual_recipe(arguments.data, root)


def _root(arguments: argparse.Namespace, source: Source) -> Path:
    """The folder to prepare from: as given, a manifest's own, or the twin's where that is all there is."""
    from mmzoo.data.store.home import mini_root

    own = source.root
    if own is not None:
        if arguments.root is not None:
            raise BadValue(f"{arguments.data} defines where its files are (root); leave --root out.")
        return Path(own)
    twin = mini_root(source.name)
    wants_mini = getattr(arguments, "mini", False)
    if arguments.root is not None and not wants_mini:
        return _folder(arguments.root, "--root")
    if arguments.root is not None:
        raise BadValue("--mini is the synthetic set below MMZOO_HOME; leave out either --mini or --root.")
    if twin.is_dir():
        if not wants_mini:
            print(f"No --root: using the synthetic set in {twin}. Its rows will be marked (mini).")
        return twin
    if wants_mini:
        raise BadValue(f"there is no synthetic set in {twin}. Generate it first: mmzoo data mini {source.name}")
    raise BadValue(
        f"where are the files of {source.name}? Name their folder: mmzoo data prepare {source.name} --root DIR. It looks like "
        f"this:\n{indented(source.layout)}\n{source.obtain}\nOr generate a small synthetic set: mmzoo data mini {source.name}"
    )


def _folder(text: str, option: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise BadValue(f"{option} {text}: {'that is a file' if path.exists() else 'there is no such folder'}.")
    return path.absolute()


def _usual_recipe(text: str, root: Path) -> str | None:
    """The recipe of a data set unless another is asked for: of its twin, the one that the catalogue names for it."""
    from mmzoo.data.store.choice import as_mini
    from mmzoo.data.store.home import is_mini

    if is_manifest(text):
        return None
    entry = catalogue().get("datasets", text)
    return str((as_mini(entry) if is_mini(root) else entry).defaults()["recipe"])


def indented(text: str, by: int = 2) -> str:
    return "\n".join(" " * by + line for line in text.strip("\n").splitlines())
