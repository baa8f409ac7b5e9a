"""Twitter2015: rows are read by position."""

from __future__ import annotations

from pathlib import Path

from helpers.annotation_files import by_id, faults, path_of, twitter_files

from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.sources.source import Text


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
