"""A trained model applied to new rows of a table, as `mmzoo predict` does it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmzoo.benchmark.execution.artifacts import TOKENIZERS
from mmzoo.benchmark.results.store import WEIGHTS, Store
from mmzoo.data.fields.rebuilt import rebuilt
from mmzoo.data.loading.transforms import transform_for
from mmzoo.data.own.cells import Wanted
from mmzoo.data.own.new_rows import Decoded, NewRow, decoded, given_rows, read_rows
from mmzoo.data.sources.field import Field
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.benchmark.trained import Trained

#: faults of rows that are shown one by one
MOST_FAULTS = 10
#: runs that a message names
MOST_RUNS = 10


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows.

    Args:
        ids: Their ids, (B,): the cells of the column of ids; `line N` or `row N` where there is none.
        classes: The names of the classes, (C,).
        scores: (B, C) the probability of each class, by the method's decision rule.
        notes: What is worth knowing about rows, in words: those left out, and modalities that are missing.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: np.ndarray
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"Predictions({len(self.ids)} rows, {len(self.classes)} classes)"

    @property
    def predicted(self) -> tuple[str, ...]:
        """The name of the class with the highest probability, for each row."""
        return tuple(self.classes[int(i)] for i in self.scores.argmax(1))


def find_run(given: str, run_id: str | None = None) -> Path:
    """The folder of a run.

    Args:
        given: `DIR/runs/ID`, `DIR/ID`, or DIR where one of its runs alone has kept weights.
        run_id: The id of the run in DIR, or the beginning of one.

    Raises:
        BadValue: There is no such run, or several.
    """
    path = Path(given)
    if run_id is None and not (path / "runs").is_dir():
        if path.parent.name == "runs" and path.is_dir():
            return path
        path, run_id = path.parent, path.name
    if not (path / "runs").is_dir():
        raise BadValue(
            f"there is no run {given}: name DIR/runs/ID, or DIR and ID, where DIR was given to bench as --out."
        )
    ids = Store(path).run_ids()
    if run_id is not None:
        found = [i for i in ids if i == run_id] or [i for i in ids if i.startswith(run_id)]
        if len(found) != 1:
            raise _no_such_run(path, run_id, found)
        return path / "runs" / found[0]
    kept = [i for i in ids if (path / "runs" / i / WEIGHTS).is_file()]
    if len(kept) != 1:
        what = f"{len(kept)} runs with weights" if kept else "no run that kept its weights (bench --keep-weights)"
        raise BadValue(f"{path} has {what}: name one by its id (mmzoo runs {path}).")
    return path / "runs" / kept[0]


def _no_such_run(path: Path, given: str, begin: Sequence[str]) -> BadValue:
    """The error for a word that is the id of no run, or of several. Of a method it names the runs."""
    if begin:
        some = ", ".join(begin[:MOST_RUNS]) + (" ..." if len(begin) > MOST_RUNS else "")
        return BadValue(f"several runs begin with {given!r} in {path}: {some}. Write more of the id.")
    rows = [r for r in Store(path).rows()[0] if given in (r["label"], r["label"].partition("[")[0])]
    if not rows:
        return BadValue(f"no run begins with {given!r} in {path}. List all with their ids: mmzoo runs {path}")
    kept = [r for r in rows if (path / "runs" / r["run_id"] / WEIGHTS).is_file()]
    named = "; ".join(
        f"{r['run_id']} ({r['label']} on {r['dataset']}, seed {r['seed']})" for r in (kept or rows)[:MOST_RUNS]
    )
    more = f"; and {len(kept or rows) - MOST_RUNS} more" if len(kept or rows) > MOST_RUNS else ""
    lacking = (
        "" if kept else " None of them kept its weights: the same bench with --keep-weights trains them once more."
    )
    return BadValue(f"{given!r} is a method, and a run is named by its id. Its runs in {path}: {named}{more}.{lacking}")


def fields_of(trained: Trained) -> dict[str, Field]:
    """modality -> the fitted field that reads it.

    Raises:
        BadValue: Nothing says how the inputs of the model were made.
    """
    preparation = trained.form.preparation
    if preparation is None:
        raise BadValue(
            f"{trained.form.dataset} is made by code, and nothing says how the columns of a table become its inputs. Give the "
            "model prepared arrays: mmzoo.load_run(...).predict({modality: array})."
        )
    found = {}
    for m in trained.form.modalities:
        values = preparation.fields.get(m)
        if values is None:
            raise BadValue(f"nothing says how modality {m!r} is read.")
        try:
            found[m] = rebuilt(values, _tokenizer(trained, m, str(values.get("tokenizer", ""))))
        except BadValue as error:
            raise BadValue(f"modality {m!r} cannot be read: {error}") from None
    return found


def _tokenizer(trained: Trained, modality: str, name: str) -> Path | None:
    kept = trained.folder / TOKENIZERS / modality
    if (kept / "tokenizer.json").is_file():
        return kept
    if name.startswith("sha256:"):
        raise BadValue(f"its tokenizer is not kept beside the weights: {kept / 'tokenizer.json'} is missing.")
    return None


def predict_rows(
    trained: Trained, given: Any, *, root: Path | None = None, drop: bool = False, jobs: int | None = None
) -> Predictions:
    """Score raw rows; see `Trained.predict_rows`.

    Args:
        trained: The model.
        given: The path of a CSV table, or mappings of column to cell.
        root: The folder that paths are relative to; None: that of the table, or the current one.
        drop: Leave out rows that cannot be read.
        jobs: Worker processes that decode; None: one a core.

    Raises:
        BadValue: A column is missing, or rows cannot be read and `drop` is not given.
    """
    fields = fields_of(trained)
    rows = _read(trained, given, fields, root)
    ids: list[str] = []
    scores = [np.zeros((0, trained.form.n_classes), np.float32)]
    faults: list[str] = []
    notes: list[str] = []
    lacking = dict.fromkeys(fields, 0)
    for chunk in decoded(rows, fields, jobs=os.cpu_count() or 1 if jobs is None else jobs):
        good = [i for i, found in enumerate(chunk.faults) if not found]
        faults += [text for found in chunk.faults for text in found]
        notes += [text for found in chunk.notes for text in found]
        for i in good:
            for m, there in zip(fields, chunk.present[i]):
                lacking[m] += not there
        if good:
            ids += [chunk.rows[i].id for i in good]
            scores.append(_scores(trained, chunk, good, fields))
    if faults and not drop:
        more = f"\n  and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        listed = "".join(f"\n  {text}" for text in faults[:MOST_FAULTS])
        of = f" of {given}" if isinstance(given, (str, Path)) else ""
        raise BadValue(
            f"{len(faults)} row{'' if len(faults) == 1 else 's'}{of} cannot be read; --on-bad drop (in Python: drop=True) leaves them out:{listed}{more}"
        )
    notes = [f"left out: {text}" for text in faults] + notes
    if not trained.form.partial:
        notes += [
            f"{n} row{' lacks' if n == 1 else 's lack'} {m}, which every sample of the training data had; the prediction is "
            "made from the other modalities"
            for m, n in lacking.items()
            if n
        ]
    return Predictions(tuple(ids), trained.form.class_names, np.concatenate(scores), tuple(notes))


def _read(trained: Trained, given: Any, fields: Mapping[str, Field], root: Path | None) -> list[NewRow]:
    """The rows, read as the table of the training data was."""
    preparation = trained.form.preparation
    assert preparation is not None
    wanted = {
        m: Wanted(
            f.kind,
            tuple(preparation.columns.get(m, [m])),
            preparation.levels.get(m, {}),
            getattr(f, "fill", None) is not None,
        )
        for m, f in fields.items()
    }
    id_column = preparation.id or "id"
    if not isinstance(given, (str, Path)):
        return given_rows(given, wanted, id_column=id_column, root=root)
    return read_rows(
        Path(given),
        wanted,
        id_column=id_column,
        delimiter=preparation.delimiter,
        quotes=preparation.quotes,
        root=root,
    )


def _scores(trained: Trained, chunk: Decoded, good: list[int], fields: Mapping[str, Field]) -> np.ndarray:
    """(len(good), C) probabilities of the rows that could be read."""
    preparation = trained.form.preparation
    reading = {} if preparation is None else {k: v for k, v in preparation.reading.items() if k in ("frames", "size")}
    inputs = {}
    for m, f in fields.items():
        raw = {part: torch.from_numpy(array[good]) for part, array in chunk.arrays[m].items()}
        transform = transform_for(f.kind, {part: tuple(t.shape[1:]) for part, t in raw.items()}, **reading)
        inputs[m] = transform(raw[""] if list(raw) == [""] else raw, None)
    present = torch.tensor([chunk.present[i] for i in good])
    out = trained.predict(inputs, "all" if bool(present.all()) else present)
    found: np.ndarray = out.scores.float().cpu().numpy()
    return found
