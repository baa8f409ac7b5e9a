"""Who may import what: by the source text, and by what a fresh process has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mmzoo

PACKAGE = Path(mmzoo.__file__).resolve().parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
HEAVY = ("torch", "timm", "transformers", "librosa", "matplotlib", "scipy", "sklearn", "pandas", "numpy")
LIGHT = (
    "mmzoo",
    "mmzoo.errors",
    "mmzoo.training.config",
    "mmzoo.core.scopes",
    "mmzoo.trackers.base",
    "mmzoo.data.store.splits",
    "mmzoo.benchmark.planning.plan",
    "mmzoo.benchmark.python",
)
LIGHT_FOLDERS = (
    "mmzoo.cli",
    "mmzoo.config",
    "mmzoo.registry",
    "mmzoo.io.files",
    "mmzoo.io.yaml_file",
    "mmzoo.benchmark.results",
    "mmzoo.benchmark.reporting",
)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p) for p in FILES}


def named_in_root(name: str) -> str:
    return "mmzoo" if name == "__version__" else "mmzoo.api"


def imports_of(path: Path) -> set[str]:
    """Our own modules that a file imports anywhere in it; `from mmzoo import Name` counts as mmzoo.api."""
    name = module_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else named_in_root(alias.name) if base == "mmzoo" else base)
    return {m for m in found if m == "mmzoo" or m.startswith("mmzoo.")}


def below(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def files(folder: str) -> list[Path]:
    return [p for p in FILES if p.parent.relative_to(PACKAGE).as_posix().startswith(folder)]


def ids(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", files("strategies"), ids=ids)
def test_a_strategy_imports_what_a_third_party_may(path: Path) -> None:
    own = module_of(path if path.parent.name == "strategies" else path.parent)  # a method of several files is a folder
    reached = {m for m in imports_of(path) if not below(m, own)}
    assert reached <= {"mmzoo.api", "mmzoo.functional", "mmzoo.bilevel"}


@pytest.mark.parametrize("path", files("heads") + files("encoders"), ids=ids)
def test_heads_and_encoders_import_only_core(path: Path) -> None:
    own = module_of(path).rpartition(".")[0]
    allowed = (own, "mmzoo.core", "mmzoo.io", "mmzoo.errors", "mmzoo.functional")
    assert not {m for m in imports_of(path) if not below(m, *allowed)}


#: folder -> the folders and root modules that it may import from, itself aside
MAY_IMPORT = {
    "core": {"errors", "functional"},
    "io": {"errors"},
    "bilevel": {"core", "errors"},
    "evaluation": {"core", "errors", "functional"},
    "training": {"core", "evaluation", "errors", "functional"},
    "registry": {"", "core", "io", "training", "errors"},
    "trackers": {"registry", "errors"},
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_lower_folders_import_only_what_lies_below_them(folder: str) -> None:
    for path in files(folder):
        reached = {m.removeprefix("mmzoo").removeprefix(".").partition(".")[0] for m in imports_of(path)}
        assert reached <= {folder, *MAY_IMPORT[folder]}, ids(path)


def folder_graph() -> dict[str, set[str]]:
    """folder -> the folders that its modules import from, anywhere in them. A module at the root is a node of its own."""

    def node(module: str) -> str:
        path = PACKAGE.parent / module.replace(".", "/")
        folder = module if path.is_dir() else module.rpartition(".")[0]
        return module if folder == "mmzoo" else folder

    graph: dict[str, set[str]] = {}
    for path in FILES:
        here = node(module_of(path))
        graph.setdefault(here, set()).update(node(m) for m in imports_of(path) if node(m) != here)
    return graph


def test_the_folders_form_no_circle() -> None:
    try:
        tuple(TopologicalSorter(folder_graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_root_is_small_and_no_folder_is_crowded() -> None:
    assert len([p for p in PACKAGE.iterdir() if p.is_file()]) <= 10
    crowded = {d: len(list(d.glob("*.py"))) for d in {p.parent for p in FILES}}
    assert not {d.name: n for d, n in crowded.items() if n > 16 and d.name != "strategies"}


#: the command that runs the shipped checks
CHECKS = "cli/check.py"


@pytest.mark.parametrize("path", [p for p in FILES if not ids(p).startswith("testing/") and ids(p) != CHECKS], ids=ids)
def test_only_tests_import_testing(path: Path) -> None:
    assert not {m for m in imports_of(path) if below(m, "mmzoo.testing")}


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "MMZOO_PLUGINS": "", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_light_modules_load_nothing_heavy() -> None:
    found = {m for m in MODULES if below(m, *LIGHT_FOLDERS)} - {"mmzoo.benchmark.reporting.significance"}
    every = (*LIGHT, *sorted(found))
    code = f"import importlib, sys\nfor m in {every!r}: importlib.import_module(m)\n"
    assert python(code + f"print(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]\n"


def test_commands_that_train_nothing_load_nothing_heavy(results: Path) -> None:
    """--help, list, show, plugins, report and a plan, one after the other in one process."""
    commands = (
        ["--help"],
        ["bench", "--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["show", "dynamic_gap_lb"],
        ["show", "mfeat"],
        ["plugins"],
        ["plugins", "--json"],
        ["bench", "--method", "ogm", "--plan"],
        *(["report", str(results), "--format", f] for f in ("md", "csv", "json", "latex")),
        ["report", str(results), "--modalities"],
    )
    code = f"""
import contextlib, io, sys
from mmzoo.cli import main
for command in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(command)
    assert code == 0 and out.getvalue(), command
    assert not set({HEAVY!r}) & set(sys.modules), command
print("done")
"""
    assert python(code) == "done\n"


BLOCKED = (
    "timm",
    "transformers",
    "librosa",
    "soundfile",
    "av",
    "scipy",
    "sklearn",
    "tqdm",
    "pydantic",
    "matplotlib",
    "pandas",
    "PIL",
    "torchvision",
    "torchaudio",
    "tensorboard",
    "ray",
    "submitit",
    "jinja2",
    "hypothesis",
    "pytest",
)


def test_the_engine_works_with_torch_numpy_pluggy_and_yaml_alone() -> None:
    """Every strategy, every head, the bench's runner, and one run from plan to row."""
    modules = [
        m for m in sorted(MODULES) if below(m, "mmzoo.strategies", "mmzoo.heads", "mmzoo.benchmark", "mmzoo.data")
    ]
    code = f"""
import importlib, sys, tempfile
from importlib.machinery import PathFinder
from pathlib import Path

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {BLOCKED!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
for m in {modules!r}: importlib.import_module(m)
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec
from mmzoo.registry.plugins import catalogue
plan = make_plan(BenchSpec("dynamic_gap_lb", seeds=(0,), epochs=1, references=False), catalogue())
row = run_one(plan.runs[0], catalogue(), Store(Path(tempfile.mkdtemp())))
print(row["status"], row["reason"], set(sys.modules) & set({BLOCKED!r}))
"""
    assert python(code) == "ok  set()\n"
