"""The annotation files of the five data sets: counts of the published ones, and made-up files of the same form with every fault."""

from __future__ import annotations

import collections
import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import SHARED, real, write_picture

from mmzoo.data.datasets import nvgesture, sarcasm, twitter2015
from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.datasets.kinetics_sounds import CLASSES, KineticsSounds
from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import FAULTS, File, Files, Item, Listing, Source, Text
from mmzoo.errors import BadValue, MmzooError

SOURCES: tuple[type[Source], ...] = (KineticsSounds, CremaD, Sarcasm, Twitter2015, NVGesture)


def counts(listing: Listing, split: str | None) -> list[int]:
    found = collections.Counter(i.label for i in listing.items if i.split == split)
    return [found[c] for c in range(len(listing.classes))]


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


# ---------------------------------------------------------------------- published files
def test_published_kinetics_sounds() -> None:
    root = real("kinetics_sounds")
    listing = KineticsSounds().list(root, split="ogm")
    assert not listing.faults and list(listing.classes) == (root / "classes31.txt").read_text().split("\n")[:31]
    assert counts(listing, "train") == [
        268,
        690,
        607,
        512,
        497,
        445,
        635,
        478,
        457,
        605,
        563,
        486,
        604,
        592,
        366,
        339,
        333,
        489,
        653,
        538,
        654,
        386,
        281,
        493,
        395,
        672,
        197,
        523,
        433,
        354,
        254,
    ]
    assert counts(listing, "test") == [
        81,
        92,
        87,
        87,
        87,
        68,
        90,
        90,
        86,
        79,
        91,
        88,
        73,
        85,
        86,
        91,
        82,
        84,
        90,
        90,
        83,
        91,
        80,
        92,
        79,
        66,
        85,
        84,
        91,
        76,
        63,
    ]
    items = list(by_id(listing).values())
    assert [(i.id, i.label, i.group) for i in items[:3]] == [
        ("--4-0ihtnBU_000058", 4, "--4-0ihtnBU"),
        ("--6q_33gNew_000132", 27, "--6q_33gNew"),
        ("-00nar1nEPc_000033", 13, "-00nar1nEPc"),
    ]
    assert items[14_799].id == "-3Mwkq-7TV4_000002" and items[14_799].label == 23
    groups = {s: {i.group for i in items if i.split == s} for s in ("train", "test")}
    assert not groups["train"] & groups["test"]


def test_published_kinetics_400(tmp_path: Path) -> None:
    text = (real("kinetics_sounds") / "k400_val_ks31.csv").read_text()
    for name in ("kinetics_train.csv", "validate.csv"):
        (tmp_path / name).write_text(text + "abseiling,0wR5jVB-WPk,417,427,val,0\n")
    listing = KineticsSounds().list(tmp_path, split="k400")
    assert not listing.faults and sum(counts(listing, "test")) == 1544
    assert all(48 <= n <= 50 for n in counts(listing, "test"))


@pytest.mark.parametrize("split", ["ogm", "speaker", "hash"])
def test_published_cremad(split: str) -> None:
    root = real("cremad")
    listing = CremaD().list(root, split=split)
    items = by_id(listing)
    assert len(items) == 7442 and faults(listing) == [("mislabelled", "1064_IEO_DIS_MD", "")]
    assert len({i[:4] for i in items}) == 91
    if split == "ogm":
        assert counts(listing, "train") == [973, 1148, 1131, 1138, 1142, 1166]
        assert counts(listing, "test") == [114, 123, 140, 133, 129, 105]
        assert [(i.id, i.label) for i in listing.items[:3]] == [
            ("1088_IOM_NEU_XX", 0),
            ("1017_IWW_HAP_XX", 1),
            ("1033_ITS_HAP_XX", 1),
        ]
        assert {i.group for i in listing.items} == {None}
        with (root / "media_manifest.csv").open() as file:
            assert {row["clip"] for row in csv.DictReader(file)} == set(items)
    else:
        assert {i.group for i in listing.items} == {i[:4] for i in items}
        sides = {s: {i.group for i in listing.items if i.split == s} for s in ("train", "holdout", "test")}
        assert [len(g) for g in sides.values()] == ([73, 9, 9] if split == "speaker" else [0, 0, 0])


