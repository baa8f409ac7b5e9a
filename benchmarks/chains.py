"""Writes which strategies can be chained, and why others cannot: results/chains.md.

    python benchmarks/chains.py

Every pair of strategies of mmzoo and of the packages under plugins/, each with its default parameters, by what their entries
declare. A test compares the file with what this gives, and the entries with the classes.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from mmzoo.registry import BUILT_IN, Catalogue, Entry, built_in_path, read_entries
from mmzoo.training.compatibility import HeadFacts, Needs, unmet

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "chains.md"
CHAINS = "+"
#: what a letter of the matrix means
REASONS = {
    "S": "one of them is the whole of a method",
    "T": "both replace the loss of the task",
    "B": "both replace the backward pass",
    "P": "both replace the decision",
    "D": "both choose the samples",
    "F": "both act after training",
    "H": "no head serves both",
    "M": "no number of modalities suits both",
}
#: in this order the first that holds is named
OWNED = {"task": "T", "backward": "B", "data": "D", "predict": "P", "finish": "F"}


def read_catalogue() -> Catalogue:
    """What mmzoo and the packages under plugins/ ship, read from their files: none has to be installed."""
    entries = read_entries(built_in_path(), BUILT_IN)
    for path in sorted(ROOT.glob("plugins/*/*/registry.yaml")):
        entries += read_entries(path, path.parents[1].name)
    return Catalogue(entries)


def strategies(catalogue: Catalogue) -> list[Entry]:
    """The strategies in order, plain training aside: it chains with everything."""
    return sorted((e for e in catalogue.entries("strategies") if e.name != "plain"), key=lambda e: e.name)


def verdict(catalogue: Catalogue, a: Entry, b: Entry) -> str:
    """CHAINS, or a key of REASONS."""
    if a.extra.get("solo") or b.extra.get("solo"):
        return "S"
    both = set(a.extra.get("owns", ())) & set(b.extra.get("owns", ()))
    for what, letter in OWNED.items():
        if what in both:
            return letter
    assert not both, both
    low = max(_limits(a)[0], _limits(b)[0])
    if low > min(_limits(a)[1], _limits(b)[1]):
        return "M"
    return CHAINS if heads(catalogue, a, low) & heads(catalogue, b, low) else "H"


def heads(catalogue: Catalogue, strategy: Entry, n: int) -> set[str]:
    """The heads that give a strategy what it asks for, of n modalities."""
    found = set()
    for entry in catalogue.entries("heads"):
        facts = (bool(entry.extra.get(k)) for k in ("additive", "evidential", "couples", "mean_gates"))
        head = HeadFacts(entry.name, entry.extra["how"], *facts)
        if next(unmet(Needs(strategy.name, frozenset(strategy.requires)), head, n, processes=1), None) is None:
            found.add(entry.id)
    return found


def _limits(entry: Entry) -> tuple[int, int]:
    limits = entry.extra.get("modalities", {})
    return limits.get("min", 1), limits.get("max") or 99


def document() -> str:
    """The file."""
    catalogue = read_catalogue()
    every = strategies(catalogue)
    cells = {frozenset((a.name, b.name)): verdict(catalogue, a, b) for a, b in combinations(every, 2)}
    width = max(len(e.name) for e in every)
    lines = [f"{'':{width + 3}} {' '.join(f'{i:2}' for i in range(1, len(every) + 1))}"]
    for i, a in enumerate(every, 1):
        row = " ".join(f" {'.' if a is b else cells[frozenset((a.name, b.name))]}" for b in every)
        lines.append(f"{i:2} {a.name:{width}} {row}")
    counts = {letter: sum(v == letter for v in cells.values()) for letter in (CHAINS, *REASONS)}
    legend = [
        f"- `{CHAINS}` {counts[CHAINS]} pairs can be chained: `mmzoo bench --method A+B`, where needed `A+B@HEAD`."
    ]
    legend += [f"- `{k}` {counts[k]}: {words}." for k, words in REASONS.items() if counts[k]]
    return "\n".join(
        [
            "# Which strategies can be chained",
            "",
            f"Every pair of the {len(every)} strategies with default parameters, by `python benchmarks/chains.py`. A window, "
            "`A:0-50%+B:50%-100%`, changes nothing here. What chains is not therefore of use together: that is for a bench to say.",
            "",
            *legend,
            "",
            "```",
            *(line.rstrip() for line in lines),
            "```",
            "",
        ]
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    RESULT.write_text(document(), encoding="utf-8")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
