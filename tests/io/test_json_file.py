"""JSON with a checksum: the fast way of reading accepts and refuses what the strict way does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmzoo.io.json_file import NotJson, read_sealed, unsealed, write_line, write_sealed


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A file with its checksum, and a text in it that looks like a key."""
    path = tmp_path / "sealed.json"
    write_sealed(path, {"b": [1.5, {"d": "x"}], "a": 'it says "no": why', "z": {}})
    return path


def test_a_sealed_file_is_read_with_its_value(sealed: Path) -> None:
    value, fault = read_sealed(sealed)
    assert fault is None and unsealed(value) == {"b": [1.5, {"d": "x"}], "a": 'it says "no": why', "z": {}}


@pytest.mark.parametrize(("old", "new"), [("1.5", "2.5"), ('"x"', '"y"'), ('"z"', '"y"'), ('"d"', '"e"')])
def test_a_changed_value_or_key_does_not_fit_its_checksum(sealed: Path, old: str, new: str) -> None:
    text = sealed.read_text()
    assert old in text
    sealed.write_text(text.replace(old, new))
    assert "checksum does not fit" in str(read_sealed(sealed)[1])


def test_other_spaces_and_another_order_are_the_same_value(sealed: Path) -> None:
    value = json.loads(sealed.read_text())
    sealed.write_text(json.dumps(dict(reversed(value.items())), indent=3))
    assert read_sealed(sealed) == (value, None)


@pytest.mark.parametrize("value", [{}, {"b": [1.5, {"d": "x"}], "a": 'it says "no": why', "é": {}, "n": 10**30}])
def test_a_sealed_line_is_read_like_a_sealed_file(tmp_path: Path, value: dict[str, Any]) -> None:
    write_line(path := tmp_path / "x.json", value)
    found, fault = read_sealed(path)
    assert fault is None and unsealed(found) == value and path.read_text().count("\n") == 1
    path.write_text(path.read_text().replace("1.5", "2.5"))
    assert (read_sealed(path)[1] is None) == (value == {})


@pytest.mark.parametrize("given", ['{"a": 1, "a": 1}', "[1, NaN]", '{"a": 1', f"[{'1' * 60}]", '{"a": "b\nc"}'])
def test_what_is_not_strict_json_is_refused(tmp_path: Path, given: str) -> None:
    (path := tmp_path / "x.json").write_text(given)
    with pytest.raises(NotJson):
        read_sealed(path)


def test_a_line_break_inside_a_text_is_refused_although_the_checksum_would_fit(tmp_path: Path) -> None:
    write_sealed(path := tmp_path / "x.json", {"a": "bc", "d": 1})
    path.write_text(path.read_text().replace("bc", "b\n c"))
    with pytest.raises(NotJson):
        read_sealed(path)


def test_a_file_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    (path := tmp_path / "x.json").write_text('{"a": 1}')
    assert read_sealed(path) == ({"a": 1}, None)
