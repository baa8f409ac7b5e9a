"""What a strategy uses of mmzoo, read from its source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mmzoo.testing.harness.cases import StrategyCase, is_combination
from mmzoo.testing.harness.report import Skipped, contract, require

#: what a strategy may import of mmzoo; from anywhere else it could reach data that it must not see
PUBLIC = ("mmzoo.api", "mmzoo.functional", "mmzoo.bilevel")
#: names there that give data or train on their own
WITHHELD = ("DataModule", "Loader", "evaluate_modalities")


@contract("strategy")
def check_imports(case: StrategyCase) -> None:
    """It uses of mmzoo only the public interface, and nothing there that hands out data."""
    if is_combination(case.first):
        raise Skipped("it only holds others")
    cls = type(case.first)
    try:
        source = Path(inspect.getsourcefile(cls) or "").read_text(encoding="utf-8")
    except (OSError, TypeError):
        raise Skipped("its source is not available") from None
    names = used(ast.parse(textwrap.dedent(source)), cls.__name__)
    private = sorted(name for name in names if not _is_public(name) and not name.startswith(_own_folder(cls)))
    require(
        not private,
        f"a strategy imports of mmzoo only {', '.join(PUBLIC)}, and no data",
        f"{cls.__name__} uses {', '.join(private)}",
        "learn from the batches that the hooks are given, from run.train() and, with requires = {'slice'}, from "
        "run.meta_batches()",
    )


def _own_folder(cls: type) -> str:
    """The modules beside that of a strategy, as the start of their names: a method may be a folder of several files."""
    folder = cls.__module__.rpartition(".")[0]
    return f"{folder}." if folder.startswith("mmzoo.strategies.") else f"{cls.__module__}."


def _is_public(name: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in PUBLIC) and not set(name.split(".")) & set(WITHHELD)


def used(tree: ast.Module, name: str) -> set[str]:
    """What a definition of a module uses of mmzoo, directly or through other definitions of that module."""
    imported = {alias: full for node in tree.body for alias, full in _imports(node)}
    defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    found: set[str] = set()
    seen, waiting = set[str](), [name]
    while waiting:
        here = waiting.pop()
        if here in seen or here not in defined:
            continue
        seen.add(here)
        for node in ast.walk(defined[here]):
            found |= {full for _, full in _imports(node)}
            if isinstance(node, ast.Attribute) and (full := imported.get(_root(node))):
                found.add(".".join([full, *_path(node)]))
            elif isinstance(node, ast.Name):
                found |= {imported[node.id]} if node.id in imported else set()
                waiting.append(node.id)
    whole = {f for f in found if f == "mmzoo" or f.startswith("mmzoo.")}
    # `import mmzoo.api as a; a.Strategy` is seen twice, as the module and as what is taken from it.
    return {f for f in whole if not any(o.startswith(f + ".") for o in whole)}


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in this module -> what it stands for, of one import statement."""
    if isinstance(node, ast.Import):
        for a in node.names:
            yield a.asname or a.name.partition(".")[0], a.name if a.asname else a.name.partition(".")[0]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for a in node.names:
            yield a.asname or a.name, f"{node.module}.{a.name}"


def _root(node: ast.Attribute) -> str:
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else ""


def _path(node: ast.Attribute) -> list[str]:
    value: ast.expr = node
    names: list[str] = []
    while isinstance(value, ast.Attribute):
        names.insert(0, value.attr)
        value = value.value
    return names
