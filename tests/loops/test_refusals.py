"""What a foreign loop cannot give is refused with the reason, and so is a loop that calls things in the wrong order."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from helpers.foreign_loops import Net, batches, held_out, own, sgd
from torch import nn

import mmzoo
from mmzoo.api import Chain, Strategy, Window
from mmzoo.config.methods import without_after
from mmzoo.errors import BadValue, Incompatible, MmzooError, UnknownName
from mmzoo.loops.attached import Attached, strategy_of
from mmzoo.loops.branches import Branches, as_model
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.refit import Refit


def attached(method: Any = "ogm", net: Any = None, **options: Any) -> tuple[Attached, torch.optim.Optimizer]:
    net = Net() if net is None else net
    optimizer = sgd(net.parameters())
    given = {"optimizer": optimizer, "slice": held_out(), **options}
    made = mmzoo.attach(net, method, train=batches(), epochs=2, **given)
    return made, optimizer


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("umt", "learns from trained models of each modality"),
        ("dynamic_gap_lb:tangent", "differentiates the optimizer's steps"),
        (
            "ogm+refit",
            r"^ogm\+refit: its part refit acts after training.*Attach the same method without that part: ogm\.",
        ),
        ("dynamic_gap", r"^dynamic_gap: its part refit acts after training.*without that part: dynamic_gap_class\."),
        ("refit", r"^refit acts after training.*no place for\. Train it with mmzoo\.Run"),
        ("greedy", r"needs a head with gates.*A network of your own has its own head\. Train it with mmzoo\.Run"),
        ("mla", r"a classifier that all modalities share.*Give the network one nn\.Linear\(D, C\).*`unimodal`"),
    ],
)
def test_a_method_that_needs_more_is_refused_before_training(method: str, reason: str) -> None:
    name, _, solver = method.partition(":")
    with pytest.raises(Incompatible, match=reason):
        attached(name, settings={f"{name}.solver": solver} if solver else {})


@pytest.mark.parametrize(
    "recipe", [e for e in catalogue().entries("methods") if "then" in e.extra], ids=lambda e: e.name
)
def test_a_recipe_that_acts_after_training_is_told_what_to_attach(recipe: Any) -> None:
    """By what it declares: every recipe with such a part names one that is the same without it, which attaches."""
    rest = without_after(catalogue(), recipe.name)
    assert rest is not None
    with pytest.raises(Incompatible, match=f"without that part: {rest}"):
        attached(recipe.name)
    made, _ = attached(rest)
    whole = strategy_of(recipe.name)
    assert isinstance(whole, Chain) and made.strategy.params() == whole.parts[0].params()


@pytest.mark.parametrize(
    ("text", "rest"),
    [("ogm:0-5+pmr+refit@sum", "ogm:0-5+pmr@sum"), ("refit", None), ("refit+mla", "mla"), ("ogm", "ogm")],
)
def test_a_method_without_what_acts_after_training(text: str, rest: str | None) -> None:
    assert without_after(catalogue(), text) == rest


def test_a_chain_given_as_an_object_names_its_part() -> None:
    with pytest.raises(Incompatible, match=r"^the chain: its part Refit acts after training.*Leave that part out\."):
        attached(Chain(Window(OGM(alpha=0.3), 0, 1), Refit()))


def test_mla_without_its_projection_asks_for_logits_of_each_modality() -> None:
    with pytest.raises(Incompatible, match=r"slices of a joint classifier.*Give the network `unimodal`"):
        attached("mla", settings={"mla.projection": "none"})


def test_a_missing_meta_set_names_the_argument() -> None:
    with pytest.raises(Incompatible, match=r"learns from a meta set \(slice\), and none was given\. Pass slice="):
        attached("dynamic_gap_lb", slice=None)


@pytest.mark.parametrize(("method", "reason"), [("gblend", "trains copies"), ("mslr", "sets learning rates")])
def test_a_method_that_asks_for_more_on_the_way_is_refused(method: str, reason: str) -> None:
    made, _ = attached(method)
    with pytest.raises(Incompatible, match=reason):
        made.start_epoch()
        made.end_epoch()


def test_a_head_of_several_layers_is_told_how_to_give_logits_of_each_modality() -> None:
    net = Net()
    net.head = torch.nn.Sequential(net.head, torch.nn.ReLU(), torch.nn.Linear(net.head.out_features, 3))
    with pytest.raises(Incompatible, match="Give the network `unimodal`"):
        attached("ogm", net)


def test_more_epochs_than_attach_was_given_are_refused() -> None:
    """A schedule would run past its end: a linear alpha would fall below zero."""
    made, _ = attached("dynamic_gap_linear")
    for _ in range(2):
        made.start_epoch()
        for batch in batches():
            made.step(batch)
        made.end_epoch()
    with pytest.raises(BadValue, match=r"epoch 3 begins, and attach was given epochs=2"):
        made.start_epoch()


def test_no_method_is_refused_by_its_name() -> None:
    class Sampling(Strategy):
        owns = frozenset({"data"})

    class Slow(Strategy):
        def param_groups(self, groups: Any) -> Any:
            return {n: type(g)(g.params, 0.1) for n, g in groups.items()}

    class Twice(Strategy):
        def plan(self, step: Any, passes: Any) -> Any:
            return [*passes, *passes]

    with pytest.raises(Incompatible, match="Sampling chooses the samples"):
        attached(Sampling())
    with pytest.raises(Incompatible, match="Slow sets the learning rate"):
        attached(Slow())
    made, _ = attached(Twice())
    made.start_epoch()
    with pytest.raises(Incompatible, match=r"Twice makes 2 passes over a batch: call step\(batch\)"):
        made.loss(batches()[0])


def test_unknown_names_and_options() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'ogm"):
        attached("ogmm")
    with pytest.raises(TypeError, match="unexpected keyword argument 'clip'"):
        attached("ogm", clip=1.0)


def test_the_order_of_calls_is_checked() -> None:
    made, optimizer = attached()
    with pytest.raises(BadValue, match="start_epoch"):
        made.loss(batches()[0])
    made.start_epoch()
    with pytest.raises(BadValue, match=r"follows loss\(batch\)"):
        made.gradients()
    made.loss(batches()[0]).backward()
    with pytest.raises(BadValue, match=r"stepped without gradients\(\)"):
        optimizer.step()
    made.loss(batches()[0]).backward()
    made.gradients()
    with pytest.raises(BadValue, match="cannot be accumulated"):
        made.loss(batches()[1])
    optimizer.step()
    assert made.global_step == 1


def test_a_scaled_loss_is_refused() -> None:
    made, _ = attached()
    made.start_epoch()
    with pytest.raises(Incompatible, match=r"multiplied by 0\.5"):
        (made.loss(batches()[0]) / 2).backward()


def test_an_optimizer_must_be_one_and_of_this_network() -> None:
    made, _ = attached(optimizer=None)
    with pytest.raises(BadValue, match="no optimizer yet"):
        made.start_epoch()
    with pytest.raises(BadValue, match="one torch optimizer, not list"):
        made.watch([])
    with pytest.raises(BadValue, match="none of the model's parameters"):
        made.watch(sgd(Net().parameters()))


def test_an_empty_batch_moves_nothing() -> None:
    class Nobody(Strategy):
        def features(self, step: Any, feats: Any) -> Any:
            step.keep = torch.zeros(len(step.batch), dtype=torch.bool)
            return feats

    net = Net()
    made, optimizer = attached(Nobody(), net)
    made.start_epoch()
    before = [p.clone() for p in net.parameters()]
    optimizer.zero_grad()
    made.loss(batches()[0]).backward()
    made.gradients()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters())) and made.global_step == 1


class Broken(Net):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.parts = parts

    @property
    def encoders(self) -> Any:
        return self.parts.get("encoders", super().encoders)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (lambda: Broken(encoders=[1]), "must map each modality to its module"),
        (lambda: Broken(encoders={"audio": 3}), "must be a torch.nn.Module, not int"),
        (lambda: Broken(encoders={"audio": nn.Linear(5, 6), "video": nn.Linear(4, 4)}), "does not hold"),
        (lambda: _shared(), "audio and video share parameters"),
        (lambda: _with(Net(), features=lambda x: {"audio": x["audio"]}), "must give each of audio, video"),
        (lambda: _with(Net(), features=lambda x: {m: v[:, :, None] for m, v in x.items()}), r"must be \(B, D\)"),
        (lambda: _with(Net(), head=lambda z: z["audio"].sum()), r"must give logits \(B, C\)"),
        (lambda: Branches(Net(), {"audio": Net().audio}, head=3), "must take features"),  # type: ignore[arg-type]
    ],
)
def test_a_network_that_says_something_wrong_is_told_what(net: Any, reason: str) -> None:
    inputs = own(batches()[0]).inputs
    with pytest.raises(MmzooError, match=reason):
        as_model(net(), inputs)


def _shared() -> Net:
    net = Broken()
    net.parts["encoders"] = {"audio": net.audio, "video": net.audio}
    return net


def _with(net: Net, **parts: Any) -> Branches:
    return Branches(net, **{"encoders": net.encoders, "head": net.head, **parts})


def test_missing_modalities_need_encoders_that_are_called_one_by_one() -> None:
    net = Net()
    made, _ = attached("ogm", net)
    whole = _with(net, features=lambda x: {m: e(x[m]) for m, e in net.encoders.items()})
    model = as_model(whole, own(batches()[0]).inputs)
    present = torch.ones(12, 2, dtype=torch.bool)
    with pytest.raises(Incompatible, match="leave out `features`"):
        model(own(batches()[0]).inputs, present)
    assert made.model(own(batches()[0]).inputs, present).logits.shape == (12, 3)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"audio": torch.zeros(2, 5), "labels": torch.zeros(2)}, "lacks video"),
        ((torch.zeros(2, 5), torch.zeros(2)), "a batch is a tuple of 2"),
        ({"audio": torch.zeros(2, 5), "video": torch.zeros(2, 4), "labels": torch.zeros(2, 1)}, r"a tensor \(B,\)"),
        (3, "a batch is a int"),
    ],
)
def test_a_batch_that_cannot_be_read(given: Any, reason: str) -> None:
    made, _ = attached()
    made.start_epoch()
    with pytest.raises(BadValue, match=reason):
        made.loss(given)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("ogm", "ogm"),
        ("ogm:0-0+pmr", "ogm"),
        ("agm_detached", "agm"),
        ("ogm_ge", None),
        ("agm", None),
        ("pmr", None),
    ],
)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
def test_an_optimizer_that_undoes_a_method_is_a_warning(method: str, named: str | None, optimizer: Any) -> None:
    net = Net()
    given = optimizer(net.parameters(), lr=0.01)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        made, _ = attached(method, net, optimizer=given)
        made.watch(given)  # a second time, as Lightning does: no second warning
    told = [str(w.message) for w in found]
    assert len(told) == (named is not None and optimizer is not torch.optim.SGD), told
    assert all(t.startswith(f"{named} only scales gradients, and {optimizer.__name__} ") for t in told)


def test_a_strategy_given_as_an_object_is_warned_of_too() -> None:
    net = Net()
    with pytest.warns(UserWarning, match="ogm only scales gradients, and Adam normalises"):
        attached(OGM(alpha=0.3), net, optimizer=torch.optim.Adam(net.parameters()))
