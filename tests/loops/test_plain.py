"""A strategy in a plain PyTorch loop: the numbers are those of mmzoo's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.foreign_loops import (
    EPOCHS,
    METHODS,
    Net,
    as_encoder,
    assert_same,
    batches,
    held_out,
    own,
    reference,
    sgd,
    sgd_groups,
    shared_model,
)
from torch import nn

import mmzoo
from mmzoo.api import Batch, MultimodalModel, Run, Training
from mmzoo.errors import BadValue, Incompatible
from mmzoo.evaluation.scores import evaluate_modalities
from mmzoo.heads.concat import Concat
from mmzoo.loops.attached import Attached, strategy_of
from mmzoo.loops.branches import Branches, as_model
from mmzoo.strategies.ogm import OGM


def attach(net: Any, method: Any, **options: Any) -> Attached:
    return mmzoo.attach(net, method, train=batches(), epochs=EPOCHS, slice=held_out(), **options)


def loop(net: Any, attached: Attached, optimizer: Any) -> dict[str, float]:
    """A loop as anybody writes it, with the lines that attach adds."""
    logged: dict[str, float] = {}
    for _ in range(EPOCHS):
        attached.start_epoch()
        for batch in batches():
            optimizer.zero_grad()
            attached.loss(batch).backward()
            attached.gradients()
            optimizer.step()
        logged = attached.end_epoch()
    return logged


@pytest.mark.parametrize("method", METHODS)
def test_the_numbers_are_those_of_our_loop(method: str) -> None:
    net = Net()
    optimizer = sgd(net.parameters())
    logged = loop(net, attach(net, method, optimizer=optimizer), optimizer)
    expected, values = reference(method)
    assert_same(net.state_dict(), expected)
    assert_same(logged, values)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(Net().state_dict().values(), expected.values()))


@pytest.mark.parametrize("method", ["ogm", "pmr", "mla", "dynamic_gap_lb"])
def test_whole_steps_are_those_of_our_loop(method: str) -> None:
    """MLA makes a pass a modality, so that only `step` can train it; its model is one of ours."""

    net = shared_model()
    attached = attach(net, method, optimizer=sgd(net.parameters()))
    for _ in range(EPOCHS):
        attached.start_epoch()
        for batch in batches():
            attached.step(batch)
        logged = attached.end_epoch()
    expected, values = reference(method, shared_model())
    assert_same(net.state_dict(), expected)
    assert_same(logged, values)


def test_evaluate_reads_what_attach_reads_and_gives_what_evaluate_modalities_gives() -> None:
    net = Net()
    optimizer = sgd(net.parameters())
    plain = attach(net, "ogm", optimizer=optimizer)
    loop(net, plain, optimizer)
    state = torch.get_rng_state()
    found = plain.evaluate(batches(), held_out())
    assert torch.equal(torch.get_rng_state(), state)
    made = [[plain._read(b) for b in given] for given in (batches(), held_out())]
    expected = evaluate_modalities(plain.model, plain.strategy, train=lambda: made[0], test=lambda: made[1])
    assert found == expected and set(found["modalities"]) == {"audio", "video"}
    odd = [{"x": b, "n": 1} for b in batches()]
    read = mmzoo.attach(
        net, "ogm", train=odd, epochs=1, read=lambda b: ({m: b["x"][m] for m in ("audio", "video")}, b["x"]["labels"])
    )
    assert read.evaluate(odd, [{"x": b} for b in held_out()])["acc"] == found["acc"]
    with pytest.raises(BadValue, match="not an iterator"):
        plain.evaluate(iter(batches()), held_out())
    with pytest.raises(BadValue, match="no batches to evaluate"):
        plain.evaluate(batches(), [])


def test_batches_of_a_loader_are_refused_by_evaluate_modalities_with_what_to_call() -> None:
    attached, loader = attach(Net(), "ogm"), batches()
    for given, said in ((lambda: loader, r"a batch is a dict.*attached\.evaluate"), (loader, "train=lambda: batches")):
        with pytest.raises(BadValue, match=said):
            evaluate_modalities(attached.model, attached.strategy, train=given, test=lambda: loader)


def test_a_linear_head_is_the_head_concat() -> None:
    """OGM on a network with `nn.Linear` on both features equals OGM on mmzoo's head concat with these weights."""
    net, twin = Net(), Net()
    head = Concat({"audio": 6, "video": 4}, 3)
    with torch.no_grad():
        for m, block in zip(("audio", "video"), net.head.weight.split([6, 4], 1)):
            head.weight[m].copy_(block)
        head.bias.copy_(net.head.bias)
    ours = MultimodalModel({"audio": as_encoder(twin.audio, 6), "video": as_encoder(twin.video, 4)}, head)
    optimizer = sgd(net.parameters())
    loop(net, attach(net, "ogm", optimizer=optimizer), optimizer)
    run = Run(ours, OGM(alpha=0.3), train=[own(b) for b in batches()], optimizer=sgd_groups)
    for _ in range(EPOCHS):
        run.train_epoch()
        run.end_epoch()
    for name in ("audio", "video"):
        assert_same(getattr(net, name).state_dict(), getattr(twin, name).state_dict())
    torch.testing.assert_close(net.head.weight, torch.cat([*head.weight.values()], 1), rtol=0, atol=1e-6)


