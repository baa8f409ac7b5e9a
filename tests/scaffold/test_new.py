"""mmzoo new: what it writes is a complete package whose own tests pass at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmzoo
from mmzoo.cli import main
from mmzoo.cli.new import PARTS as KINDS
from mmzoo.registry import read_entries
from mmzoo.scaffold.write import PARTS

SOURCE = Path(mmzoo.__file__).resolve().parent.parent


def test_every_kind_is_described() -> None:
    assert list(KINDS) == list(PARTS)


@pytest.mark.parametrize("kind", PARTS)
def test_a_package_is_complete(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", kind, "my_thing", "--dir", str(tmp_path)]) == 0
    folder = tmp_path / "my-thing"
    assert f"Next: pip install -e {folder}" in capsys.readouterr().out
    entries = read_entries(folder / "my_thing" / "registry.yaml")
    named = {e.name for e in entries}
    assert named == ({"my_thing"} if kind != "plugin" else {f"my_thing_{part}" for part in PARTS["plugin"]})
    text = "".join(p.read_text() for p in folder.rglob("*") if p.is_file())
    assert "$" not in text and ".tmpl" not in text
    assert not list(tmp_path.glob(".my-thing*"))


def test_what_is_new_is_experimental_and_says_what_it_acts_on(tmp_path: Path) -> None:
    assert main(["new", "plugin", "my_thing", "--dir", str(tmp_path)]) == 0
    entries = read_entries(tmp_path / "my-thing" / "my_thing" / "registry.yaml")
    assert {e.kind for e in entries} == {"methods", "strategies", "heads", "encoders", "datasets"}
    assert {e.status for e in entries} == {"experimental"}
    assert [e.extra["family"] for e in entries if e.kind == "strategies"] == ["distillation"]


def test_what_to_install_is_a_folder_for_pip_and_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "head", "my_thing"]) == 0 and "Next: pip install -e ./my-thing " in capsys.readouterr().out
    assert main(["new", "head", "my_thing", "--dir", "my work"]) == 0
    assert "Next: pip install -e './my work/my-thing' " in capsys.readouterr().out


def test_its_own_tests_pass(tmp_path: Path) -> None:
    """A package with one part of each kind, tested where nothing but mmzoo can be imported beside it."""
    assert main(["new", "plugin", "my_zoo", "--dir", str(tmp_path)]) == 0
    folder = tmp_path / "my-zoo"
    env = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}", "MMZOO_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " failed" not in done.stdout and " passed" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["strategy", "ogm"], "taken by"),
        (["head", "My-Head"], "lower_snake_case"),
        (["encoder", "class"], "no usable name"),
        (["strategy", "mmzoo"], "no usable name"),
        (["strategy", "torch"], "Python package that is installed"),
    ],
)
def test_names_that_cannot_be_used(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", *given, "--dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my-thing").mkdir()
    (tmp_path / "my-thing" / "precious").write_text("x")
    assert main(["new", "head", "my_thing", "--dir", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "my-thing" / "precious").read_text() == "x"
