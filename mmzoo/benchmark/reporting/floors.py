"""Linear floors in the tables: their lines, and which trained rows lie below theirs. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mmzoo.benchmark.reporting.groups import Group, Row, main_score
from mmzoo.benchmark.reporting.tables import Cell
from mmzoo.benchmark.results.comparable import LATE, is_floor


def floors_of(rows: Sequence[Row], dataset: str) -> list[Row]:
    """The floors of a data set: of each modality in the order of their run, then of all joined."""
    found = {r["run_id"]: r for r in rows if is_floor(r) and r["dataset"] == dataset}
    return sorted(found.values(), key=lambda r: (r["modality"] is None, r["modality"] or ""))


def floor_lines(floors: Sequence[Row], columns: Mapping[str, Callable[[Row], str]], dash: str) -> list[list[Cell]]:
    """A line of the table for each floor. columns: every column -> its text for a row that has scores."""
    return [
        [Cell(r["label"]), *(Cell(get(r) if r["status"] == "ok" else dash) for get in columns.values())] for r in floors
    ]


def floor_notes(floors: Sequence[Row]) -> list[str]:
    """What the floors are, each with the penalty that the validation set chose."""
    if not floors:
        return []
    notes = [f"{r['label']}: {r['status']}, {r['reason']}" for r in floors if r["status"] != "ok"]
    said = [
        f"{r['label']}: {'; '.join(dict.fromkeys(r['floor']['features'].values()))} (C = {r['floor']['strength']:g})"
        for r in floors
        if r["status"] == "ok"
    ]
    if said:
        notes.append(
            "Floors: logistic regression on fixed features of the same training samples, its penalty chosen on the "
            f"validation set. {'. '.join(said)}."
        )
    return notes


def below_notes(groups: Sequence[Group], floors: Sequence[Row]) -> list[str]:
    """The trained rows whose mean lies below the floor of what they see, and what to change."""
    known = {r["modality"]: r for r in floors if r["status"] == "ok"}
    notes = []
    for group in groups:
        floor = known.get(group.rows[0]["modality"], known.get(None) if len(known) == 1 else None)
        reached = group.spread(main_score)
        if floor is None or not reached.n or group.rows[0]["spec"].get("spare_slice"):
            continue
        short = main_score(floor) - reached.mean
        if short <= 0:
            continue
        error = math.sqrt(max(reached.mean * (1 - reached.mean), 1e-4) / floor["metrics"]["n_scored"])
        certain = "" if short > error else ", within the sampling error of the test set"
        notes.append(
            f"{group.label} is BELOW ITS FLOOR by {100 * short:.1f} points ({floor['label']}: "
            f"{100 * main_score(floor):.1f}{certain}). {_cure(group)}"
        )
    return notes


def _cure(group: Group) -> str:
    """What to change first in a configuration that a linear model beats."""
    spec = group.rows[0]["spec"]
    t = spec["training"]
    if any(reason.startswith(LATE) for r in group.rows for reason in r.get("still_improving") or ()):
        return f"It was still improving: train longer (--epochs {2 * t['epochs']})."
    encoders = ", ".join(f"{m}: {name}" for m, (name, _) in spec["encoders"].items())
    return (
        f"Tune its rate (--tune 20, or --set train.lr=... around {t['lr']:g}), or change the encoder ({encoders}): "
        "--encoders MODALITY=NAME, pretrained where there is one (mmzoo list encoders)."
    )
