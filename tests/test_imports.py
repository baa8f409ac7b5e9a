"""Who may import what: by the source text, and by what a fresh process has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmzoo

PACKAGE = Path(mmzoo.__file__).resolve().parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
HEAVY = ("torch", "timm", "transformers", "librosa", "matplotlib", "scipy", "sklearn", "pandas", "numpy")
LIGHT = ("mmzoo", "mmzoo.cli", "mmzoo.plugins", "mmzoo.hookspecs", "mmzoo.catalogue", "mmzoo.config", "mmzoo.errors",
         "mmzoo.training", "mmzoo.yamlfile", "mmzoo.files", "mmzoo.bench", "mmzoo.bench.plan", "mmzoo.bench.store",
         "mmzoo.bench.stats", "mmzoo.bench.tables", "mmzoo.bench.groups", "mmzoo.bench.report", "mmzoo.bench.modalities",
         "mmzoo.bench.comparison", "mmzoo.bench.figures", "mmzoo.tracker", "mmzoo.data", "mmzoo.data.splits")  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p) for p in FILES}


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
                found.add(inner if inner in MODULES else "mmzoo.api" if base == "mmzoo" else base)
    return {m for m in found if m == "mmzoo" or m.startswith("mmzoo.")}


def below(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def files(folder: str) -> list[Path]:
    return [p for p in FILES if p.parent.relative_to(PACKAGE).as_posix().startswith(folder)]


def ids(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", files("strategies"), ids=ids)
def test_a_strategy_imports_what_a_third_party_may(path: Path) -> None:
    assert imports_of(path) <= {"mmzoo.api", "mmzoo.functional", "mmzoo.autodiff", "mmzoo.tangent"}


@pytest.mark.parametrize("path", files("heads") + files("encoders"), ids=ids)
def test_heads_and_encoders_know_no_training(path: Path) -> None:
    own = module_of(path.parent / "__init__.py")
    known = ("strategies", "strategy", "trainer", "run", "bench", "cli", "catalogue", "config", "plugins", "testing")
    wrong = {m for m in imports_of(path) if below(m, *(f"mmzoo.{k}" for k in known))}
    other = "mmzoo.encoders" if own == "mmzoo.heads" else "mmzoo.heads"
    assert not wrong and not any(below(m, other) for m in imports_of(path))


def test_trainer_and_run_import_nothing_concrete() -> None:
    concrete = [f"mmzoo.{k}" for k in ("strategies", "heads", "encoders", "data", "catalogue", "plugins", "config",
                                       "bench", "cli", "testing")]  # fmt: skip
    for name in ("trainer.py", "run.py", "requirements.py", "batches.py", "strategy.py", "gradients.py", "optim.py", "probe.py",
                 "metrics.py", "evaluation.py", "complexity.py"):  # fmt: skip
        assert not {m for m in imports_of(PACKAGE / name) if below(m, *concrete)}, name


def test_the_model_knows_no_strategy() -> None:
    for name in ("model.py", "head.py", "encoder.py"):
        assert not {
            m for m in imports_of(PACKAGE / name) if below(m, "mmzoo.strategy", "mmzoo.strategies", "mmzoo.run")
        }


#: the command that runs the shipped checks
CHECKS = "cli/check.py"


@pytest.mark.parametrize("path", [p for p in FILES if not ids(p).startswith("testing/") and ids(p) != CHECKS], ids=ids)
def test_only_tests_import_testing(path: Path) -> None:
    assert not {m for m in imports_of(path) if below(m, "mmzoo.testing")}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(PACKAGE.parent), "MMZOO_PLUGINS": "", "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_light_modules_load_nothing_heavy() -> None:
    every = (*LIGHT, *(m for m in sorted(MODULES) if below(m, "mmzoo.cli", "mmzoo.config", "mmzoo.catalogue")))
    code = f"import importlib, sys\nfor m in {every!r}: importlib.import_module(m)\n"
    assert python(code + f"print(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]\n"


def test_commands_that_train_nothing_load_nothing_heavy(results: Path) -> None:
    """--help, list, show, plugins, report and a plan, one after the other in one process."""
    commands = (["--help"], ["bench", "--help"], ["--version"], ["list"], ["list", "--json"],
                ["show", "dynamic_gap_lb"],
                ["show", "mfeat"], ["plugins"], ["plugins", "--json"], ["bench", "--method", "ogm", "--plan"],
                *(["report", str(results), "--format", f] for f in ("md", "csv", "json", "latex", "html")),
                ["report", str(results), "--modalities"])  # fmt: skip
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


BLOCKED = ("timm", "transformers", "librosa", "soundfile", "av", "scipy", "sklearn", "tqdm", "pydantic", "matplotlib",
           "pandas", "PIL", "torchvision", "torchaudio", "tensorboard", "ray", "submitit", "jinja2", "hypothesis",
           "pytest")  # fmt: skip


def test_the_engine_works_with_torch_numpy_pluggy_and_yaml_alone() -> None:
    """Every strategy, every head, the bench's runner, and one run from plan to row."""
    modules = [m for m in sorted(MODULES) if below(m, "mmzoo.strategies", "mmzoo.heads", "mmzoo.bench", "mmzoo.data")]
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
from mmzoo.bench.plan import make_plan
from mmzoo.bench.runner import run_one
from mmzoo.bench.store import Store
from mmzoo.config.spec import BenchSpec
from mmzoo.plugins import catalogue
plan = make_plan(BenchSpec("dynamic_gap_lb", seeds=(0,), epochs=1, references=False), catalogue())
row = run_one(plan.runs[0], catalogue(), Store(Path(tempfile.mkdtemp())))
print(row["status"], row["reason"], set(sys.modules) & set({BLOCKED!r}))
"""
    assert python(code) == "ok  set()\n"
