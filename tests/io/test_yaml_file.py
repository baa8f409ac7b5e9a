"""YAML of strangers: aliases of aliases, numbers without end, devices, keys that YAML takes for truth values."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmzoo.config.grammar import parse_setting
from mmzoo.errors import BadValue, short
from mmzoo.io.regular import read_regular
from mmzoo.io.yaml_file import parse, read


def bomb(depth: int = 11, width: int = 9) -> str:
    """A list of lists of lists: each level is the one before it, `width` times."""
    text, before = 'a: &a ["l","l","l"]\n', "a"
    for name in "bcdefghijklmnop"[: depth - 1]:
        text, before = text + f"{name}: &{name} [{','.join([f'*{before}'] * width)}]\n", name
    return text + f"name: *{before}\n"


@pytest.mark.parametrize("text", [bomb(), bomb(15, 9), bomb().replace("[", "{x: [").replace("]", "]}")])
def test_a_bomb_of_aliases_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(BadValue, match=r"s\.yaml"):
        parse(text, "s.yaml")
    assert time.process_time() - began < 5


def test_an_alias_within_itself_is_refused_and_a_plain_one_is_read() -> None:
    with pytest.raises(BadValue, match="line 1: an alias stands within what it names"):
        parse("a: &a [*a]\n", "s.yaml")
    assert parse("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", "s").data["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 4000, "0b" + "1" * 5000, "1" + "_000" * 2000])
def test_a_number_without_end_is_refused(number: str) -> None:
    with pytest.raises(BadValue, match="digits"):
        parse(f"a: {number}\n", "s.yaml")
    with pytest.raises(BadValue, match="digits") as raised:
        parse_setting(f"ogm.alpha={number}")
    assert len(str(raised.value)) < 500


def test_keys_are_texts_and_values_are_known_as_written() -> None:
    found = parse("on: {no: 1.0, 3: yes}\nlist: [010, null, 2020-01-02]\n", "s")
    assert found.data == {"on": {"no": 1.0, "3": True}, "list": found.data["list"]}
    assert found.written[("on", "3")] == "yes" and found.written[("on", "no")] == "1.0"
    assert [found.written[("list", i)] for i in range(3)] == ["010", "null", "2020-01-02"]


def test_values_are_shown_short() -> None:
    deep: list[object] = []
    for _ in range(200):
        deep = [deep, deep]
    for value in (deep, "x" * 10_000, 10**5000, list(range(10_000)), {i: "y" * 900 for i in range(99)}):
        assert len(short(value)) <= 160
    assert short("plain") == "'plain'" and short([1, 2.5, None]) == "[1, 2.5, None]"


def test_kind_and_size_are_looked_at_before_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for path, word in ((Path("/dev/zero"), "a device"), (tmp_path / "pipe.yaml", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(BadValue, match=word):
            read(path)
    with pytest.raises(BadValue, match="larger than"):
        read(large)
    with pytest.raises(BadValue, match="No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(BadValue, match="larger than"):
        read_regular(Path(__file__), "the table", 10)
