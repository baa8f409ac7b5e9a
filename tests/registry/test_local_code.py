"""What is hashed of a user's own file is all of its local code, and is what is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.watchdog import watchdog

from mmzoo.errors import BadValue
from mmzoo.registry import local_code, user_classes
from mmzoo.registry.plugins import catalogue

MINE = """
from mmzoo.api import Strategy
{imports}

class Mine(Strategy):
    '''x'''
    factor = FACTOR
"""


def version() -> int:
    return catalogue().get("strategies", "./mine.py:Mine").version


def factor() -> float:
    return user_classes.load("./mine.py", "Mine").factor  # type: ignore[attr-defined]


def write(imports: str, files: Mapping[str, str] | None = None) -> None:
    Path("mine.py").write_text(MINE.format(imports=imports))
    for name, text in (files or {}).items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("imports", "edited", "others"),
    [
        ("from helper_a import FACTOR", "helper_a.py", {}),
        ("import helper_a\nFACTOR = helper_a.FACTOR", "helper_a.py", {}),
        ("from middle_a import FACTOR", "deep_a.py", {"middle_a.py": "from deep_a import FACTOR\n"}),
        ("from package_a.inner import FACTOR", "package_a/inner.py", {}),
        (
            "from package_b import FACTOR",
            "package_b/inner.py",
            {"package_b/__init__.py": "from .inner import FACTOR\n"},
        ),
        ("import importlib\nFACTOR = importlib.import_module('helper_a').FACTOR", "helper_a.py", {}),
        ("def late():\n    import helper_a\n    return helper_a.FACTOR\nFACTOR = late()", "helper_a.py", {}),
    ],
)
def test_an_edited_module_is_another_version_and_is_the_code_that_runs(
    imports: str, edited: str, others: Mapping[str, str]
) -> None:
    write(imports, {edited: "FACTOR = 1.0\n", **others})
    first = version()
    assert factor() == 1.0 and version() == first
    stat = Path(edited).stat()
    write(imports, {edited: "FACTOR = 0.5\n"})
    # The same size and time: a cached .pyc would be taken for fresh.
    os.utime(edited, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert version() != first and factor() == 0.5
    write(imports, {edited: "FACTOR = 1.0\n"})
    assert version() == first and factor() == 1.0


def test_a_file_without_local_modules_has_the_version_that_it_always_had() -> None:
    import hashlib

    write("import math, torch, collections.abc\nFACTOR = 1.0")
    assert version() == int(hashlib.sha256(Path("mine.py").read_bytes()).hexdigest()[:12], 16)


def test_two_files_with_helpers_of_one_name_run_their_own() -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        Path(name).mkdir()
        Path(name, "mine.py").write_text(MINE.format(imports="from same_helper import FACTOR"))
        Path(name, "same_helper.py").write_text(f"FACTOR = {value}\n")
    for name, value in (("one", 1.0), ("two", 2.0), ("one", 1.0)):
        assert user_classes.load(f"{name}/mine.py", "Mine").factor == value  # type: ignore[attr-defined]


def test_within_a_run_the_code_stays_as_it_was_read() -> None:
    write("FACTOR = 1.0")
    with local_code.frozen():
        first = version()
        write("FACTOR = 0.5")
        assert version() == first and factor() == 1.0
    assert version() != first and factor() == 0.5


def test_circles_and_faults_among_modules_end() -> None:
    write(
        "from round_a import FACTOR", {"round_a.py": "import round_b\nFACTOR = 1.0\n", "round_b.py": "import round_a\n"}
    )
    assert factor() == 1.0
    write("from faulty_a import FACTOR", {"faulty_a.py": "def (:\n"})
    with pytest.raises(Exception, match=r"mine\.py cannot be loaded.*SyntaxError"):
        factor()


def test_a_name_of_code_executes_nothing_where_no_class_is_meant() -> None:
    Path("evil.py").write_text("open('ran', 'w').close()\n")
    for kind in ("datasets", "trackers", "methods"):
        assert not catalogue().has(kind, "./evil.py:Evil")
    assert not Path("ran").exists()
    with pytest.raises(BadValue, match=r"cannot read gone\.py"):
        local_code.read("gone.py")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_no_file_of_code() -> None:
    os.mkfifo("pipe.py")
    Path("zero.py").symlink_to("/dev/zero")
    for name in ("pipe.py", "zero.py"):
        with watchdog(30), pytest.raises(BadValue, match=rf"cannot read {name}: not a regular file"):
            local_code.read(name)


def test_another_checkout_of_mmzoo_on_the_path_is_no_local_code(monkeypatch: pytest.MonkeyPatch) -> None:
    write("FACTOR = 1")
    alone = version()
    write("FACTOR = 1", {"elsewhere/mmzoo/__init__.py": ""})
    Path("elsewhere/mmzoo/api.py").write_text("raise RuntimeError('another checkout')\n")
    monkeypatch.setenv("PYTHONPATH", str(Path("elsewhere").resolve()))
    assert version() == alone and factor() == 1
