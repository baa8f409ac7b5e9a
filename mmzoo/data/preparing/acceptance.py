"""What is wrong with the items of a data set, and what becomes of each: kept, dropped, blanked, or no store. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.data.preparing.listing import Listed
from mmzoo.data.sources.faults import KEEPABLE, summary, write_report
from mmzoo.data.sources.source import Fault, Item
from mmzoo.errors import BadValue

#: what decoding noted of one item: its `faults`, each (modality, kind, message, usable), and `hashes` by modality
Note = Mapping[str, Any]


#: what a refusal before decoding adds
UNDECODED = (
    "Files were only looked for: nothing is decoded yet, and decoding may find more. mmzoo data check, with the same --root, "
    "decodes every file and reports all faults at once.\n"
)


@dataclass
class Judge:
    """The faults of a data set as they are found, under one policy. name: of the data set. root: where its files lie.
    report: where the faults are written to. listed: sample -> its modalities, of those that could be listed."""

    name: str
    root: Path
    policy: Mapping[str, str]
    report: Path
    faults: list[Fault] = field(default_factory=list)
    listed: dict[str, frozenset[str]] = field(default_factory=dict)

    def admitted(self, items: Sequence[Item]) -> list[Item]:
        """The items that are to be decoded: without those that are known to be faulty and to be dropped."""
        alike: dict[frozenset[str], frozenset[str]] = {}
        self.listed = {i.id: alike.setdefault(own := frozenset(i.media), own) for i in items}
        self.refuse_errors(items, decoded=False)
        kept = self.kept(items)
        if not kept:
            raise self.nothing_left()
        return kept

    def kept(self, items: Sequence[Item]) -> list[Item]:
        """The items that no fault so far drops. Of a collision only the second is left out, and that is not listed."""
        dropped = {f.item for f, action in self.verdicts() if action == "drop" and f.kind != "collision"}
        return [i for i in items if i.id not in dropped]

    def verdicts(self) -> list[tuple[Fault, str]]:
        """The faults and what becomes of each.

        Blank and absent act on one modality of a sample. A fault of the whole sample, or of a row that gave none, drops
        it, and so does the absence of all of its modalities.
        """
        found = [(f, self.policy[f.kind]) for f in self.faults]
        absent: dict[str, set[str]] = {}
        for f, action in found:
            if action == "absent" and f.item is not None and f.modality is not None:
                absent.setdefault(f.item, set()).add(f.modality)
        gone = {item for item, lacks in absent.items() if lacks >= self.listed.get(item, frozenset())}
        return [
            (f, "drop" if action in ("blank", "absent") and (f.item in gone or not self._of_modality(f)) else action)
            for f, action in found
        ]

    def _of_modality(self, fault: Fault) -> bool:
        return fault.modality is not None and fault.modality in self.listed.get(fault.item or "", ())

    def refuse_errors(self, items: Sequence[Item], *, decoded: bool = True) -> None:
        """Write the report. Raises BadValue where a fault is an error under the policy. items: those that could be listed;
        of others only the fault is known. decoded: whether the files were read, or only looked for."""
        judged = self.judged()
        write_report(self.report, judged)
        if errors := [(f, a) for f, a in judged if a == "error"]:
            touched = len({f.item for f, _ in errors if f.item}) or len(errors)
            kinds = sorted({f.kind for f, _ in errors})
            n = len({i.id for i in items} | {f.item for f, _ in judged if f.item})
            raise BadValue(
                f"{self.name}: {touched:,} of {n:,} samples ({100 * touched / max(n, 1):.1f} %) cannot be used as they are:\n"
                + "\n".join(f"  {line}" for line in summary(errors))
                + f"\nAll of them: {self.report}\n"
                + ("" if decoded else UNDECODED)
                + _advice(kinds)
            )

    def judged(self) -> list[tuple[Fault, str]]:
        """The faults and what becomes of each, told without the folder that the data lies in."""
        return [
            (dataclasses.replace(f, where=below(f.where, self.root), message=below(f.message, self.root)), action)
            for f, action in self.verdicts()
        ]

    def nothing_left(self) -> BadValue:
        """The error that every item is dropped."""
        told = " ".join(summary(self.judged()))
        return BadValue(f"{self.name}: no sample is left. {told} All of it: {self.report}")

    def note_decoded(self, listed: Listed, items: Sequence[Item], notes: Sequence[Note]) -> None:
        """Add what decoding found, beside what was known before. notes: see `found_in`."""
        known = {(f.item, f.modality) for f in self.faults}
        for fault, usable in zip(found_in(items, notes), _usable(notes)):
            if (fault.item, fault.modality) in known:
                continue
            if self.policy[fault.kind] == "keep" and not usable:
                fault = dataclasses.replace(
                    fault, kind="broken", message=f"{fault.message} (nothing can be kept of it)"
                )
            self.faults.append(fault)
        self.faults += duplicates(listed, items, notes)

    def blanked(self) -> list[str]:
        """The kinds of faults that leave something to be stored, and shall be zeros all the same."""
        return [kind for kind in KEEPABLE if self.policy[kind] in ("blank", "absent")]

    def absent(self) -> set[tuple[str | None, str | None]]:
        """(sample, modality) of what counts as missing."""
        return {(f.item, f.modality) for f, action in self.verdicts() if action == "absent"}


def found_in(items: Sequence[Item], notes: Sequence[Note]) -> list[Fault]:
    """The faults that decoding noted."""
    return [
        Fault(kind, message, item.id, modality, item.where)
        for item, note in zip(items, notes)
        for modality, kind, message, _ in note["faults"]
    ]


def _usable(notes: Sequence[Note]) -> list[bool]:
    """For each fault that decoding noted, whether there is content all the same."""
    return [bool(usable) for note in notes for *_, usable in note["faults"]]


def duplicates(listed: Listed, items: Sequence[Item], notes: Sequence[Note]) -> list[Fault]:
    """Items whose files have the content of an earlier item's, unless it is the very same file."""
    first: dict[tuple[str, str], Item] = {}
    faults = []
    for item, note in zip(items, notes):
        for modality, found in note["hashes"].items():
            other = first.setdefault((modality, found), item)
            if other.media[modality] != item.media[modality]:
                message = f"the same content as that of {other.id}" + listed.difference(item, other)
                faults.append(Fault("duplicate", message, item.id, modality, item.where))
    return faults


def _advice(kinds: Sequence[str]) -> str:
    lines = []
    if "missing" in kinds:
        lines.append(
            "--allow-missing leaves out samples whose files are not there (web videos disappear; few copies are "
            "complete). --on-bad missing=absent keeps them, without the modality that is missing."
        )
    if "untrained" in kinds:
        lines.append(
            "A class without a training sample cannot be learned: correct the label, or the split, or leave it out with "
            "--on-bad untrained=drop."
        )
    if "range" in kinds:
        lines.append("--on-bad range=keep stores them as they are.")
    lines.append(
        "Decide with mmzoo data prepare: --on-bad drop leaves all of these samples out, --on-bad blank puts zeros in "
        "place of the modality, --on-bad absent treats the modality as missing (both drop a sample that is faulty as a "
        f"whole), and --on-bad {kinds[0]}=drop decides for one kind."
    )
    return "\n".join(lines)


def below(where: str, root: Path) -> str:
    """A place without the folder that the data lies in: a store does not depend on it."""
    return where.replace(str(root) + os.sep, "").replace(os.sep, "/")
