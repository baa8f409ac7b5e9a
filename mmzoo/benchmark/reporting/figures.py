"""Figures from rows: critical-difference diagram, scores by seed, alpha by epoch. matplotlib is imported when drawing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.reporting.comparison import rank_methods
from mmzoo.benchmark.reporting.groups import METRICS, Group, Row, grouped, main_metric, main_score
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import read_bytes, write_bytes

FORMS = ("pdf", "svg")


def draw_figures(rows: Sequence[Row], bench: Mapping[str, Any], store: Store, folder: Path) -> list[Path]:
    """Write every figure that the rows allow, each in FORMS; the files.

    Raises MmzooError where matplotlib is not installed, BadValue where the folder cannot be written.
    """
    figure = _new_figure()
    drawn: dict[str, Any] = {}
    per_dataset: dict[str, list[Group]] = {}
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        groups = grouped([r for r in rows if r["dataset"] == dataset], bench["methods"])
        scored = [g for g in groups if g.by_seed(main_score)]
        per_dataset[dataset] = [g for g in scored if not g.alone]
        if scored:
            drawn[f"seeds-{dataset}"] = _seeds(figure, dataset, scored)
        if curves := _alpha_curves(scored, store):
            drawn[f"alpha-{dataset}"] = _alpha(figure, dataset, curves)
    if ranked := rank_methods(per_dataset):
        labels, datasets, found = ranked
        drawn["critical-difference"] = _critical_difference(figure, labels, found.ranks, found.critical, len(datasets))
    files = []
    for name, built in drawn.items():
        for form in FORMS:
            path = folder / f"{re.sub(r'[^A-Za-z0-9_=,-]+', '_', name)}.{form}"
            _write(built, path, form)
            files.append(path)
    return files


def _new_figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MmzooError(f"figures need matplotlib ({error}). Install it: pip install 'mmzoo[figures]'") from None
    return Figure


def _write(figure: Any, path: Path, form: str) -> None:
    """Without dates and random ids, so that the same rows give the same file."""
    import io

    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmzoo", "svg.fonttype": "none", "pdf.fonttype": 42}):
        stamp = {"Date": None} if form == "svg" else {"CreationDate": None}
        figure.savefig(buffer, format=form, bbox_inches="tight", metadata=stamp)
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise BadValue(f"cannot write {path}: {error.strerror or error}. Name another folder with --figures.") from None


def _seeds(figure: Any, dataset: str, groups: Sequence[Group]) -> Any:
    """Every seed as a dot, the mean as a bar: what a mean and a deviation hide."""
    built = figure(figsize=(6.4, 0.9 + 0.3 * len(groups)))
    axes = built.add_subplot()
    for y, group in enumerate(reversed(groups)):
        values = [100 * v for v in group.by_seed(main_score).values()]
        axes.plot(values, [y] * len(values), "o", color="tab:blue" if not group.alone else "tab:gray", alpha=0.6)
        axes.plot([sum(values) / len(values)], [y], "|", color="black", markersize=14)
    axes.set_yticks(range(len(groups)), [_plain(g.label) for g in reversed(groups)])
    axes.set_xlabel(f"test {METRICS[main_metric(groups)]} in %, one dot a seed")
    axes.set_title(_plain(dataset))
    axes.grid(axis="x", alpha=0.3)
    return built


def _alpha_curves(groups: Sequence[Group], store: Store) -> dict[str, dict[int, list[float]]]:
    """`method: what` -> seed -> its value by epoch, for everything that a strategy logs as NAME/alpha."""
    found: dict[str, dict[int, list[float]]] = {}
    for group in groups:
        for row in (r for r in group.rows if r["status"] == "ok"):
            names = [name for name in row.get("record", {}) if name.endswith("/alpha")]
            history = _history(store, row) if names else []
            for name in names:
                values = [epoch["train"].get(name, math.nan) for epoch in history]
                found.setdefault(f"{group.label}: {name}", {})[row["seed"]] = values
    # What never moves is a parameter, not a course.
    return {k: by_seed for k, by_seed in found.items() if any(len(set(v)) > 1 for v in by_seed.values())}


def _history(store: Store, row: Row) -> list[dict[str, Any]]:
    path = store.folder(row["run_id"]) / "history.jsonl"
    try:
        read = [json.loads(line) for line in read_bytes(path).decode("utf-8").splitlines()]
        if not all(
            isinstance(r["train"], dict) and all(isinstance(v, (int, float)) for v in r["train"].values()) for r in read
        ):
            raise ValueError("an epoch without numbers")
        return read
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(
            f"the history {path} cannot be used: {error}. Move the folder {path.parent.name} away and run the same "
            "bench again: it repeats that run only."
        ) from None


def _alpha(figure: Any, dataset: str, curves: Mapping[str, Mapping[int, Sequence[float]]]) -> Any:
    built = figure(figsize=(6.4, 3.6))
    axes = built.add_subplot()
    for i, (label, by_seed) in enumerate(curves.items()):
        for n, values in enumerate(by_seed.values()):
            axes.plot(range(len(values)), values, color=f"C{i}", alpha=0.7, label=_plain(label) if not n else None)
    axes.set_xlabel("epoch, one line a seed")
    axes.set_ylabel("alpha")
    axes.set_title(_plain(dataset))
    axes.legend(fontsize="small")
    return built


def _critical_difference(figure: Any, labels: Sequence[str], ranks: Sequence[float], critical: float, n: int) -> Any:
    """Average ranks on an axis; a bar joins methods that are not told apart (Demsar, JMLR 2006)."""
    from mmzoo.benchmark.reporting.significance import cliques

    order, k = sorted(range(len(ranks)), key=lambda i: ranks[i]), len(ranks)
    groups = cliques(ranks, critical)
    rows = (k + 1) // 2
    built = figure(figsize=(7.2, 1.2 + 0.25 * (rows + len(groups))))
    axes = built.add_subplot()
    axes.set_axis_off()
    axes.plot([1, k], [0, 0], color="black")
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.25], color="black")
        axes.text(tick, 0.4, str(tick), ha="center", va="bottom", fontsize="small")
    axes.plot([1, 1 + critical], [2, 2], color="black", linewidth=2)
    axes.text(1, 2.2, f"critical difference {critical:.2f} at 5 %, {n} data sets", va="bottom", fontsize="small")
    for level, members in enumerate(groups):
        spread = [ranks[i] for i in members]
        axes.plot([min(spread) - 0.04, max(spread) + 0.04], [-0.5 - 0.5 * level] * 2, color="tab:blue", linewidth=4)
    base = -1 - 0.5 * len(groups)
    for place, i in enumerate(order):
        left = place < rows
        y = base - (place if left else k - 1 - place)
        x, side = (1 - 0.3, "right") if left else (k + 0.3, "left")
        axes.plot([ranks[i], ranks[i], x], [0, y, y], color="gray", linewidth=0.8)
        axes.text(x, y, f" {_plain(labels[i])} ({ranks[i]:.2f}) ", ha=side, va="center", fontsize="small")
    return built


def _plain(text: str) -> str:
    """A label as it is: `$` would otherwise begin a formula."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
