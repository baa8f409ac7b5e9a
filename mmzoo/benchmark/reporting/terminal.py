"""Tables on a terminal: as wide as it is, with bold and underline where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from mmzoo.benchmark.reporting.tables import Cell, Table, markdown, one_line

if TYPE_CHECKING:
    from rich.console import Console

#: what lies between two columns, and the width to which long words in labels are folded
GAP, LABEL = 3, 24


def show(tables: Sequence[Table], file: TextIO) -> None:
    """Print tables: on a terminal fitted to its width, elsewhere as Markdown.

    NO_COLOR, COLUMNS, TERM=dumb and the encoding of the terminal are honoured, as rich does.
    """
    if not file.isatty():
        print("\n".join(markdown(table) for table in tables), file=file)
        return
    from rich.console import Console

    console = Console(file=file, highlight=False, soft_wrap=False)
    for table in tables:
        _show(console, table)


def _show(console: Console, table: Table) -> None:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    shown, dropped = fitted(table, console.width)
    plain = console.is_dumb_terminal or not console.is_terminal
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, safe_box=True)
    for i, (name, width) in enumerate(zip(shown.header, _widths(shown, console.width), strict=True)):
        grid.add_column(
            Text(one_line(name)), justify="left" if i < table.words else "right", overflow="fold", width=width
        )
    for line in shown.body:
        grid.add_row(*(_cell(cell, plain) for cell in line))
    console.print(Text(one_line(table.title), style="bold"))
    console.print(grid)
    for note in [*table.notes, *([f"Not shown in {console.width} columns: {', '.join(dropped)}."] if dropped else [])]:
        console.print(Text(f"- {one_line(note)}", style="dim"))
    console.print()


def _cell(cell: Cell, plain: bool) -> Any:
    from rich.text import Text

    mark = ("*" if cell.best else "+" if cell.second else "") if plain else ""
    style = "bold" if cell.best else "underline" if cell.second else ""
    return Text(one_line(cell.text) + mark, style=style)


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
