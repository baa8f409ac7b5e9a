"""Annotation files of the five data sets, written for a test."""

from __future__ import annotations

from pathlib import Path

from mmzoo.data.sources.source import FAULTS, File, Item, Listing


def by_id(listing: Listing) -> dict[str, Item]:
    found = {i.id: i for i in listing.items}
    assert len(found) == len(listing.items)
    return found


def faults(listing: Listing) -> list[tuple[str, str | None, str]]:
    assert {f.kind for f in listing.faults} <= set(FAULTS)
    return [(f.kind, f.item, f.where) for f in listing.faults]


def path_of(item: Item, modality: str) -> Path:
    media = item.media[modality]
    assert isinstance(media, File)
    return media.path


# ---------------------------------------------------------------------- made-up files of the same form
def ks_lists(root: Path) -> Path:
    (root / "my_train.txt").write_text("-0_ab-cdEFg_000058_000068,10,4\nabc_efgh_jk_000001_000011,10,30\n")
    (root / "my_test.txt").write_text("-zzzz_zzzzz_2,10,23\n")
    return root


def cremad_lists(root: Path, train: str = "", test: str = "") -> Path:
    root.mkdir(exist_ok=True)
    (root / "train.csv").write_text("1001_IEO_NEU_XX,NEU\n1074_TIE_HAP_LO,HAP\n" + train)
    (root / "test.csv").write_text("1091_WSI_ANG_XX,ANG\n" + test)
    return root


def sarcasm_files(root: Path, train: str) -> Path:
    (root / "text").mkdir(exist_ok=True)
    (root / "text" / "train.txt").write_bytes(train.encode("utf-8", "surrogateescape"))
    (root / "text" / "valid2.txt").write_text("['21', 'fine \u2028 words', 0, 1]\r\n", encoding="utf-8", newline="")
    (root / "text" / "test2.txt").write_text("['31', 'a joke', 1, 0]", encoding="utf-8")
    return root


def twitter_files(root: Path, rows: list[str]) -> Path:
    header = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n"
    for stem in ("train", "dev"):
        (root / f"{stem}.tsv").write_text(header + '1\t2\t17_06.jpg\tRT @ x : $T$ "is\tAnna\n', encoding="utf-8")
    (root / "test.tsv").write_text("index\t#1 ImageID\t#2 String\t#2 String\n" + "".join(rows), encoding="utf-8")
    return root
