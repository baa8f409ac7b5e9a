"""A loop of one's own, random streams, samples left out, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import NormEncoder, data, equal, loader, model, run, train, weights
from helpers.resumed_runs import through_disk
from torch import Tensor, nn

from mmzoo.api import (
    BadValue,
    Batch,
    Encoder,
    MultimodalModel,
    Run,
    Step,
    Strategy,
    Training,
)
from mmzoo.heads.sum import Sum
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.training.loop import Selection, fit


def test_a_loop_of_ones_own() -> None:
    """The use that the README shows: the same pass inside a researcher's loop, with their own model and optimizer."""
    torch.manual_seed(0)
    encoders = {"audio": NormEncoder(4), "video": NormEncoder(3)}
    net = MultimodalModel(encoders, Sum({"audio": 5, "video": 5}, 3))
    d = data(n=120, widths={"audio": 4, "video": 3})
    whole = Batch(**d)
    batches = [whole.map(lambda t, i=i: t[i : i + 20]) for i in range(0, 120, 20)]
    r = Run(net, OGM(alpha=0.3), train=batches, optimizer=lambda groups: torch.optim.RMSprop(groups, lr=1e-2))

    def loss() -> float:
        net.eval()
        with torch.no_grad():
            return float(sum(nn.functional.cross_entropy(net(b.inputs).logits, b.target) for b in batches))

    before = loss()
    for _ in range(5):
        r.start_epoch()
        for batch in batches:
            r.step(batch)
        logged = r.end_epoch()
    assert loss() < before / 2
    assert set(logged) >= {"loss/task", "ogm/audio", "ogm/video"}
    assert isinstance(r.optimizer, torch.optim.RMSprop)


def test_streams_do_not_depend_on_each_other() -> None:
    def order(r: Run) -> list[int]:
        return [int(i) for b in r.epoch_batches() for i in b.index]

    plain, busy = run(), run(PMR())
    assert order(plain) == order(busy)
    assert order(plain) != order(run(seed=1))
    assert [b.index.tolist() for b in plain.train("x")] != [b.index.tolist() for b in plain.train("y")]


def test_keep_leaves_items_out_of_the_loss_and_an_empty_keep_skips_the_pass() -> None:
    class Half(Strategy):
        none = False

        def features(self, step: Step, feats: Any) -> Any:
            step.keep = (step.batch.index % 2 == 0) & (not self.none)
            return feats

    half, skipping = Half(), Half()
    skipping.none = True
    kept = [b for b in loader().batches()]
    r = train(run(half, train=kept), 1)
    alone = [
        Batch(
            {m: x[b.index % 2 == 0] for m, x in b.inputs.items()}, b.target[b.index % 2 == 0], b.index[b.index % 2 == 0]
        )
        for b in kept
    ]
    expected = train(run(train=alone), 1)
    for k, v in weights(r.model).items():
        assert torch.allclose(v, weights(expected.model)[k], atol=1e-6), k
    still = run(skipping, train=kept)
    before = weights(still.model)
    assert equal(before, weights(train(still, 1).model))


def test_the_slice_is_drawn_in_an_order_of_its_own() -> None:
    """Data sorted by class would otherwise give first batches of one class."""
    ordered = loader(n=40)
    r = run(DynamicGap(schedule="learned"), slice=ordered, training=Training(epochs=3))
    first = [b.index.tolist() for b in r.meta_batches("x")]
    assert sorted(i for batch in first for i in batch) == list(range(40)) and first[0] != list(range(8))
    assert first == [b.index.tolist() for b in r.meta_batches("x")]
    r.epoch = 1
    assert first != [b.index.tolist() for b in r.meta_batches("x")]


def test_a_remainder_of_one_item_joins_the_piece_before_it() -> None:
    source = loader(n=9, batch_size=9)
    train(run(m=model(norm=True), train=source, training=Training(epochs=1, micro_batch=4)), 1)


