"""House rules that a tool can check."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from architecture.house import code_lines
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=lambda c: c[0])
def test_tools_have_nothing_to_say(command: list[str]) -> None:
    if importlib.util.find_spec(command[0]) is None:  # one that is elsewhere on the path does not see this environment
        pytest.skip(f"{command[0]} is not installed: pip install '.[dev]'")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_unsafe_loading_and_nothing_left_for_later() -> None:
    banned = {
        r"import pickle|pickle\.load": "no pickle from outside",
        r"yaml\.(load|unsafe_load|full_load)\(": "use yamlfile or yaml.safe_load",
        r"torch\.load\((?!.*weights_only=True)": "pass weights_only=True",
        r"\bTODO\b|\bFIXME\b": "finish it",
        r"except:\s": "name what is expected",
    }
    for path in [*(ROOT / "mmzoo").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, why in banned.items():
                assert not re.search(pattern, line), f"{path.relative_to(ROOT)}:{n}: {why}"


# ---------------------------------------------------------------------- small parts
#: lines of a file and of a function (its docstring aside), public methods of a class, parameters of a constructor
LINES, BODY, METHODS, PARAMETERS = 350, 50, 25, 10
#: tables of data: as many fields as there are settings or keys, each documented, none of them hidden in a group
RECORDS = 20
#: what may be larger, and why
_SCRIPT = "a measurement that is read from top to bottom; its helpers are used once"
EXCEPTIONS = {
    "benchmarks/dynamic_gap_study.py": _SCRIPT,
    "benchmarks/fuzz_data.py": _SCRIPT,
    "benchmarks/own_data.py": _SCRIPT,
    "benchmarks/read_store.py:measure": _SCRIPT,
    "benchmarks/solver_cost.py": _SCRIPT,
    "benchmarks/step_cost.py:measure": _SCRIPT,
    "benchmarks/survive.py": _SCRIPT,
    "benchmarks/survive.py:kills": _SCRIPT,
}
FOLDERS = ("mmzoo", "plugins", "benchmarks", "tests")


def _parsed() -> Iterator[tuple[str, str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def _is_record(node: ast.ClassDef) -> bool:
    marks = [ast.unparse(x) for x in (*node.decorator_list, *node.bases)]
    return any(mark.startswith("dataclass") or mark == "NamedTuple" for mark in marks)


def _sizes(name: str, text: str, tree: ast.Module) -> Iterator[tuple[str, str, int, int]]:
    """what it is, its name, its size, the limit"""
    yield "lines", name, text.count("\n"), LINES
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield "lines", f"{name}:{node.name}", code_lines(node), BODY
            if node.name == "__init__":
                given = node.args
                parameters = len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - 1
                yield "parameters", f"{name}:{node.lineno}", parameters, PARAMETERS
        elif isinstance(node, ast.ClassDef):
            methods = [x for x in node.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("_")]
            yield "public methods", f"{name}:{node.name}", len(methods), METHODS
            if _is_record(node):
                fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
                yield "fields", f"{name}:{node.name}", len(fields), RECORDS


def test_no_part_is_larger_than_the_house_allows() -> None:
    sizes = {f"{name}, {what}": (n, most) for each in _parsed() for what, name, n, most in _sizes(*each)}
    over = {key: n for key, (n, most) in sizes.items() if n > most}
    assert {key.partition(",")[0] for key in over} == set(EXCEPTIONS), over


def test_the_formatter_is_never_switched_off() -> None:
    mark = "# fmt: " + "skip"
    assert [name for name, text, _ in _parsed() if mark in text or mark.replace("skip", "off") in text] == []
