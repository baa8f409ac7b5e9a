"""Several runs on one GPU: who may start beside whom. No GPU is needed: what is asked of one is made up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.watchdog import watchdog
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.execution.packing import CONTEXT, Card, Crowded, Seat, admits, needed
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results.store import ALONE, Store
from mmzoo.benchmark.scheduling import worker_loop as work_module
from mmzoo.benchmark.scheduling.worker_loop import Order, work
from mmzoo.core.model import MultimodalModel
from mmzoo.errors import MmzooError
from mmzoo.registry import Catalogue

BYTES = st.integers(0, 100)
NEEDS = st.none() | BYTES
SEATS = st.lists(st.builds(Seat, NEEDS, st.just(True)) | st.builds(Seat, BYTES, st.just(False)), max_size=6)
MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- the rule
@settings(max_examples=60)
@given(BYTES, NEEDS, SEATS)
def test_alone_always_and_beside_others_only_what_is_known_and_fits(
    room: int, need: int | None, others: Sequence[Seat]
) -> None:
    if not any(s.working for s in others):
        assert admits(room, need, others)
    elif admits(room, need, others):
        assert need is not None and need + sum(s.need for s in others if s.need is not None) <= room
        assert all(s.need is not None for s in others)


@settings(max_examples=60)
@given(BYTES, BYTES, SEATS, BYTES)
def test_more_room_and_a_smaller_run_never_hurt(room: int, need: int, others: Sequence[Seat], more: int) -> None:
    if admits(room, need + more, others):
        assert admits(room, need, others) and admits(room + more, need + more, others)
        assert admits(room, need, list(others)[1:])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=12), st.integers(1, 5), st.randoms()
)
def test_all_runs_end_and_the_card_is_never_promised_twice(
    runs: list[tuple[int, int]], workers: int, random: Any
) -> None:
    """runs: (kind, epochs). A kind takes 10 times its number; room is 35, so that not all of them fit together."""
    waiting, at_work, measured = list(runs), {}, {}  # type: ignore[var-annotated]
    for _ in range(500):
        if not waiting and not at_work:
            break
        worker = random.randrange(workers)
        if worker in at_work:
            kind, left, need = at_work[worker]
            at_work[worker] = (kind, left - 1, needed_of(kind) if need is None else need)
            if left == 1:
                measured[kind] = needed_of(kind)
                del at_work[worker]
            continue
        seats = [Seat(need, True) for _, _, need in at_work.values()]
        for run in waiting:
            if admits(35, measured.get(run[0]), seats):
                waiting.remove(run)
                at_work[worker] = (*run, measured.get(run[0]))
                break
        needs = [need for _, _, need in at_work.values()]
        assert len(needs) < 2 or (None not in needs and sum(needs) <= 35)
    assert not waiting and not at_work


def needed_of(kind: int) -> int:
    return 10 * kind


# ---------------------------------------------------------------------- processes on a card
class Made:
    """A card with 10 GB, of which each process says what it takes."""

    name = "Made GPU-1"

    def __init__(self, peak: int = 2 << 30, held: int = 0, free: int = 10 << 30) -> None:
        self._peak, self._held, self._free = peak, held, free

    def free(self) -> int:
        return self._free

    def peak(self) -> int:
        return self._peak

    def held(self) -> int:
        return self._held


@pytest.fixture
def runs(plan: MakePlan) -> tuple[Planned, ...]:
    """Two seeds of one kind, and one of another."""
    return plan("concat", seeds=(0, 1), baselines=("ogm",)).runs


def cards(store: Store, *peaks: int) -> list[Card]:
    """One for each peak, in the name of processes that live as long as the tests."""
    return [Card(store, Made(peak), pid) for peak, pid in zip(peaks, (os.getpid(), os.getppid(), 1))]


def test_the_first_of_a_kind_is_joined_once_its_peak_is_known(tmp_path: Path, runs: tuple[Planned, ...]) -> None:
    store = Store(tmp_path)
    mine, other, third = cards(store, 2 << 30, 3 << 30, 6 << 30)
    a, b, c = runs[0], runs[1], runs[2]
    assert a.spec.config_id == b.spec.config_id != c.spec.config_id
    with mine.seat(a):
        assert not mine.crowded()
        with pytest.raises(Crowded), other.seat(c):
            pass
        mine.epoch_done()
        assert mine.crowded()
        with pytest.raises(Crowded), other.seat(c):  # of its own kind nothing is known yet
            pass
    assert store.peak(a.spec.config_id, "Made GPU-1") == 2 << 30
    with mine.seat(a), other.seat(b):
        assert mine.crowded() and other.crowded()
        with pytest.raises(Crowded), third.seat(c):
            pass
    with third.seat(c):
        third.epoch_done()
    # 2 and 6 GB fit into 10 with what a process takes besides; 6 more do not.
    with mine.seat(a), third.seat(c), pytest.raises(Crowded), other.seat(c):
        pass
    assert store.peak(a.spec.config_id, "another card") is None


def test_who_is_gone_counts_no_more_and_who_idles_counts_what_it_holds(
    tmp_path: Path, runs: tuple[Planned, ...]
) -> None:
    store = Store(tmp_path)
    mine, other = cards(store, 4 << 30, 4 << 30)
    for planned in runs:
        store.note_peak(planned.spec.config_id, "Made GPU-1", 4 << 30)
    with mine.seat(runs[0]), other.seat(runs[1]):
        pass
    (path,) = (tmp_path / "memory").glob("card.*.json")
    book = json.loads(path.read_text())
    assert {s["need"] for s in book["seats"].values()} == {CONTEXT} and not any(
        s["working"] for s in book["seats"].values()
    )
    path.write_text(json.dumps({**book, "seats": {"4194305 17": {"need": None, "working": True}}}))
    with mine.seat(runs[0]), other.seat(runs[1]):
        pass
    full = Card(store, Made(held=9 << 30), 1)  # after its run it keeps nearly all
    with full.seat(runs[0]):
        pass
    mine = Card(store, Made(4 << 30, free=0), os.getpid())
    with mine.seat(runs[0]), pytest.raises(Crowded), other.seat(runs[1]):
        pass
    path.write_text("[torn")
    with mine.seat(runs[0]):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_card_s_files_holds_nobody_up(tmp_path: Path, runs: tuple[Planned, ...]) -> None:
    (mine,) = cards(Store(tmp_path), 2 << 30)
    memory = tmp_path / "memory"
    memory.mkdir()
    os.mkfifo(memory / "card.Made GPU-1.json")
    with watchdog(30), mine.seat(runs[0]):
        pass
    (memory / "card.Made GPU-1.lock").unlink()
    os.mkfifo(memory / "card.Made GPU-1.lock")
    with (
        watchdog(30),
        pytest.raises(MmzooError, match=r"card\.Made GPU-1\.lock: not a regular file"),
        mine.seat(runs[0]),
    ):
        pass


def test_a_run_whose_memory_runs_out_beside_others_goes_on_alone_with_whole_batches(
    tmp_path: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan("concat", epochs=2).runs
    store = Store(tmp_path)
    store.note_peak(planned.spec.config_id, "Made GPU-1", 1 << 30)
    card = Card(store, Made())
    monkeypatch.setattr(work_module, "Unshared", lambda: card)
    real, failed = MultimodalModel.encode, []

    def encode(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and card.crowded():
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MultimodalModel, "encode", encode)
    order = replace(Order.of([planned], store, device="cpu", checkpoint_every=0), packed=True)
    assert work(order, store, catalogue) == {} and len(failed) == 1
    row = store.row(planned.spec.run_id)
    assert row is not None and row["status"] == "ok" and row["micro_batch"] is None
    assert store.peak(planned.spec.config_id, "Made GPU-1") == ALONE
    assert "beside other runs" in (store.folder(planned.spec.run_id) / "log.txt").read_text()
    assert store.micro_batch(planned.spec.data_id) is None
    assert needed(1 << 30) > 1 << 30
