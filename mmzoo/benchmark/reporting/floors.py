"""Linear floors in the tables: their lines, and which trained rows lie below theirs. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mmzoo.benchmark.reporting.groups import Group, Row, at, main_score, sampling_error
from mmzoo.benchmark.reporting.tables import Cell
from mmzoo.benchmark.results.comparable import is_floor
from mmzoo.data.own.defaults import LEAST_STEPS, steps_for


def floors_of(rows: Sequence[Row], dataset: str) -> list[Row]:
    """The floors of a data set: of each modality in the order of their run, then of all joined."""
    found = {r["run_id"]: r for r in rows if is_floor(r) and r["dataset"] == dataset}
    return sorted(found.values(), key=lambda r: (r["modality"] is None, r["modality"] or ""))


def shown(floor: Row) -> str:
    """How tables call a floor: `linear baseline: words`, or `linear baseline` for all modalities joined."""
    return f"linear baseline: {floor['modality']}" if floor["modality"] else "linear baseline"


def floor_lines(floors: Sequence[Row], columns: Mapping[str, Callable[[Row], str]], dash: str) -> list[list[Cell]]:
    """A line of the table for each floor. columns: every column -> its text for a row that has scores."""
    return [
        [Cell(shown(r)), *(Cell(get(r) if r["status"] == "ok" else dash) for get in columns.values())] for r in floors
    ]


def floor_notes(floors: Sequence[Row]) -> list[str]:
    """What the floors are, each with the penalty that the validation set chose."""
    if not floors:
        return []
    notes = [f"{shown(r)}: {r['status']}, {r['reason']}" for r in floors if r["status"] != "ok"]
    said = [
        f"{shown(r)}: {'; '.join(dict.fromkeys(r['floor']['features'].values()))} (C = {r['floor']['strength']:g})"
        for r in floors
        if r["status"] == "ok"
    ]
    if said:
        notes.append(
            "Linear baselines: logistic regression on fixed features of the same training samples, its penalty chosen on the "
            f"validation set. {'. '.join(said)}."
        )
    return notes


def below_notes(groups: Sequence[Group], floors: Sequence[Row]) -> list[str]:
    """The trained rows whose mean lies below the floor of what they see, and what to change. Those within the sampling error of the
    test set are called level with it."""
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
        why = _too_short(group)
        advice = f"Train longer first (--epochs {longer(groups)}): {', and '.join(why)}." if why else ""
        its_floor = f"{shown(floor)}: {100 * main_score(floor):.1f}"
        if short <= sampling_error(reached.mean, floor["metrics"]["n_scored"]):
            said = f"level with its linear baseline ({its_floor}; {100 * short:.1f} points are within the sampling error of the test set)."
            notes.append(f"{group.label} is {said} {advice}".rstrip())
        else:
            said = f"BELOW ITS LINEAR BASELINE by {100 * short:.1f} points ({its_floor})."
            notes.append(f"{group.label} is {said} {advice or _cure(group)}")
    return notes


def longer(groups: Sequence[Group]) -> int:
    """Epochs to train for, where that may help any of the groups: one number for a table, so that its rows stay comparable."""
    return max((_wanted(g) for g in groups if g.spread(main_score).n and _too_short(g)), default=0)


def _wanted(group: Group) -> int:
    """Twice the epochs where a run was still improving, and at least those of LEAST_STEPS steps."""
    epochs: int = group.rows[0]["spec"]["training"]["epochs"]
    doubled = 2 * epochs if any(r.get("still_improving") for r in group.rows) else epochs
    return max(doubled, math.ceil(LEAST_STEPS / _steps(group)))


def _too_short(group: Group) -> list[str]:
    """Why training was too short, in words; nothing where it was long enough."""
    epochs, why = group.rows[0]["spec"]["training"]["epochs"], []
    if any(r.get("still_improving") for r in group.rows):
        why.append("it was still improving")
    if _steps(group) * epochs < LEAST_STEPS:
        why.append(f"it took {_steps(group) * epochs:,} steps, fewer than {LEAST_STEPS:,}")
    return why


def _steps(group: Group) -> int:
    """Optimizer steps of an epoch."""
    return steps_for(group.spread(at("cost", "train_items")).mean, group.rows[0]["spec"]["training"]["batch_size"])


def _cure(group: Group) -> str:
    """What to change first in a configuration that a linear model beats although it trained long enough."""
    spec = group.rows[0]["spec"]
    t = spec["training"]
    encoders = ", ".join(f"{m}: {name}" for m, (name, _) in spec["encoders"].items())
    return (
        f"Tune its rate (--tune 20, or --set train.lr=... around {t['lr']:g}), or change the encoder ({encoders}): "
        "--encoders MODALITY=NAME, pretrained where there is one (mmzoo list encoders)."
    )
