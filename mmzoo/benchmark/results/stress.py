"""Scores of a run's model under missing or corrupted modalities, in a file beside its row. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import STRESSES
from mmzoo.errors import CorruptFile
from mmzoo.io.json_file import NotJson, checksum_fault, read_json, write_sealed
from mmzoo.io.schema import NUMBER, TEXT, Form, items, misfit, number, one_of, or_null, whole

Row = Mapping[str, Any]
Record = dict[str, Any]

NAME = "stress.json"
#: raised when the same model may score otherwise, since levels or corruptions changed
VERSION = 1
_SHARE = or_null(number(0, 1))
_FORM: Form = {
    "version": whole(1),
    "weights": TEXT,
    "curves": items(
        {
            "stress": one_of(*STRESSES),
            "modality": TEXT,
            "corruption": TEXT,
            "strength": whole(0),
            "level": NUMBER,
            "acc": _SHARE,
            "macro_f1": _SHARE,
            "map": _SHARE,
        }
    ),
}


def read_stress(row: Row, store: Store) -> list[Record]:
    """The curves of a run, as `write_stress` keeps them.

    Returns:
        One record a point: stress, modality, corruption, strength (0 for the data as it is), level, and acc, macro_f1 and map,
        which are None where the answers are not finite. Nothing where the run was not put under stress, or by another version.

    Raises:
        CorruptFile: The file is damaged, or of other weights than the row.
    """
    path = store.folder(row["run_id"]) / NAME
    try:
        found = read_json(path)
        fault = misfit(found, _FORM) or checksum_fault(found)
    except FileNotFoundError:
        return []
    except (OSError, NotJson) as error:
        fault = str(getattr(error, "strerror", None) or error)
    if not fault and found["weights"] != row["hashes"].get("weights"):
        fault = "it is of other weights than the row beside it"
    if fault:
        raise CorruptFile(
            f"the scores under stress {path} cannot be used: {fault}. Delete the file and run the same bench again with --stress: "
            "it scores that run only."
        )
    return list(found["curves"]) if found["version"] == VERSION else []


def has_stress(row: Row, store: Store) -> bool:
    """Whether there is a file of curves beside a row, usable or not."""
    return (store.folder(row["run_id"]) / NAME).is_file()


def write_stress(row: Row, store: Store, curves: Sequence[Record]) -> None:
    """Keep the curves of a run. Raises MmzooError with the next step where the disk does not take them."""
    value = {"version": VERSION, "weights": row["hashes"]["weights"], "curves": list(curves)}
    with store.guard():
        write_sealed(store.folder(row["run_id"]) / NAME, value)
