"""Tables on a terminal: never wider than it, columns dropped by priority, no escape of a name."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mmzoo.benchmark.reporting import terminal
from mmzoo.benchmark.reporting.tables import Cell, Table, markdown

WIDE = Table(
    "scores",
    ["method", "first set (ACC)", "second_set", "mean rank", "cost"],
    [
        [
            Cell("dynamic_gap_lb"),
            Cell("86.1 ± 1.2", best=True),
            Cell("81.4 ± 0.8", second=True),
            Cell("5.83"),
            Cell("2.1x"),
        ]
    ],
    ["A note that is longer than any terminal of this test is wide, so that it wraps."],
    priority=[0, 2, 2, 1, 3],
)


def shown(table: Table, width: int, **options: Any) -> str:
    out = io.StringIO()
    terminal._show(Console(file=out, width=width, highlight=False, **options), table)
    return out.getvalue()


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.integers(20, 120))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(cell_len(line) for line in shown(WIDE, width).splitlines()) <= width


@pytest.mark.parametrize(("width", "dropped"), [(54, []), (53, ["cost"]), (40, ["second_set", "cost"])])
def test_columns_go_by_priority_and_are_named(width: int, dropped: list[str]) -> None:
    assert terminal.fitted(WIDE, width)[1] == dropped
    assert ("Not shown" in shown(WIDE, width, force_terminal=True)) == bool(dropped)


def test_bold_and_underline_where_the_terminal_has_them_and_marks_where_not() -> None:
    styled = shown(WIDE, 80, force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[1m *86\.1 ± 1\.2\x1b", styled) and re.search(r"\x1b\[4m *81\.4 ± 0\.8\x1b", styled)
    plain = shown(WIDE, 80)
    assert "\x1b" not in plain and "86.1 ± 1.2*" in plain and "81.4 ± 0.8+" in plain


def test_a_name_is_neither_markup_nor_an_escape() -> None:
    table = Table("[red]t[/]\x1b[31m", ["[b]x[/b]"], [[Cell("\x1b]0;title\x07[link]y")]], ["\x1b[2J"])
    text = shown(table, 80)
    assert (
        "\x1b" not in text and "\x07" not in text and "[red]t[/]" in text and "[b]x[/b]" in text and "[link]y" in text
    )


def test_elsewhere_than_on_a_terminal_it_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    terminal.show([WIDE], out)
    assert out.getvalue() == markdown(WIDE)
