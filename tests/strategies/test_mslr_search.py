"""The search of MSLR by ordinary trainings, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import equal, loader, model, run, train, weights
from helpers.blended_runs import group_state, sliced

from mmzoo.api import (
    Batch,
    Chain,
    Incompatible,
    MultimodalModel,
    Run,
    Strategy,
    Training,
    Window,
)
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.sum import Sum
from mmzoo.strategies.mslr import MSLR, grid
from mmzoo.testing import check_strategy


def alone(m: str, factor: float) -> tuple[float, float]:
    """Accuracy and loss on the slice of an ordinary run of one modality at a scaled rate."""
    whole = model(head=Sum)
    head = Sum({m: 5}, 3)
    head.linear[m].load_state_dict(whole.head.linear[m].state_dict())
    only = MultimodalModel({m: whole.encoders[m]}, head)

    def part(**options: Any) -> list[Batch]:
        return [replace(b, inputs={m: b.inputs[m]}) for b in loader(**options).batches()]

    r = Run(only, Strategy(), train=part(), training=Training(lr=0.05 * factor, epochs=3, weight_decay=0.01), seed=0)
    rows = evaluate(train(r, 3).model, Strategy(), part(n=20, seed=9))
    return rows["acc"], -rows["loss"]


def test_keep_and_smart_search_what_ordinary_trainings_find(forks: list[tuple[int, int]]) -> None:
    def fresh(strategy: Strategy) -> Run:
        own = list(loader().batches())  # in a fixed order, as in the trainings that are compared with
        return run(
            strategy,
            model(head=Sum),
            train=own,
            slice=loader(n=20, seed=9),
            training=Training(lr=0.05, epochs=3, weight_decay=0.01),
        )

    tried = grid(3, 40.0)
    smart = MSLR(mode="smart", points=3, span=40.0, trial=1.0)
    r = fresh(smart)
    before = weights(r.model)
    r.start_epoch()
    assert equal(before, weights(r.model)) and len(forks) == 9 and {f[1] for f in forks} == {3}
    found = {m: tried[max(range(3), key=[alone(m, x) for x in tried].__getitem__)] for m in "ab"}
    assert smart.found == found
    joint = []
    for x in tried:
        other = train(fresh(MSLR(mode="keep", factors={m: c * x for m, c in found.items()})), 3)
        rows = evaluate(other.model, Strategy(), loader(n=20, seed=9).batches())
        joint.append((rows["acc"], -rows["loss"]))
    assert smart.shared == tried[max(range(3), key=joint.__getitem__)]
    assert {smart.factor(m) for m in "ab"} == {found[m] * smart.shared for m in "ab"}
    assert r._lr_scale["encoder:a"] == smart.factor("a") and len(set(tried)) == 3
    forks.clear()
    train(r, 2)
    assert not forks


def test_a_search_costs_what_it_declares_and_given_factors_need_none(forks: list[tuple[int, int]]) -> None:
    keep = MSLR(mode="keep", points=3, trial=0.5)
    r = train(sliced(keep), 4)
    assert keep.cost["backward"] == 2.5 and r.cost.backward == pytest.approx(2.5 * 4 * r.steps_per_epoch)
    # Each trial is scored on the slice, of three batches, by one modality of two.
    assert keep.cost["slice_run"] == 3 and MSLR(mode="smart", points=3).cost["slice_run"] == 6
    assert r.cost.forward == pytest.approx(2.5 * 4 * r.steps_per_epoch + 3 * 3)
    given = MSLR(mode="keep", factors={"a": 0.5})
    assert not given.requires and given.cost == {"forward": 1, "backward": 1}
    forks.clear()
    train(run(given), 1)
    assert not forks
    with pytest.raises(Incompatible, match=r"audio; the modalities here are a, b"):
        run(MSLR(mode="keep", factors={"audio": 0.5}))


# ---------------------------------------------------------------------- what the three need of the engine
def test_a_snapshot_with_the_optimizers_memory_is_put_back() -> None:
    r = train(run(m=model(head=Sum), training=Training(optimizer="adam", epochs=5)), 1)
    early = r.snapshot("encoder:a", optimizer=True)
    kept, bare = group_state(r, "a"), r.snapshot("encoder:a")
    train(r, 1)
    r.restore("encoder:a", bare)
    steps = [v for k, v in group_state(r, "a").items() if k.endswith("/step")]
    assert equal(bare, r.snapshot("encoder:a")) and {float(s) for s in steps} == {2.0 * r.steps_per_epoch}
    r.restore("encoder:a", early)
    own = len(list(r.model.encoders["a"].parameters()))
    now = {
        k: v for k, v in group_state(r, "a").items() if "head" not in k and ("." in k or int(k[: k.index("/")]) < own)
    }
    assert len(now) > own and all(torch.equal(kept[k], v) for k, v in now.items())
    train(r, 1)
    assert early["optimizer"] and float(next(iter(early["optimizer"].values()))["step"]) == r.steps_per_epoch


def test_window_end_comes_once_after_the_last_open_epoch() -> None:
    class Noting(Strategy):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def epoch_end(self, run: Run, metrics: Any) -> None:
            self.seen.append(("epoch", run.epoch))

        def window_end(self, run: Run) -> None:
            self.seen.append(("window", run.epoch))

    inner = Noting()
    train(run(Window(inner, 1, 2), training=Training(epochs=5)), 5)
    assert inner.seen == [("epoch", 1), ("epoch", 2), ("window", 2)]
    for open_to_the_end in (Window(Noting(), 1), Chain(Noting())):
        train(run(open_to_the_end, training=Training(epochs=3)), 3)
        noted = getattr(open_to_the_end, "inner", None) or open_to_the_end.parts[0]
        assert not any(name == "window" for name, _ in noted.seen)


def test_passes_over_the_slice_are_part_of_the_declared_cost() -> None:
    class Reading(Strategy):
        requires = frozenset({"slice"})

        def epoch_end(self, run: Run, metrics: Any) -> None:
            run.log("reading/acc", metrics["acc"])

    class Honest(Reading):
        cost = {"forward": 1, "backward": 1, "slice": 1}  # noqa: RUF012

    assert check_strategy(Honest, only=["check_cost"]).ok
    failed = check_strategy(Reading, only=["check_cost"], raise_failures=False).failed
    assert "cost['slice']" in failed[0].reason
    assert Chain(Honest(), Honest()).cost["slice"] == 2