@pytest.mark.parametrize(
    ("filter", "train"), [("tokens", [11_174, 8_642]), ("substring", [11_172, 8_385]), ("none", [14_784, 14_256])]
)
def test_published_sarcasm(filter: str, train: list[int]) -> None:
    listing = Sarcasm().list(real("sarcasm"), filter=filter)
    assert not listing.faults and counts(listing, "train") == train
    assert counts(listing, "holdout") == [1451, 959] and counts(listing, "test") == [1450, 959]
    assert sum(train) == {"tokens": 19_816, "substring": 19_557, "none": 29_040}[filter]
    items = by_id(listing)
    assert all(type(i) is str and i.isdigit() for i in items) and max(map(int, items)) > 2**53
    assert items["840006160660983809"].media["text"] == Text(
        "<user> thanks for showing up for our appointment today . "
    )
    if filter == "tokens":
        assert "9,224 rows" in listing.split_source and "910308516510011393" not in items


def test_published_twitter2015() -> None:
    root = real("twitter2015")
    listing = Twitter2015().list(root)
    assert not listing.faults
    assert [counts(listing, s) for s in ("train", "holdout", "test")] == [
        [368, 1883, 928],
        [149, 670, 303],
        [113, 607, 317],
    ]
    groups = [{i.group for i in listing.items if i.split == s} for s in ("train", "holdout", "test")]
    assert [len(g) for g in groups] == [2101, 727, 674] and not groups[0] & groups[1] | groups[0] & groups[2] | groups[
        1
    ] & groups[2]
    items = by_id(listing)
    assert items["train-1"].media["text"] == Text("RT @ ltsChuckBass : Chuck Bass is everything # MCM", "Chuck Bass")
    assert items["train-2"].label == 1 and items["test-1"].label == 1 and items["test-2"].label == 2
    assert path_of(items["test-1"], "image").name == "74960.jpg"
    for stem in ("train", "dev", "test"):
        table, blocks = (
            dict(read(root / f"{stem}.{suffix}"))
            for read, suffix in ((twitter2015.read_tsv, "tsv"), (twitter2015.read_txt, "txt"))
        )
        assert table.keys() == blocks.keys()
        assert all(isinstance(r, twitter2015.Row) and r.label == blocks[n].label for n, r in table.items())  # type: ignore[union-attr]


@pytest.mark.parametrize("lists", ["v1", "v2"])
def test_published_nvgesture(lists: str) -> None:
    root = real("nvgesture")
    listing = NVGesture().list(root, lists=lists)
    assert not listing.faults and list(listing.classes) == (root / "class_names.txt").read_text().strip().split("\n")
    items = by_id(listing)
    assert [sum(counts(listing, s)) for s in ("train", "test")] == [1050, 482]
    limits = {"v1": (38, 45, 16, 21), "v2": (36, 50, 15, 22)}[lists]
    assert (
        min(counts(listing, "train")),
        max(counts(listing, "train")),
        min(counts(listing, "test")),
        max(counts(listing, "test")),
    ) == limits
    subjects = {
        s: {int((i.group or "").removeprefix("subject")) for i in listing.items if i.split == s}
        for s in ("train", "test")
    }
    assert subjects == {"train": {1, 2, 3, 4, 6, 7, 11, 12, 15, 16, 17, 18}, "test": {5, 8, 9, 13, 14, 20}}
    spans = {(m.end or 0) - (m.start or 0) for i in listing.items for m in i.media.values() if isinstance(m, File)}
    assert spans == {80}
    other = by_id(NVGesture().list(root, lists="v1" if lists == "v2" else "v2"))
    changed = [i for i in items if items[i].label != other[i].label]
    assert [sum(items[i].split == s for i in changed) for s in ("train", "test")] == [15, 8]
    in_folder = [i for i in items if int(i[6:8]) - 1 == items[i].label]
    assert len(in_folder) == 1532 - (23 if lists == "v2" else 0)


