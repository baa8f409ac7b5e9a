"""mmzoo predict: the classes of new rows by a trained model; mmzoo predictions: those of the test samples as CSV."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict the classes of new table rows with a trained model",
        description="Reads a CSV table with the columns of the training data, without labels. Files, texts and numbers "
        "are preprocessed as in training. The run must have kept its weights (bench --keep-weights); its data is not "
        "needed. Writes CSV: id, predicted class, and the probability of each class.",
    )
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        nargs="+",
        help="DIR/runs/ID, or DIR and ID; DIR if only one of its runs kept weights; or a folder from mmzoo export",
    )
    add("table", metavar="NEW.csv", help="table of new rows; leave the cells of a missing modality empty")
    add("-o", "--out", metavar="FILE", help="write to FILE instead of the standard output")
    add("--root", metavar="DIR", help="the folder that paths in the table are relative to (default: that of the table)")
    add("--on-bad", choices=("error", "drop"), default="error", help="what to do with unreadable rows (default: error)")
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="number of decoding processes; 0: decode in the main process (default: one per core)",
    )
    add("--trust-code", action="store_true", help="execute the Python files that the run names, if their hash matches")
    parser.set_defaults(command=run)

    parser = commands.add_parser(
        "predictions",
        help="write the test predictions of all runs as CSV",
        description="One line for each run and test sample: run, data set, method, seed, id, true class, predicted class, and the "
        "probability of each class.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder given to bench as --out")
    parser.add_argument("--csv", metavar="FILE", help="write to FILE instead of the standard output")
    parser.set_defaults(command=run_predictions)


def run(arguments: argparse.Namespace) -> int:
    """Score the rows and write them. What is noted about rows goes to stderr."""
    from mmzoo.benchmark.applied import find_run
    from mmzoo.benchmark.pretrained import from_pretrained, is_pretrained
    from mmzoo.benchmark.trained import load_run

    if len(arguments.run) > 2:
        raise BadValue(
            f"RUN is DIR/runs/ID, or DIR and ID, then the table: {len(arguments.run) + 1} arguments were given."
        )
    if arguments.jobs is not None and arguments.jobs < 0:
        raise BadValue(f"--jobs must be 0 or more, not {arguments.jobs}.")
    root = None if arguments.root is None else Path(arguments.root)
    if root is not None and not root.is_dir():
        raise BadValue(f"there is no folder {root}: --root is the folder that paths in the table are relative to.")
    if len(arguments.run) == 1 and is_pretrained(arguments.run[0]):  # a folder of mmzoo export
        trained = from_pretrained(arguments.run[0])
    else:
        trained = load_run(find_run(*arguments.run), trust=arguments.trust_code)
    found = trained.predict_rows(Path(arguments.table), root=root, drop=arguments.on_bad == "drop", jobs=arguments.jobs)
    header = ["id", "predicted", *(f"probability:{name}" for name in found.classes)]
    answers = zip(found.ids, found.predicted, found.scores.tolist(), strict=True)
    _write([header], ([i, name, *(f"{p:.6g}" for p in scores)] for i, name, scores in answers), arguments.out)
    for note in found.notes:
        print(f"mmzoo: {note}", file=sys.stderr)
    return 0


def run_predictions(arguments: argparse.Namespace) -> int:
    """Write the predictions of every run that has some. Those that cannot be read are named, and the exit code is then 2."""
    from mmzoo.benchmark.results.exported import header_of, lines_of
    from mmzoo.benchmark.results.store import Store

    store = Store(Path(arguments.folder))
    rows, errors = store.rows()
    rows = [row for row in rows if row["status"] == "ok"]
    if not rows and not errors:
        raise BadValue(
            f"there are no finished runs in the folder {arguments.folder}: name what was given to bench as --out."
        )
    header, classes, faults = header_of(rows, store)
    _write([header], lines_of(rows, store, classes), arguments.csv)
    for error in [*errors, *faults]:
        print(f"mmzoo: {error}", file=sys.stderr)
    return 2 if errors or faults else 0


def _write(header: Sequence[Sequence[Any]], rows: Iterable[Sequence[Any]], out: str | None) -> None:
    from mmzoo.io.csv_file import write_rows
    from mmzoo.io.files import write_bytes

    if out is None:
        write_rows(sys.stdout, header)
        write_rows(sys.stdout, rows)
        return
    text = io.StringIO()
    write_rows(text, header)
    write_rows(text, rows)
    try:
        write_bytes(Path(out), text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise BadValue(f"cannot write {out}: {error.strerror or error}. Name another file.") from None
    print(f"mmzoo: wrote {out}", file=sys.stderr)
