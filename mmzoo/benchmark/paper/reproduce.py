"""One table or figure of the paper, run and laid beside what the paper prints."""

from __future__ import annotations

from mmzoo.benchmark.paper.cells import compared
from mmzoo.benchmark.paper.documents import Document, table_document
from mmzoo.benchmark.paper.printed import TABLES, read_printed
from mmzoo.benchmark.paper.runs import Budget, run_suite
from mmzoo.registry import Catalogue


def document(name: str, catalogue: Catalogue, budget: Budget) -> Document:
    """A table of TABLES or a figure of `mmzoo.benchmark.results.paper_figures.FIGURES`. Raises what `run_suite` raises."""
    if name in TABLES:
        printed = read_printed(name)
        found = run_suite(name, catalogue, budget)
        return table_document(printed, compared(printed, found), found)
    from mmzoo.benchmark.paper.pictures import figure_document

    return figure_document(name, catalogue, budget)