# ---------------------------------------------------------------------- made-up files of the same form
def ks_lists(root: Path) -> Path:
    (root / "my_train.txt").write_text("-0_ab-cdEFg_000058_000068,10,4\nabc_efgh_jk_000001_000011,10,30\n")
    (root / "my_test.txt").write_text("-zzzz_zzzzz_2,10,23\n")
    return root


def test_clips_are_found_under_all_their_names(tmp_path: Path) -> None:
    names = [
        "a/tap dancing/-0_ab-cdEFg_000058_000068.mp4",
        "train_wav/abc_efgh_jk.wav",
        "test/-zzzz_zzzzz_000002_000012.mkv",
        "replacement/-0_ab-cdEFg_000058_000068.mp4",
        "train/notes.mp4",
        "test/-zzzz_zzzzz_000099.mp4",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    frames = tmp_path / "train_img" / "Image-01-FPS" / "abc_efgh_jk"
    frames.mkdir(parents=True)
    for i in (10, 9):
        write_picture(frames / f"{i}.jpg")
    items = by_id(KineticsSounds().list(ks_lists(tmp_path), split="ogm"))
    first, second, third = (items[i] for i in ("-0_ab-cdEFg_000058", "abc_efgh_jk_000001", "-zzzz_zzzzz_000002"))
    assert (first.label, second.label, third.label, third.split) == (4, 30, 23, "test")
    assert path_of(first, "video") == path_of(first, "audio") == tmp_path / names[3]
    assert path_of(second, "audio") == tmp_path / names[1]
    assert second.media["video"] == Files((frames / "9.jpg", frames / "10.jpg"))
    assert path_of(third, "video") == tmp_path / names[2]
    for name in names:
        (tmp_path / name).unlink()
    assert path_of(by_id(KineticsSounds().list(tmp_path, split="hash"))[first.id], "audio").name == f"{first.id}.mp4"


def test_faulty_lines_of_kinetics_sounds_are_told(tmp_path: Path) -> None:
    ks_lists(tmp_path)
    bad = [
        "short_1_2,10,3",
        "-0_ab-cdEFg_000058_000068,10,31",
        "../../../../x_1,10,1",
        "-0_ab-cdEFg,10",
        "-0_ab-cdEFg,10,x",
        "-0_ab-cdEFg,10,³",
    ]
    (tmp_path / "my_train.txt").write_text(
        "\ufeff-0_ab-cdEFg_000058_000068,10,4\r\n\r\n" + "\n".join(bad), encoding="utf-8"
    )
    listing = KineticsSounds().list(tmp_path, split="ogm")
    assert faults(listing) == [("annotation", None, f"my_train.txt:{n}") for n in range(3, 9)]
    assert len(listing.items) == 2


def test_other_forms_of_kinetics_sounds(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for side, name in (("train", "tickling"), ("test", "tap dancing")):
        (tmp_path / f"my_{side}_ks.txt").write_text(
            f"-0_{side}aaaaaaa"[:11] + f".mp4 {name}\n-0_ab-cdEFg.mp4 strumming guitar\n"
        )
        (tmp_path / "annotations" / f"{side}.csv").write_text(
            f"label,youtube_id\n{name},{f'-1_{side}aaaaaaa'[:11]}\nstrumming guitar,-0_ab-cdEFg\n"
        )
    for split in ("mla", "njust"):
        listing = KineticsSounds().list(tmp_path, split=split)
        assert [(CLASSES[i.label], i.split) for i in listing.items] == [("tickling", "train"), ("tap dancing", "test")]
        assert [f.kind for f in listing.faults] == ["annotation"] * 2
    for split in ("ogm", "k400", "hash"):
        with pytest.raises(BadValue, match=r"neither in .*--splits DIR"):
            KineticsSounds().list(tmp_path, split=split)


def cremad_lists(root: Path, train: str = "", test: str = "") -> Path:
    root.mkdir(exist_ok=True)
    (root / "train.csv").write_text("1001_IEO_NEU_XX,NEU\n1074_TIE_HAP_LO,HAP\n" + train)
    (root / "test.csv").write_text("1091_WSI_ANG_XX,ANG\n" + test)
    return root


def test_cremad_takes_sound_from_the_recordings_and_pictures_from_what_is_there(tmp_path: Path) -> None:
    cremad_lists(tmp_path)
    for name in ("VideoFlash/1001_IEO_NEU_XX.flv", "VideoMP4/1074_TIE_HAP_LO.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "Image-01-FPS" / "1091_WSI_ANG_XX").mkdir(parents=True)
    write_picture(tmp_path / "Image-01-FPS" / "1091_WSI_ANG_XX" / "00000.jpg")
    for split in ("ogm", "speaker", "hash"):
        items = by_id(CremaD().list(tmp_path, split=split))
        assert [path_of(i, "audio").name for i in items.values()] == [f"{i}.wav" for i in items]
        assert path_of(items["1001_IEO_NEU_XX"], "video").parent.name == "VideoFlash"
        assert path_of(items["1074_TIE_HAP_LO"], "video").suffix == ".mp4"
        assert items["1091_WSI_ANG_XX"].media["video"] == Files((tmp_path / "Image-01-FPS/1091_WSI_ANG_XX/00000.jpg",))
        sides = [i.split for i in items.values()]
        assert (
            sides
            == {"ogm": ["train", "train", "test"], "speaker": ["train", "holdout", "test"], "hash": [None] * 3}[split]
        )


def test_faulty_lines_of_cremad_are_told(tmp_path: Path) -> None:
    train = "1002_IEO_SAD_XX,HAP\n../../etc/passwd,NEU\n1003_IEO_XYZ_XX,XYZ\n1004_IEO_SAD_XX\n"
    listing = CremaD().list(cremad_lists(tmp_path, train), split="ogm")
    assert faults(listing) == [
        ("mislabelled", "1002_IEO_SAD_XX", "train.csv:3"),
        *(("annotation", None, f"train.csv:{n}") for n in (4, 5, 6)),
    ]
    assert by_id(listing)["1002_IEO_SAD_XX"].label == 2
    assert all(
        tmp_path in path_of(i, m).parents and ".." not in str(path_of(i, m)) for i in listing.items for m in i.media
    )


def test_split_lists_may_lie_elsewhere_and_are_asked_for_by_name(tmp_path: Path) -> None:
    lists, root = cremad_lists(tmp_path / "lists"), tmp_path / "root"
    (root / "AudioWAV").mkdir(parents=True)
    with pytest.raises(BadValue, match=r"train\.csv is neither in .*GeWu-Lab/OGM-GE_CVPR2022.*hash"):
        CremaD().list(root, split="ogm")
    assert len(CremaD().list(root, split="ogm", splits_dir=lists).items) == 3
    with pytest.raises(BadValue, match=r"neither SentenceFilenames\.csv nor AudioWAV"):
        CremaD().list(root, split="hash")
    (root / "AudioWAV" / "1001_IEO_NEU_XX.wav").touch()
    assert [i.id for i in CremaD().list(root, split="hash").items] == ["1001_IEO_NEU_XX"]
    (lists / "my_train_cre.txt").write_text("1085_IWL_SAD_XX.flv Sad\n1009_TIE_ANG_XX.flv Anger\n")
    (lists / "my_test_cre.txt").write_text("1059_TSI_HAP_XX.flv Happy\n1001_IEO_NEU_XX.flv Bored\n")
    listing = CremaD().list(root, split="mla", splits_dir=lists)
    assert [(i.id, i.label, i.split) for i in listing.items] == [
        ("1085_IWL_SAD_XX", 2, "train"),
        ("1009_TIE_ANG_XX", 5, "train"),
        ("1059_TSI_HAP_XX", 1, "test"),
    ]
    assert faults(listing) == [("annotation", None, "my_test_cre.txt:2")]


def sarcasm_files(root: Path, train: str) -> Path:
    (root / "text").mkdir(exist_ok=True)
    (root / "text" / "train.txt").write_bytes(train.encode("utf-8", "surrogateescape"))
    (root / "text" / "valid2.txt").write_text("['21', 'fine \u2028 words', 0, 1]\r\n", encoding="utf-8", newline="")
    (root / "text" / "test2.txt").write_text("['31', 'a joke', 1, 0]", encoding="utf-8")
    return root


def test_rows_of_sarcasm_are_literals_and_nothing_is_evaluated(tmp_path: Path) -> None:
    good = "['900719925474099301', \"it's … great\", 1]\r\n['12', 'the \\'joke\\' is', 0]\r\n['13', 'a joke', 1]\r\n['14', 'jokester', 0]\r\n\r\n"
    bad = [
        "['15', 'text']",
        "['16', 'text', 2]",
        "['17', 'text', True]",
        "[18, 'text', 1]",
        "['19/../x', 'text', 1]",
        "['20', 'text', 1",
        "[" * 3000,
        "['22', 'a' * 10, 1]",
        f"__import__('pathlib').Path('{tmp_path}/evil').touch()",
        "\x00",
        "['23', 'text', 1, 1]",
        "\udcff\udcfe",
    ]
    root = sarcasm_files(tmp_path, good + "\r\n".join(bad))
    listing = Sarcasm().list(root)
    assert [(i.id, i.label, i.split) for i in listing.items] == [
        ("900719925474099301", 1, "train"),
        ("12", 0, "train"),
        ("14", 0, "train"),
        ("21", 1, "holdout"),
        ("31", 0, "test"),
    ]
    assert faults(listing) == [("annotation", None, f"train.txt:{n}") for n in range(6, 6 + len(bad))]
    assert not (tmp_path / "evil").exists()
    assert listing.items[0].media == {
        "image": File(tmp_path / "dataset_image/900719925474099301.jpg"),
        "text": Text("it's … great"),
    }
    assert "1 rows of train" in listing.split_source
    assert [i.id for i in Sarcasm().list(root, filter="substring").items] == ["900719925474099301", "21", "31"]
    assert len(Sarcasm().list(root, filter="none").items) == 6
    with pytest.raises(BadValue, match="filter must be one of"):
        Sarcasm().list(root, filter="words")


def twitter_files(root: Path, rows: list[str]) -> Path:
    header = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n"
    for stem in ("train", "dev"):
        (root / f"{stem}.tsv").write_text(header + '1\t2\t17_06.jpg\tRT @ x : $T$ "is\tAnna\n', encoding="utf-8")
    (root / "test.tsv").write_text("index\t#1 ImageID\t#2 String\t#2 String\n" + "".join(rows), encoding="utf-8")
    return root


def test_rows_of_twitter2015_are_read_by_position(tmp_path: Path) -> None:
    good = ["1\t0\t1.jpg\t\"quoted $T$\tO'Neil\n", '2\t1\t1.jpg\tno " end $T$ .\tB\n']
    bad = [
        "3\t3\t1.jpg\ta $T$\tb\n",
        "4\t1\t../1.jpg\ta $T$\tb\n",
        "5\t1\t1.jpg\ta $T$ $T$\tb\n",
        "6\t1\t1.jpg\tnone\tb\n",
        "7\t1\t1.jpg\ta $T$\n",
        "8\t1\t1.jpg\ta $T$\t \n",
    ]
    root = twitter_files(tmp_path, good + bad)
    listing = Twitter2015().list(root)
    items = by_id(listing)
    assert list(items) == ["train-1", "dev-1", "test-1", "test-2"]
    assert faults(listing) == [("annotation", None, f"test.tsv, row {n}") for n in range(3, 9)]
    assert items["test-1"].media["text"] == Text("\"quoted O'Neil", "O'Neil") and items["test-1"].group == "1.jpg"
    assert path_of(items["train-1"], "image") == tmp_path / "twitter2015_images" / "17_06.jpg"
    assert by_id(Twitter2015().list(root, text="replace"))["test-2"].media["text"] == Text('no " end B .')
    assert by_id(Twitter2015().list(root, text="raw"))["test-2"].media["text"] == Text('no " end $T$ .')
    (root / "test.txt").write_text('"quoted $T$\nO\'Neil\n1\n1.jpg\nno " end $T$ .\nB\n0\n1.jpg\n', encoding="utf-8")
    told = [f for f in Twitter2015().list(root).faults if f.kind == "mislabelled"]
    assert [(f.item, f.message) for f in told] == [
        ("test-1", "test.tsv says negative, test.txt positive; the first is used")
    ]
    (root / "test.tsv").unlink()
    assert [i.label for i in Twitter2015().list(root).items] == [2, 2, 2, 1]


def test_rows_of_nvgesture_give_spans_and_labels_of_the_list(tmp_path: Path) -> None:
    row = "path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226 color:sk_color:140:220 duo_left:duo_left:170:263 label:{} "
    bad = [
        row.format(0),
        row.format(26),
        row.format("x"),
        row.replace("class_01", "../.."),
        row.format(1).replace("146:226", "226:146"),
        row.format(1).replace("color:sk_color", "color:/etc/passwd"),
        "label:1",
        row.format(1).replace("226", "226" * 9),
    ]
    (tmp_path / "nvgesture_train_correct_v2.lst").write_text("\n".join([row.format(7), *bad]))
    (tmp_path / "nvgesture_test_correct_cvpr2016_v2.lst").write_text(row.format(25).replace("subject3", "subject20"))
    listing = NVGesture().list(tmp_path)
    train, test = listing.items
    folder = tmp_path / "Video_data/class_01/subject3_r0"
    assert (train.id, train.label, train.group, test.label, test.group) == (
        "class_01/subject3_r0",
        6,
        "subject3",
        24,
        "subject20",
    )
    assert train.media == {
        "rgb": File(folder / "sk_color.avi", 140, 220),
        "depth": File(folder / "sk_depth.avi", 146, 226),
        "flow": File(folder / "sk_color.avi", 140, 220),
    }
    assert faults(listing) == [("annotation", None, f"nvgesture_train_correct_v2.lst:{n}") for n in range(2, 10)]
    wrapped = NVGesture().list(tmp_path, colour="sk_wrapped", flow="stored").items[1]
    assert wrapped.media["rgb"] == File(tmp_path / "Video_data/class_01/subject20_r0/sk_wrapped.avi", 146, 226)
    assert wrapped.media["flow"] == File(tmp_path / "Video_data/flow_data/test/0.npy")
    assert set(NVGesture().list(tmp_path, flow="none").items[0].media) == {"rgb", "depth"}
    with pytest.raises(BadValue, match=r"no nvgesture_train_correct_cvpr2016\.lst"):
        NVGesture().list(tmp_path, lists="v1")
    with pytest.raises(BadValue, match="flow must be"):
        NVGesture().list(tmp_path, flow="tvl1")


# ---------------------------------------------------------------------- for all
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_a_folder_of_something_else_is_refused_with_the_next_step(source: type[Source], tmp_path: Path) -> None:
    assert source.layout and source.obtain and source.splits
    for split in source.splits:
        for root in (tmp_path, tmp_path / "none"):
            with pytest.raises(BadValue) as caught:
                source().list(root, split=split)
            assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_recipes_list_what_they_read(source: type[Source], tmp_path: Path) -> None:
    files = {
        "cremad": cremad_lists,
        "kinetics_sounds": ks_lists,
        "sarcasm": lambda r: sarcasm_files(r, "['1', 'a', 1]\n"),
        "twitter2015": lambda r: twitter_files(r, ["1\t0\t1.jpg\t$T$ .\tA\n"]),
        "nvgesture": nvgesture_files,
    }
    root = files[source.name](tmp_path)  # type: ignore[operator]
    for recipe in source.recipes().values():
        listing = source().list(root, split=next(iter(source.splits)), **recipe.options)
        assert listing.items and all(set(i.media) == set(recipe.fields) for i in listing.items), recipe.name
        assert all(p.exists() for p in listing.sources)


def nvgesture_files(root: Path) -> Path:
    row = "path:./Video_data/class_01/subject3_r0 depth:sk_depth:0:80 color:sk_color:0:80 label:1\n"
    for side in ("train", "test"):
        for name in (n.format(side) for v in nvgesture.LISTS.values() for n in v):
            (root / name).write_text(row.replace("subject3", "subject3" if side == "train" else "subject5"))
    return root


def test_a_list_that_was_not_pulled_or_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadValue, match="git lfs pull"):
        textfiles.lines_of(tmp_path / "a")
    (tmp_path / "b").write_bytes("\ufeffone\r\ntwo\u2028\x85\n".encode() + b"\xff\n")
    assert textfiles.lines_of(tmp_path / "b") == ["one", "two\u2028\x85", "\ufffd"]


PARSERS: tuple[Callable[[str], Any], ...] = (
    lambda line: sarcasm.parsed(line, labels=1),
    lambda line: sarcasm.parsed(line, labels=2),
    nvgesture.parsed,
)
LINES = (
    "['910308516510011393', 'most # funny', 1]",
    "['8', \"it's\", 0, 1]",
    "path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226 color:sk_color:146:226 label:1 ",
)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(LINES), st.integers(0, 80), st.integers(0, 10))
def test_any_line_is_a_row_or_told(inserted: str, line: str, at: int, cut: int) -> None:
    mutant = line[:at] + inserted + line[at + cut :]
    for parse in PARSERS:
        assert parse(mutant)


def test_files_full_of_mutations_are_listed_without_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(0)
    makers = {
        CremaD: cremad_lists,
        KineticsSounds: ks_lists,
        Sarcasm: lambda r: sarcasm_files(r, "\n".join(LINES[:1] * 9)),
        Twitter2015: lambda r: twitter_files(r, ["1\t0\t1.jpg\t$T$ .\tA\n"]),
        NVGesture: nvgesture_files,
    }
    for source, make in makers.items():
        for k in range(8):
            root = tmp_path / f"{source.name}{k}"
            root.mkdir()
            make(root)  # type: ignore[operator]
            for path in [p for p in root.rglob("*") if p.is_file()]:
                x = bytearray(path.read_bytes() * 3)
                for _ in range(rng.randint(1, 12)):
                    x[rng.randrange(len(x))] = rng.choice(b"\x00\xff\n\r\t ,:'\"[]$0129/.")
                path.write_bytes(bytes(x))
            for split in source.splits:
                try:
                    listing = source().list(root, split=split)
                except MmzooError:
                    continue
                assert all(0 <= i.label < len(listing.classes) for i in listing.items)
                assert all(
                    root in p.parents
                    for i in listing.items
                    for m in i.media.values()
                    if isinstance(m, File)
                    for p in [m.path]
                )
                faults(listing)


def test_the_real_files_are_looked_for_beside_the_source_tree() -> None:
    assert SHARED.parent.name == "shared"
