"""The structure of the package, read from its source: who imports whom, and how large the parts are.

    python tests/architecture/house.py picture    # the picture of docs/contributing.md
    python tests/architecture/house.py numbers    # sizes, as a table

Imports inside functions and under TYPE_CHECKING count. A module at the root of the package is a node of its own.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "mmzoo"
Graph = dict[str, set[str]]


def module_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(package: Path = PACKAGE) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports anywhere in it; `from mmzoo import Name` counts as mmzoo.api."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                outside = "mmzoo" if alias.name == "__version__" else "mmzoo.api"
                found.add(inner if inner in modules else outside if base == "mmzoo" else base)
    return {m for m in found if m == "mmzoo" or m.startswith("mmzoo.")}


def folder_graph(package: Path = PACKAGE, *, top: bool = False) -> Graph:
    """folder -> the folders that its modules import from. top: of the folders at the root alone, with all below them."""
    modules = {module_of(p, package) for p in files(package)}

    def node(module: str) -> str:
        folder = module if (package.parent / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
        folder = module if folder == "mmzoo" else folder
        return ".".join(folder.split(".")[:2]) if top else folder

    graph: Graph = {}
    for path in files(package):
        here = node(module_of(path, package))
        graph.setdefault(here, set()).update(node(m) for m in imports_of(path, modules) if node(m) != here)
    return graph


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that follow from others."""
    order = list(TopologicalSorter(graph).static_order())
    reach: Graph = {}
    kept: Graph = {}
    for node in order:
        direct = sorted(graph.get(node, set()), key=order.index, reverse=True)
        kept[node], reach[node] = set(), set()
        for other in direct:
            if other not in reach[node]:
                kept[node].add(other)
                reach[node] |= {other, *reach.get(other, set())}
    return kept


def picture() -> str:
    """The folders at the root as a Mermaid graph, an arrow from each to those that it imports."""
    graph = {k: v for k, v in folder_graph(top=True).items() if k.count(".") == 1}
    folders = {k for k in graph if (PACKAGE / k.partition(".")[2]).is_dir()}
    arrows = reduced({k: graph[k] & folders for k in folders})
    name = {k: k.partition(".")[2] for k in folders}
    lines = [f"  {name[a]} --> {name[b]}" for a in sorted(arrows) for b in sorted(arrows[a])]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, its docstring aside."""
    first = node.body[0]
    documented = ast.get_docstring(node, clean=False) is not None
    about = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - about


def spans(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """(kind, name, size): lines of a function's code, public methods of a class, parameters of a constructor."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield "function", node.name, code_lines(node)
        elif isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            yield "class", node.name, sum(not m.name.startswith("_") for m in methods)
            for init in (m for m in methods if m.name == "__init__"):
                yield "constructor", node.name, len(init.args.args) + len(init.args.kwonlyargs) - 1


def numbers(package: Path = PACKAGE) -> dict[str, int | str]:
    """The largest of each kind, and how many of what there is."""
    graph = folder_graph(package)
    largest: dict[str, tuple[int, str]] = {}
    for path in files(package):
        text = path.read_text(encoding="utf-8")
        sizes = [("file", "", len(text.splitlines())), *spans(ast.parse(text))]
        for kind, name, size in sizes:
            where = f"{path.relative_to(package)}{':' + name if name else ''}"
            largest[kind] = max(largest.get(kind, (0, "")), (size, where))
    return {
        "files": len(files(package)),
        "folders": len({p.parent for p in files(package)}),
        "arrows between folders": sum(len(v) for v in graph.values()),
        "files at the root": len([p for p in package.iterdir() if p.is_file()]),
        **{f"largest {kind}": f"{size} ({where})" for kind, (size, where) in largest.items()},
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["picture"]:
        print(picture())
    else:
        for key, value in numbers().items():
            print(f"{key:24} {value}")
