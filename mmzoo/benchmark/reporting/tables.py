"""Tables, and their forms: Markdown, LaTeX, HTML; rows as CSV. No torch at import."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.benchmark.reporting.statistics import Spread
from mmzoo.io.csv_file import write_rows

DASH = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False
    second: bool = False


@dataclass
class Table:
    """A titled table of cells, with notes below it."""

    title: str
    header: list[str]
    body: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: for each column how early a narrow terminal drops it, the highest first; 0: never
    priority: Sequence[int] = ()
    #: how many columns, from the first, hold words and are aligned to the left
    words: int = 1
    #: what a paper says below it, without the last full stop; empty: the title as a sentence
    caption: str = ""


def percent(s: Spread, *, sign: bool = False) -> str:
    """Mean and deviation times 100; a dash where there is nothing."""
    if not s.n:
        return DASH
    mean = round(100 * s.mean, 1) + 0.0  # adding zero makes -0.0 a plain zero
    text = f"{mean:{'+' if sign else ''}.1f}"
    return text if s.deviation is None else f"{text} ± {100 * s.deviation:.1f}"


def number(s: Spread, digits: int = 1) -> str:
    """The mean; a dash where there is nothing."""
    return f"{s.mean:.{digits}f}" if s.n else DASH


def markdown(table: Table) -> str:
    """A Markdown table with aligned columns, so that it reads well in a terminal too."""
    lines = [[_md(c) for c in table.header]]
    lines += [[_marked(_md(c.text), c) for c in row] for row in table.body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]

    def row(line: Sequence[str]) -> str:
        first, *rest = [c.ljust(w) if i < table.words else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < table.words else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    parts = [f"### {_md(table.title)}", "", row(lines[0]), rule, *map(row, lines[1:]), ""]
    return "\n".join(parts + [f"- {_md(note)}" for note in table.notes] + [""] * bool(table.notes))


def _marked(text: str, cell: Cell) -> str:
    return f"**{text}**" if cell.best else f"<ins>{text}</ins>" if cell.second else text


def latex(table: Table, label: str = "") -> str:
    """A `table*` with booktabs rules, no wider than the page. It needs the packages booktabs and graphicx.

    Args:
        table: the table.
        label: what `\\ref` calls it; empty: `tab:` and its title in short, see `labels`.
    """
    body = [" & ".join(_tex_marked(c) for c in row) + r" \\" for row in table.body]
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{_tex(_caption(table))}}}",
            rf"\label{{{label or labels([table])[0]}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * table.words}{'r' * (len(table.header) - table.words)}}}",
            r"\toprule",
            " & ".join(map(_tex, table.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}%",
            "}",
            r"\end{table*}",
            *(f"% {one_line(note)}" for note in table.notes),
            "",
        ]
    )


def labels(tables: Sequence[Table]) -> list[str]:
    """The LaTeX labels of the tables of a document, all different."""
    found: list[str] = []
    for table in tables:
        subject, _, rest = table.title.partition(": ")
        short = subject if subject == "overview" else f"{subject} {re.split(', |: | in %', rest)[0]}"
        name = "tab:" + re.sub("[^a-z0-9]+", "-", short.lower()).strip("-")[:60]
        same = sum(other == name or other.startswith(f"{name}-again") for other in found)
        found.append(f"{name}-again{same}" if same else name)
    return found


def _caption(table: Table) -> str:
    """What a paper says below a table: its own caption, or the title as a sentence with the data set last, and what marks mean."""
    if table.caption:
        return f"{table.caption}."
    subject, colon, rest = table.title.partition(": ")
    text = re.sub(r"\bACC\b", "accuracy", f"{rest}, on {subject}" if colon else table.title)
    text = text[:1].upper() + text[1:]
    cells = [cell for row in table.body for cell in row]
    marks = [
        *(["Best in bold"] if any(c.best for c in cells) else []),
        *(["second underlined"] if any(c.second for c in cells) else []),
    ]
    return f"{text}. {', '.join(marks)}." if marks else f"{text}."


def _tex_marked(cell: Cell) -> str:
    text = _tex(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else rf"\underline{{{text}}}" if cell.second else text


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a run, nested values as dotted columns."""
    flat = [dict(_flat(r)) for r in rows]
    first = ["run_id", "dataset", "label", "seed", "status"]
    names = first + sorted({k for r in flat for k in r} - set(first))
    out = io.StringIO()
    write_rows(out, [names])
    write_rows(out, ([r.get(name, "") for name in names] for r in flat))
    return out.getvalue()


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, v in value.items():
        if isinstance(v, Mapping):
            yield from _flat(v, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(v) if isinstance(v, (list, tuple)) else v


def _md(text: str) -> str:
    """Names come from outside: nothing in them may act as markup or steer a terminal."""
    return "".join(_MARKUP.get(c, c) for c in one_line(text)).replace("](", "]\\(")


_MARKUP = {"\\": "\\\\", "|": "\\|", "`": "\\`", "*": "\\*", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "φ": r"$\varphi$",
    DASH: "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def _tex(text: str) -> str:
    """Text for any engine: what pdfTeX has no letter for is written as its code point."""
    return "".join(_TEX.get(c, c if ord(c) < 0x180 else f"U+{ord(c):04X}") for c in one_line(text))


def one_line(text: str) -> str:
    """The text without line breaks, and with a replacement mark for control and other invisible characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
