"""Sarcasm: rows are literals, and nothing is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.annotation_files import faults, sarcasm_files

from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.sources.source import File, Text
from mmzoo.errors import BadValue


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
