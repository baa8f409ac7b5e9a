"""Claims: one owner at a time, whoever dies, wherever, and whatever lies in the folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.leases import STALE, Claimed, claim, read_claim


def left_by(folder: Path, number: int = 1, **facts: Any) -> Path:
    """A claim as a process that is gone would leave it."""
    path = folder / f"claim.{number}"
    gone = {"place": leases.here(), "host": "h", "pid": 2**22 + 1, "started": "1", "bench": "b", "since": 0.0}
    path.write_text(json.dumps({**gone, **facts}))
    return path


def attempts(folder: Path, n: int) -> int:
    """How many of n threads get the claim when all ask for it at once."""
    with ExitStack() as stack:

        def attempt(_: int) -> bool:
            try:
                stack.enter_context(claim(folder))
            except Claimed:
                return False
            return True

        with ThreadPoolExecutor(n) as pool:
            return sum(pool.map(attempt, range(n)))


@pytest.mark.parametrize("before", ["nothing", "a dead owner", "one that let go"])
def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path, before: str) -> None:
    for i in range(30):
        folder = tmp_path / str(i)
        folder.mkdir()
        if before != "nothing":
            left_by(folder, 7, released=before != "a dead owner")
        assert attempts(folder, 8) == 1
        assert not list(folder.glob(".claim*"))


def test_half_written_files_of_a_killed_owner_go_and_those_of_others_stay(tmp_path: Path) -> None:
    left_by(tmp_path, 3)
    for name in (".predictions.npz.a1_b.tmp", ".claim.3.a1_b.tmp", ".planned.json.a1_b.tmp", ".claim.a1_b.tmp"):
        (tmp_path / name).touch()
    with claim(tmp_path) as held:
        held.release(done=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".claim.a1_b.tmp", ".planned.json.a1_b.tmp"]


def test_a_claim_is_refused_while_its_owner_lives_and_gone_when_the_row_is_there(tmp_path: Path) -> None:
    with claim(tmp_path) as held:
        with pytest.raises(Claimed, match=f"process {os.getpid()} on .* works on"), claim(tmp_path):
            pass
        held.note(3, 9, began=True)
        found = read_claim(tmp_path)
        assert found is not None and found.alive and (found.epoch, found.of, found.pid) == (3, 9, os.getpid())
        held.release(done=True)
    assert not list(tmp_path.iterdir())


def test_one_that_stops_lets_go_for_the_next(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claim(tmp_path):
        raise KeyboardInterrupt
    found = read_claim(tmp_path)
    assert found is not None and found.released and not found.alive
    with claim(tmp_path, "b") as held:
        assert held.number == 2 and held.deaths == 0


def test_a_process_id_that_another_process_has_now_is_no_sign_of_life(tmp_path: Path) -> None:
    left_by(tmp_path, pid=os.getpid(), started="another time")
    with claim(tmp_path) as held:
        assert held.number == 2


@pytest.fixture
def zombie() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_that_was_killed_and_not_yet_reaped_is_gone(zombie: int) -> None:
    assert Path(f"/proc/{zombie}").exists() and leases.start_of(zombie) == ""


@pytest.mark.parametrize(("age", "taken"), [(0, False), (STALE - 20, False), (STALE + 20, True)])
def test_an_owner_elsewhere_is_believed_while_its_claim_is_touched(tmp_path: Path, age: float, taken: bool) -> None:
    path = left_by(tmp_path, place="another machine")
    os.utime(path, (time.time() - age,) * 2)
    if taken:
        with claim(tmp_path) as held:
            assert held.number == 2
    else:
        with pytest.raises(Claimed), claim(tmp_path):
            pass


def test_the_age_is_taken_between_two_times_of_the_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by(tmp_path, place="another machine")
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a clock that goes wrong
    with pytest.raises(Claimed), claim(tmp_path):
        pass


def test_deaths_in_a_row_are_counted_within_one_bench(tmp_path: Path) -> None:
    for number, (facts, deaths) in enumerate(
        [
            ({}, 1),
            ({"deaths": 1}, 2),
            ({"deaths": 5, "began": 2, "epoch": 3}, 1),
            ({"bench": "another", "deaths": 5}, 0),
            ({"deaths": 5, "released": True}, 0),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        left_by(folder, **facts)
        with claim(folder, "b") as held:
            assert held.deaths == deaths
            found = read_claim(folder)
            assert found is not None and found.deaths == deaths


def test_an_owner_learns_that_it_was_taken_for_dead(tmp_path: Path) -> None:
    with claim(tmp_path) as held:
        left_by(tmp_path, 2, place="another machine")
        held._write()
        with pytest.raises(Claimed, match="taken over"):
            held.note(1, 2)


def test_signs_of_life_come_without_epochs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.01)
    with claim(tmp_path):
        path = tmp_path / "claim.1"
        os.utime(path, (0, 0))
        until = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["pid", "place", "started", "epoch", "released", "since", "x"]), inner, max_size=4
            )
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_lies_there_is_no_owner_for_ever(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = tmp_path_factory.mktemp("claim")
    (folder / "claim.3").write_bytes(text)
    os.utime(folder / "claim.3", (1, 1))
    (folder / "claim.x").write_bytes(text)
    with claim(folder) as held:
        assert held.number == 4


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*paths: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", none)
    assert attempts(tmp_path, 8) == 1


def test_a_link_that_was_made_while_its_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def twice(source: Any, target: Any) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    with claim(tmp_path) as held:
        assert held.number == 1
