"""Which rows may be compared: unlike rows of one data set get headings of their own. No torch at import.

Rows are comparable where the content of the data, the split, the recipe, the encoders, the training budget, the choice of the
epoch, the number of threads and what packages have replaced of torch are the same. Across headings there is no best, no difference and no test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.training.config import TUNED

Row = Mapping[str, Any]

#: parameters below which a model trains on one thread, unless the number is given: its rows and those of larger models are
#: alike although they name other numbers
SMALL = 1_000_000
_UNKNOWN = None
#: what is said of each fact
_WORDS = {
    "content": "other content of the data",
    "recipe": "another recipe of the data",
    "split": "another split of the data",
    "encoder": "other encoders",
    "budget": "another training budget",
    "selection": "another choice of the epoch",
    "threads": "another number of threads",
    "replaced": "functions of torch replaced by a package",
}


@dataclass
class Heading:
    """Rows that may be compared. facts: what they share, by name."""

    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def differs(self, facts: Mapping[str, Any]) -> list[str]:
        """The names of the facts in which a row is not like these rows."""
        return [k for k, v in facts.items() if k in self.facts and self.facts[k] != v]


def separated(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows with unlike ones under other names of their data set, and a note for each such name."""
    found, notes = [], []
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        first, *others = _headings([r for r in rows if r["dataset"] == dataset])
        found += first.rows
        if (names := first.facts.get("replaced", "[]")) != "[]":
            why = "a package replaced functions of torch while its runs were made, which may move every row"
            notes.append(f"{dataset}: {why}: {_short(names, 300)}.")
        for n, other in enumerate(others, 2):
            words = ", ".join(dict.fromkeys(_WORDS[k.partition(" ")[0]] for k in first.differs(other.facts)))
            name = f"{dataset} ({n}: {words or 'unlike'})"
            found += [{**row, "dataset": name} for row in other.rows]
            notes.append(f"{name} is not compared with {dataset}: its runs have {_spelt(first, other)}.")
    return found, notes


def _headings(rows: Sequence[Row]) -> list[Heading]:
    """The rows of one data set by heading, the one with the most rows first. A row of one modality, or of a linear baseline,
    stands under every heading that it fits."""
    found: list[Heading] = []
    # What is known of a row decides first: one without scores says little of itself.
    for row in sorted(rows, key=lambda r: (r["status"] != "ok", r["modality"] is not None, is_floor(r))):
        facts = facts_of(row)
        fitting = [h for h in found if not h.differs(facts)]
        several = is_floor(row) or row["modality"] is not None
        if not fitting:
            found.append(Heading({}))
            fitting = found[-1:]
        for heading in fitting if several else fitting[:1]:
            heading.facts = {**facts, **heading.facts}
            heading.rows.append(row)
    return sorted(found, key=lambda h: -len(h.rows))


def facts_of(row: Row) -> dict[str, Any]:
    """What rows must share to be compared, by name; facts that the row does not know are left out."""
    spec, hashes, environment = row["spec"], row.get("hashes", {}), row["environment"]
    facts: dict[str, Any] = {
        "content": spec["data_params"],
        "recipe": hashes.get("recipe"),
        "split": hashes.get("split"),
    }
    if not is_floor(row):
        facts |= {f"encoder {m}": encoder for m, encoder in spec["encoders"].items()}
        facts["budget"] = budget_of(row)
        facts["selection"] = spec.get("selection", "holdout")
    if row["status"] == "ok" and not is_floor(row):
        facts["replaced"] = environment.get("replaced", [])
        parameters = row["cost"].get("parameters")
        if environment.get("device", "cpu") == "cpu" and parameters is not None:
            facts["threads small" if parameters < SMALL else "threads large"] = environment.get("threads")
    return {k: json.dumps(v, sort_keys=True) for k, v in facts.items() if v is not _UNKNOWN}


def _spelt(first: Heading, other: Heading) -> str:
    return "; ".join(
        f"{_WORDS[k.partition(' ')[0]]} ({k.partition(' ')[2] or k}: {_short(other.facts[k])}, not {_short(first.facts[k])})"
        for k in first.differs(other.facts)
    )


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


#: how `still_improving` begins where the chosen epoch is one of the last
LATE = "the chosen epoch is among the last tenth"


def is_floor(row: Row) -> bool:
    """Whether a row is a linear floor rather than a trained run."""
    return bool(row["spec"].get("floor"))


def budget_of(row: Row) -> Any:
    """What two methods must share to be compared: all of training, or what of it is not tuned and the number of trials."""
    spec = row["spec"]
    if not spec.get("tuning"):
        return spec["training"]
    shared = {k: v for k, v in spec["training"].items() if k not in TUNED}
    return [shared, spec["tuning"]["trials"]]
