"""Whether the code and the files that a run is about to use are those that its id stands for. No torch at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmzoo.config.spec import RunSpec
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import Catalogue, Entry, user_classes


def check_identity(catalogue: Catalogue, spec: RunSpec) -> None:
    """Raise MmzooError, naming the file, where a class of the user's own or the files that an encoder starts from have
    changed since the run was planned: its row would hold the numbers of other code under the id of this one."""
    for entry in _entries(catalogue, spec):
        planned = spec.versions.get(entry.id)
        if planned == entry.version:
            continue
        if entry.package == user_classes.PACKAGE:
            raise MmzooError(_edited(entry, planned))
        if planned is not None:
            raise MmzooError(
                f"{entry.id} is of version {entry.version} here, and the run was planned with version {planned}: the same "
                "version of its package is needed wherever runs of one bench are trained."
            )
    for entry, params in _encoders(catalogue, spec):
        if (content := entry.content(params)) is not None and f"{entry.id} {content}" not in spec.versions:
            files = ", ".join(map(str, entry.files(params)))
            raise MmzooError(
                f"the files that encoder {entry.name} starts from are not those that the run was planned with: {files}. Put "
                "the former files back, or run the same command again: runs with the new ones get ids of their own."
            )


def refuse_code(row: Mapping[str, Any], *, trust: bool) -> None:
    """Raise BadValue, naming the file, where a row from a results folder names a Python file anywhere: loading the run would
    execute it, and the folder may be somebody else's. trust: the user has said that the file may be run."""
    named = [file for name in _names(row["spec"]) if (file := user_classes.file_of(name)) is not None]
    if named and not trust:
        raise BadValue(
            f"run {row['run_id']} names code in {named[0]}, and loading it would execute that file. Nothing was executed. Read "
            "the file; if you trust it, pass load_run(..., trust=True) or --trust-code."
        )


def _names(spec: Mapping[str, Any]) -> Iterator[str]:
    """All names of a spec that the catalogue is asked for."""
    yield str(spec.get("dataset", ""))
    yield str(spec["head"])
    yield from (str(part["strategy"]) for part in spec["parts"])
    yield from (
        str(choice[0] if isinstance(choice, list) and choice else choice) for choice in spec["encoders"].values()
    )


def _entries(catalogue: Catalogue, spec: RunSpec) -> Iterator[Entry]:
    yield from (catalogue.get("strategies", part.strategy) for part in spec.parts)
    if spec.floor is None:
        yield catalogue.get("heads", spec.head)
    yield from (entry for entry, _ in _encoders(catalogue, spec))


def _encoders(catalogue: Catalogue, spec: RunSpec) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    yield from ((catalogue.get("encoders", name), params) for name, params in spec.encoders.values())


def _edited(entry: Entry, planned: int | str | None) -> str:
    before = f"{planned:012x}" if isinstance(planned, int) else str(planned)
    file, files = user_classes.file_of(entry.name), user_classes.files(entry.name)
    others = f" or a module that it imports ({', '.join(p.name for p in files[1:])})" if len(files) > 1 else ""
    return (
        f"{file}{others} was edited after this run was planned: its code was {before}, and is {entry.version:012x} now. "
        "Nothing was trained, so that no row contains results of other code. Undo the edit, or run the same command again: "
        "the present code gets its own rows."
    )