def test_warnings_are_counted_and_resumed() -> None:
    r = run()
    r.warn("odd"), r.warn("odd")
    assert run(state=through_disk(r.state_dict())).warnings == {"odd": 2}


def test_a_generator_of_batches_is_refused_with_the_next_step() -> None:
    with pytest.raises(BadValue, match="a list of batches or a loader"):
        run(train=(b for b in loader().batches()))


def test_an_optimizer_of_ones_own_keeps_its_rate_and_weight_decay() -> None:
    r = run(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5, weight_decay=0.3))
    assert {(g["lr"], g["weight_decay"]) for g in r.optimizer.param_groups} == {(0.5, 0.3)}
    r.add_module("late", lambda: nn.Linear(2, 2))
    assert r.optimizer.param_groups[-1]["lr"] == 0.5


def test_the_order_of_modalities_must_be_the_models_where_some_are_absent() -> None:
    r = run()
    batch = next(iter(loader(present=torch.ones(40, 2, dtype=torch.bool)).batches()))
    swapped = Batch(dict(reversed(batch.inputs.items())), batch.target, batch.index, batch.present)
    with pytest.raises(BadValue, match="order must be the same"):
        r.step(swapped)


def test_one_item_with_a_modality_does_not_break_batch_statistics() -> None:
    present = torch.ones(40, 2, dtype=torch.bool)
    present[1:8, 0] = False
    train(run(OGM(), model(norm=True), train=loader(present=present)), 1)


def test_encoders_without_parameters_can_be_trained_on() -> None:
    class Fixed(Encoder):
        out_dim = 4

        def forward(self, x: Tensor) -> Tensor:
            return x

    encoders = {"a": Fixed(), "b": Fixed()}
    m = MultimodalModel(encoders, Sum({"a": 4, "b": 4}, 3))
    train(run(OGM(noise=True), m, train=loader(widths={"a": 4, "b": 4})), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_is_drawn_where_the_weights_are_and_replayed_there() -> None:
    def after() -> dict[str, torch.Tensor]:
        m = model(norm=True)
        r = Run(m, OGM(noise=True), train=loader(), training=Training(), seed=1, device="cuda")
        for batch in r.epoch_batches():
            r.step(batch)
        return {n: t.cpu() for n, t in m.state_dict().items()}

    first, second = after(), after()
    assert all(torch.equal(first[n], second[n]) for n in first)


class Zeroes(Strategy):
    """Puts other weights in place at the end of its last epoch, and may stop there."""

    def __init__(self, last: int, stops: bool) -> None:
        self.last, self.stops = last, stops

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if run.epoch == self.last:
            run.edit("head:shared", lambda name, value: value * 0.5)
            if self.stops:
                run.stop()


@pytest.mark.parametrize("stops", [False, True])
def test_what_the_last_epoch_put_in_place_is_offered_before_the_checkpoint(stops: bool) -> None:
    seen: list[int] = []
    saved: dict[str, Any] = {}

    def keep(record: dict[str, Any], chosen: Selection) -> None:
        saved.update(run=copy.deepcopy(r.state_dict()), selection=copy.deepcopy(vars(chosen)), seen=list(seen))

    epochs = 4 if stops else 3
    r = run(Zeroes(2, stops), training=Training(lr=0.01, epochs=epochs))
    straight = fit(r, lambda: loader(seed=3).batches(), on_epoch=keep, on_candidate=seen.append)
    assert seen == saved["seen"] == [0, 1, 2, 2]
    again = run(Zeroes(2, stops), training=Training(lr=0.01, epochs=epochs), state=saved["run"])
    resumed = fit(again, lambda: loader(seed=3).batches(), selection=Selection(**saved["selection"]))
    assert (resumed.epoch, resumed.score, resumed.loss) == (straight.epoch, straight.score, straight.loss)
    assert equal(resumed.weights, straight.weights)
