"""The wheel: it holds what the source tree holds, and works from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("mmzoo-*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed apart from everything else."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    return target


def run(site: Path, cwd: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site), "MMZOO_PLUGINS": ""}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_source_tree(wheel: Path) -> None:
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    source = {
        str(p.relative_to(ROOT)) for p in (ROOT / "mmzoo").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert packed == source | {"mmzoo/registry.yaml"}
    metadata = {n.rpartition(".dist-info/")[2] for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in n}
    assert {"licenses/LICENSE", "licenses/mmzoo/data/datasets/MFEAT-ATTRIBUTION.md"} <= metadata
    assert {"mmzoo/py.typed", "mmzoo/data/datasets/mfeat.npz", "mmzoo/testing/__init__.py"} <= packed


def test_the_wheel_lists_and_benches_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    where = run(site, tmp_path, "-c", "import mmzoo; print(mmzoo.__file__)")
    assert where.startswith(str(site))
    listed = json.loads(run(site, tmp_path, "-m", "mmzoo", "list", "--json"))
    assert {"dynamic_gap_lb", "ogm", "pmr"} <= {e["name"] for e in listed["methods"]}
    run(site, tmp_path, "-m", "mmzoo", "bench", "--method", "ogm", "--seeds", "1", "--epochs", "1", "--out", "out")
    rows = json.loads(run(site, tmp_path, "-m", "mmzoo", "report", "out", "--format", "json"))["rows"]
    assert len(rows) == 5 and {r["status"] for r in rows} == {"ok"}
    assert (site / "bin" / "mmzoo").exists()
    page = run(site, tmp_path, "-m", "mmzoo", "report", "out", "--format", "html")
    assert page.startswith("<!doctype html>") and "<table>" in page and all(r["label"] in page for r in rows)


def test_the_wheel_has_the_pages_of_the_documentation(site: Path, tmp_path: Path) -> None:
    assert "own_loop" in run(site, tmp_path, "-m", "mmzoo", "docs")
    assert run(site, tmp_path, "-m", "mmzoo", "docs", "start") == (ROOT / "mmzoo/docs/start.md").read_text()


def test_the_wheel_starts_a_package_from_its_templates(site: Path, tmp_path: Path) -> None:
    run(site, tmp_path, "-m", "mmzoo", "new", "strategy", "calm")
    made = [p for p in tmp_path.rglob("*") if p.suffix in (".py", ".toml", ".yaml")]
    assert {"pyproject.toml", "registry.yaml", "calm.py"} <= {p.name for p in made}


def test_the_contract_checks_ship_and_run_from_the_wheel(site: Path, tmp_path: Path) -> None:
    code = (
        "from mmzoo.testing import check_head, check_strategy\n"
        "from mmzoo.heads.sum import Sum\nfrom mmzoo.strategies.joint_unimodal import JointUnimodal\n"
        "print(check_strategy(JointUnimodal).ok, check_head(Sum).ok)"
    )
    assert run(site, tmp_path, "-c", code).split() == ["True", "True"]
