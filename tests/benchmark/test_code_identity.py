"""A row holds the numbers of the code that its id stands for; and a results folder executes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmzoo
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.store import Store
from mmzoo.config.identity import check_identity
from mmzoo.config.spec import BenchSpec, RunSpec
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry.plugins import catalogue

MINE = """
from mmzoo.api import Strategy
from my_factor import FACTOR

class Mine(Strategy):
    '''x'''
    def losses(self, step, out, terms):
        return {k: FACTOR * v for k, v in terms.items()}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("my_factor.py").write_text("FACTOR = 1.0\n")
    Path("mine.py").write_text(MINE)
    return tmp_path


def plan_of(method: str, **fields: Any) -> Any:
    spec = BenchSpec(method, seeds=(0, 1), epochs=1, references=False, keep_weights=True, **fields)
    return make_plan(spec, catalogue()).runs


@pytest.mark.parametrize("edited", ["mine.py", "my_factor.py"])
def test_an_edit_during_a_bench_gives_no_numbers_under_the_old_id(mine: Path, edited: str) -> None:
    first, second = plan_of("./mine.py:Mine")
    store = Store(mine / "out")
    assert run_one(first, catalogue(), store)["status"] == "ok"
    before = Path(edited).read_text()
    Path(edited).write_text(before.replace("FACTOR = 1.0", "FACTOR = 0.1").replace("FACTOR *", "-FACTOR *"))
    row = run_one(second, catalogue(), store)
    assert row["status"] == "failed" and not row["metrics"] and not row["hashes"]
    assert "mine.py" in row["reason"] and "was edited after this run was planned" in row["reason"]
    Path(edited).write_text(before)
    assert run_one(second, catalogue(), store)["status"] == "ok"


def test_a_run_of_local_code_is_loaded_by_its_owners_word_alone(mine: Path) -> None:
    first, _ = plan_of("./mine.py:Mine")
    store = Store(mine / "out")
    assert run_one(first, catalogue(), store)["status"] == "ok"
    folder = store.folder(first.spec.run_id)
    with pytest.raises(BadValue, match=r"names code in \./mine\.py.*trust=True"):
        mmzoo.load_run(folder)
    assert type(mmzoo.load_run(folder, trust=True).strategy).__name__ == "Mine"
    Path("my_factor.py").write_text("FACTOR = 0.1\n")
    with pytest.raises(MmzooError, match="was edited after this run was planned"):
        mmzoo.load_run(folder, trust=True)


def _strategy(spec: dict[str, Any], name: str) -> None:
    spec["parts"][0]["strategy"] = name


def _head(spec: dict[str, Any], name: str) -> None:
    spec["head"] = name


def _encoder(spec: dict[str, Any], name: str) -> None:
    spec["encoders"]["fou"][0] = name


def _dataset(spec: dict[str, Any], name: str) -> None:
    spec["dataset"] = name


@pytest.mark.parametrize("plant", [_strategy, _head, _encoder, _dataset])
@pytest.mark.parametrize(
    "name", ["{}/evil.py:Evil", "local/{}/evil.py:Evil", "{}/evil.py:Evil.more", "x/{}/evil.py:E+f"]
)
def test_a_results_folder_executes_no_code(
    tmp_path: Path, plant: Callable[[dict[str, Any], str], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _ = plan_of("concat")
    store = Store(tmp_path / "out")
    run_one(first, catalogue(), store)
    path = store.folder(first.spec.run_id) / "result.json"
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n")
    row = json.loads(path.read_text())
    plant(row["spec"], name.format("."))
    row.pop("checksum", None)  # a stranger can compute one as well, and the id that belongs to a spec
    row["run_id"] = RunSpec.from_dict(row["spec"]).run_id
    folder = path.parent.rename(store.folder(row["run_id"]))
    (folder / "result.json").write_text(json.dumps(row))
    with pytest.raises(MmzooError, match=r"evil\.py"):
        mmzoo.load_run(folder)
    assert not (tmp_path / "ran").exists()


def test_other_files_of_an_encoder_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmzoo.registry.entries import Entry

    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    monkeypatch.setattr(Entry, "files", lambda self, params: [weights] if self.kind == "encoders" else [])
    first, _ = plan_of("concat")
    check_identity(catalogue(), first.spec)
    weights.write_bytes(b"two")
    with pytest.raises(MmzooError, match=r"weights\.bin"):
        check_identity(catalogue(), first.spec)