def test_features_computed_at_once_are_the_same() -> None:
    class Whole(Net):
        def features(self, inputs: Any) -> Any:
            return {"audio": self.audio(inputs["audio"]), "video": self.video(inputs["video"])}

    for method in ("pmr", "agm"):
        net = Whole()
        optimizer = sgd(net.parameters())
        logged = loop(net, attach(net, method, optimizer=optimizer), optimizer)
        expected, values = reference(method)
        assert_same(net.state_dict(), expected)
        assert_same(logged, values)


def test_branches_say_it_for_a_network_that_does_not() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            net = Net()
            self.a, self.v, self.fc = net.audio, net.video, net.head

    with pytest.raises(Incompatible, match="has no encoders and no head"):
        attach(Plain(), "ogm")
    net = Plain()
    optimizer = sgd(net.parameters())
    branches = Branches(net, encoders={"audio": net.a, "video": net.v}, head=net.fc)
    loop(net, attach(branches, "ogm", optimizer=optimizer), optimizer)
    assert_same(dict(zip(Net().state_dict(), net.state_dict().values())), reference("ogm")[0])


def test_a_checkpoint_between_epochs_continues_the_same_run() -> None:
    expected, _ = reference("dynamic_gap_lb")
    net = Net()
    optimizer = sgd(net.parameters())
    attached = attach(net, "dynamic_gap_lb", optimizer=optimizer)

    def epoch(attached: Attached, optimizer: Any) -> None:
        attached.start_epoch()
        for batch in batches():
            optimizer.zero_grad()
            attached.loss(batch).backward()
            attached.gradients()
            optimizer.step()
        attached.end_epoch()

    epoch(attached, optimizer)
    saved = (net.state_dict(), optimizer.state_dict(), attached.state_dict())
    again = Net()
    again.load_state_dict(saved[0])
    second = sgd(again.parameters())
    attached = attach(again, "dynamic_gap_lb", optimizer=second)
    second.load_state_dict(saved[1])
    attached.load_state_dict(saved[2])
    epoch(attached, second)
    assert_same(again.state_dict(), expected)


def test_any_kind_of_batch_is_read() -> None:
    first = batches()[0]
    a, v, y = first["audio"], first["video"], first["labels"]
    kinds = [first, (a, v, y), ({"audio": a, "video": v}, y), Batch({"audio": a, "video": v}, y, y)]
    losses = []

    def renamed(batch: Any) -> Any:
        return {"audio": batch["x"], "video": batch["z"]}, batch["t"]

    for given, read in [*((kind, None) for kind in kinds), ({"x": a, "z": v, "t": y}, renamed)]:
        net = Net()
        attached = mmzoo.attach(net, "ogm", train=[given], epochs=1, optimizer=sgd(net.parameters()), read=read)
        attached.start_epoch()
        losses.append(attached.loss(given).item())
    assert len(set(losses)) == 1


def test_predictions_follow_the_decision_rule_of_the_strategy() -> None:
    net = Net()
    found = attach(net, "ogm").predict({m: batches()[0][m] for m in ("audio", "video")})
    net.eval()
    first = batches()[0]
    torch.testing.assert_close(found.logits, net(first["audio"], first["video"])["logits"])


def test_settings_are_checked_and_used() -> None:
    assert strategy_of("ogm", {"ogm.alpha": 0.0}).params()["alpha"] == 0.0
    with pytest.raises(BadValue):
        strategy_of("ogm", {"ogm.alpha": "much"})
    with pytest.raises(BadValue, match="has its own head"):
        strategy_of("ogm@sum")


def test_our_run_takes_such_a_network_too() -> None:
    model = as_model(Net(), own(batches()[0]).inputs)
    run = Run(model, OGM(), train=[own(b) for b in batches()], training=Training(epochs=1))
    run.train_epoch()
    assert set(run.end_epoch()) >= {"ogm/audio", "ogm/video"}
