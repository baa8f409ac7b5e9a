"""Cells that a spreadsheet would calculate."""

from __future__ import annotations

import io

import pytest

from mmzoo.io.csv_file import safe_cell, write_rows


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@SUM(A1)", "\t=1", " =1", "=cmd|' /C calc'!A0"])
def test_formulas_get_an_apostrophe(text: str) -> None:
    assert safe_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["a=1", "", "-0.5", "+3", "-inf", -0.5, 3, None, "a-b"])
def test_other_cells_stay(value: object) -> None:
    assert safe_cell(value) == value


def test_control_characters_are_written_out() -> None:
    assert safe_cell("\x1b[31mred\x07 \x9b1m") == r"\x1b[31mred\x07 \x9b1m"
    assert safe_cell("two\nlines\tjoined\u200cwords") == "two\nlines\tjoined\u200cwords"


def test_rows_are_written_as_csv() -> None:
    out = io.StringIO()
    write_rows(out, [["a", 1], ["=b", "x,y"]])
    assert out.getvalue() == 'a,1\n\'=b,"x,y"\n'
