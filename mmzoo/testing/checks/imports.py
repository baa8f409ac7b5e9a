"""What a strategy uses of mmzoo, read from its source, and whether it looks for the labels of test samples."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmzoo.data.store.home import home
from mmzoo.errors import HERE
from mmzoo.evaluation.predictions import predict
from mmzoo.registry import local_code
from mmzoo.testing.harness.cases import StrategyCase, is_combination
from mmzoo.testing.harness.report import Skipped, contract, require
from mmzoo.testing.harness.tasks import train
from mmzoo.testing.harness.tripwire import watching

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


@contract("strategy")
def check_tripwire(case: StrategyCase) -> None:
    """It does not look for what it is not given: live objects, frames of its callers, prepared data, results. Nor does its module when it is imported."""
    if is_combination(case.first):
        raise Skipped("it only holds others")
    try:
        author = Path(inspect.getsourcefile(type(case.first)) or "")
    except TypeError:
        author = Path()
    if not author.name:
        raise Skipped("its source is not available")
    with _decoy() as folder, watching(author, [folder, home(), HERE / "data" / "datasets"]) as found:
        _load_again(type(case.first), author)
        task = case.task()
        run = case.run(task)
        train(run, 2)
        predict(run.model, run.strategy, [task.batch("test")])
    require(
        not found,
        "a strategy learns from what its hooks are given",
        f"it looks at {'; '.join(found)}",
        "leave that out: labels of test samples are not in a process that trains, and a row that rests on them elsewhere is no "
        "result",
    )


def _load_again(cls: type, author: Path) -> None:
    """Run what stands in a module outside of its functions, as importing it did before anybody watched."""
    module, before = sys.modules.get(cls.__module__), dict(sys.modules)
    package = getattr(module, "__package__", None)
    try:
        with suppress(Exception, SystemExit):  # it was imported before: what fails now fails for being run twice
            if package:  # its imports may be relative; what it imports stays as it is
                scratch = {"__name__": cls.__module__, "__package__": package, "__file__": str(author)}
                exec(compile(author.read_bytes(), str(author), "exec"), scratch)
            else:
                local_code.run(local_code.read(str(author)))
    finally:
        sys.modules.update(before)


@contextmanager
def _decoy() -> Iterator[Path]:
    """MMZOO_HOME with something in it that looks like prepared data."""
    before = os.environ.get("MMZOO_HOME")
    with tempfile.TemporaryDirectory(prefix="mmzoo-check-") as name:
        store = Path(name) / "stores" / "decoy" / "own-0"
        store.mkdir(parents=True)
        (store / "meta.json").write_text("{}", encoding="utf-8")
        (store / "index.csv").write_text("id,label\nsample,0\n", encoding="utf-8")
        os.environ["MMZOO_HOME"] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["MMZOO_HOME"]
            else:
                os.environ["MMZOO_HOME"] = before
