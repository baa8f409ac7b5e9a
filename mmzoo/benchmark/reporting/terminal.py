"""Tables on a terminal: as wide as it is, with bold and underline where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from mmzoo.benchmark.reporting.tables import Cell, Table, markdown, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

#: what lies between two columns, and the width to which long words in labels are folded
GAP, LABEL = 3, 24


def show(tables: Sequence[Table], file: TextIO) -> None:
    """Print tables: on a terminal fitted to its width, elsewhere as Markdown.

    NO_COLOR, COLUMNS, TERM=dumb and the encoding of the terminal are honoured, as rich does.
    """
    if not file.isatty():
        file.write("\n".join(markdown(table) for table in tables))
        return
    from rich.console import Console

    console = Console(file=file, highlight=False, soft_wrap=False)
    for table in tables:
        _show(console, table)


def _show(console: Console, table: Table) -> None:
    from rich.text import Text

    plain = console.is_dumb_terminal or not console.is_terminal
    table = _in_letters(table) if plain else table
    _, dropped = fitted(table, console.width)
    console.print(Text(one_line(table.title), style="bold"))
    console.print(grid(table, console.width))
    for note in [*table.notes, *([f"Not shown in {console.width} columns: {', '.join(dropped)}."] if dropped else [])]:
        console.print(Text(f"- {one_line(note)}", style="dim"))
    console.print()


def grid(table: Table, width: int) -> Grid:
    """The table as rich draws it in so many columns, without title and notes."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    shown, _ = fitted(table, width)
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, safe_box=True)
    for i, (name, wide) in enumerate(zip(shown.header, _widths(shown, width), strict=True)):
        drawn.add_column(
            Text(one_line(name)), justify="left" if i < table.words else "right", overflow="fold", width=wide
        )
    for line in shown.body:
        drawn.add_row(*map(_cell, line))
    return drawn


def _in_letters(table: Table) -> Table:
    """The table with * behind the best and + behind the second, for terminals without bold and underline."""
    body = [[Cell(c.text + ("*" if c.best else "+" if c.second else "")) for c in line] for line in table.body]
    return replace(table, body=body, notes=["*: the best, +: the second.", *table.notes])


def _cell(cell: Cell) -> Text:
    from rich.text import Text

    return Text(one_line(cell.text), style="bold" if cell.best else "underline" if cell.second else "")


def fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table without the columns that a width has no room for, and the names of these.

    Columns go by `priority`, the highest first and the last of equal ones; those of priority 0 stay. Labels in the first
    column and headings wrap.
    """
    priority = list(table.priority) or [0, *[1] * (len(table.header) - 1)]
    kept = list(range(len(table.header)))

    def needed() -> int:
        return sum(_narrowest(table, i) for i in kept) + GAP * (len(kept) - 1)

    while needed() > width and any(priority[i] for i in kept):
        kept.remove(max((i for i in kept if priority[i]), key=lambda i: (priority[i], i)))
    dropped = [name for i, name in enumerate(table.header) if i not in kept]
    body = [[line[i] for i in kept] for line in table.body]
    return replace(
        table, header=[table.header[i] for i in kept], body=body, priority=[priority[i] for i in kept]
    ), dropped


def _widths(table: Table, width: int) -> list[int]:
    """The width of each column: what it needs, and then, from the left, what it would like of the rest."""
    widths = [_narrowest(table, i) for i in range(len(table.header))]
    spare = width - sum(widths) - GAP * (len(widths) - 1)
    for i, name in enumerate(table.header):
        wanted = max(len(name), *(len(line[i].text) for line in table.body), 0) - widths[i]
        if 0 < wanted <= spare:
            widths[i], spare = widths[i] + wanted, spare - wanted
    return widths


def _narrowest(table: Table, column: int) -> int:
    """What a column needs at least: headings and labels wrap at spaces, scores do not wrap."""
    texts = [line[column].text for line in table.body]
    parts = [word for text in texts for word in text.split()] if column < table.words else texts
    cells = max(map(len, parts), default=0)
    return max(*map(len, table.header[column].split()), min(cells, LABEL) if column < table.words else cells)
