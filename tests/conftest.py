"""What all tests share: one thread, no third-party plugins unless a test asks for them, and one small bench."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, plugins, read_entries

torch.set_num_threads(1)
#: a bench that names no data set takes the bundled one alone, and nobody's prepared data is touched
os.environ["MMZOO_DATASETS"] = "mfeat"
os.environ["MMZOO_HOME"] = tempfile.mkdtemp(prefix="mmzoo-tests-")
os.environ["MMZOO_WORKERS"] = "1"  # runs in this process, where a test can reach them; those of launchers ask for more
atexit.register(shutil.rmtree, os.environ["MMZOO_HOME"], ignore_errors=True)
SMALL_BENCH = (
    "--method",
    "dynamic_gap_lb",
    "--baselines",
    "ogm,pmr",
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--device",
    "cpu",
)


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What happens to be installed must not change a result."""
    monkeypatch.setenv("MMZOO_PLUGINS", "")
    plugins.load.cache_clear()
    yield
    plugins.load.cache_clear()


@pytest.fixture
def mmzoo(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mmzoo: Callable[..., Result]) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one message, without a traceback; the message."""

    def run(*arguments: object) -> str:
        result = mmzoo(*arguments)
        assert result.code == 2, result
        assert result.out == "" or "Plan:" in result.out
        assert result.err.startswith("mmzoo: ") and "Traceback" not in result.err, result.err
        return result.err.removeprefix("mmzoo: ").rstrip("\n")

    return run


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """What mmzoo itself ships."""
    return Catalogue(read_entries(built_in_path(), BUILT_IN))


@pytest.fixture
def plan(catalogue: Catalogue) -> Callable[..., Plan]:
    def make(method: str = "ogm", **fields: Any) -> Plan:
        fields = {"seeds": (0,), "epochs": 1, "references": False, **fields}
        return make_plan(BenchSpec(method=method, **fields), catalogue)

    return make


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one small bench; tests must not change them."""
    out = tmp_path_factory.mktemp("bench") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMZOO_PLUGINS", "")
        plugins.load.cache_clear()
        assert main(["bench", *SMALL_BENCH, "--out", str(out)]) == 0
    return out
