"""What every encoder can be told: which one reads a modality, its learning rate, what stands still, memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NormEncoder

from mmzoo.api import BadValue, Encoder, Incompatible, Loader, MultimodalModel, Run, Training
from mmzoo.benchmark.execution.building import build_model, load_data
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.core.seeding import seeded
from mmzoo.encoders.backbones import Timm
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.pretrained import Transformer
from mmzoo.encoders.tokens import TextTransformer
from mmzoo.errors import MmzooError, UnknownName
from mmzoo.heads.concat import Concat
from mmzoo.registry import ENCODER_OPTIONS
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.plain import Plain
from mmzoo.testing import SPECS

TINY = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 23}


# ---------------------------------------------------------------------- which encoder
def plan(*settings: tuple[str, Any], datasets: tuple[str, ...] = ("mfeat",)) -> Any:
    return make_plan(BenchSpec("ogm", datasets=datasets, seeds=(0,), settings=settings), catalogue())


def encoders(*settings: tuple[str, Any]) -> dict[str, Any]:
    return dict(plan(*settings).runs[0].spec.encoders)


class Plugged(MLP):
    """An encoder of somebody else."""


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A second encoder for vectors in the catalogue."""
    import dataclasses

    known = catalogue()
    entry = dataclasses.replace(
        known.get("encoders", "mlp"),
        name="plugged",
        package="pkg",
        extra={"path": f"{__name__}:Plugged", "input": "vector"},
    )
    known.add(entry)
    usual = type(entry).load
    monkeypatch.setattr(type(entry), "load", lambda e: Plugged if e.name == "plugged" else usual(e))
    yield entry
    known.remove(entry)


def test_another_encoder_for_a_modality(other: Any) -> None:
    usual = encoders()
    assert usual["fou"][0] == usual["zer"][0] == "mlp"
    assert encoders(("encoder.fou", "mlp")) == usual  # naming the usual one changes nothing
    chosen = encoders(("encoder.fou", "plugged"), ("encoder.fou.width", 5), ("mlp.width", 7))
    assert chosen["fou"][0] == "pkg/plugged" and chosen["fou"][1]["width"] == 5
    assert chosen["zer"][0] == "mlp" and chosen["zer"][1]["width"] == 7
    # A data set's own setting goes before one for every data set.
    own = encoders(
        ("encoder.fou", "mlp"),
        ("mfeat.encoder.fou", "plugged"),
        ("mfeat.encoder.fou.width", 3),
        ("encoder.fou.width", 4),
    )
    assert own["fou"][0] == "pkg/plugged" and own["fou"][1]["width"] == 3
    spec = plan(("encoder.fou", "plugged"), ("encoder.zer.frozen", True)).runs[0].spec
    data = load_data(catalogue(), "mfeat", '{"labels": null, "views": ["fou", "zer"]}')
    model = build_model(catalogue(), spec, data)
    assert type(model.encoders["fou"]) is Plugged
    assert not any(p.requires_grad for p in model.encoders["zer"].parameters())


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ([("encoder.fuo", "mlp")], UnknownName, "Did you mean 'fou'"),
        ([("mfeat.encoder.fuo", "mlp")], UnknownName, "Did you mean 'fou'"),
        ([("encoder.fou", "mpl")], UnknownName, "Did you mean 'mlp'"),
        ([("encoder.fou", 3)], BadValue, "name of an encoder"),
        ([("encoder.fou", "resnet18")], Incompatible, "fou is vector, and encoder resnet18 takes image"),
        ([("encoder.fou.wdth", 3)], UnknownName, "Did you mean 'width'"),
        ([("encoder.fou.lr_scale", -1)], BadValue, "lr_scale must be a number from"),
        ([("mlp.freeze", True)], UnknownName, "Did you mean 'frozen'"),
        ([("encoder", "mlp")], BadValue, "WHAT.KEY"),
        ([("encoder.fou.", "mlp")], BadValue, "encoder.MODALITY"),
    ],
    ids=str,
)
def test_a_faulty_choice_names_what_is_wrong(settings: Any, kind: Any, said: str) -> None:
    with pytest.raises(kind, match=said):
        plan(*settings)


def test_options_that_are_off_leave_a_run_what_it_is() -> None:
    off = [(f"mlp.{p.name}", p.default) for p in ENCODER_OPTIONS.values()]
    assert [p.spec.run_id for p in plan(*off).runs] == [p.spec.run_id for p in plan().runs]
    assert plan(("mlp.lr_scale", 0.5)).runs[0].spec.run_id != plan().runs[0].spec.run_id


def test_a_suite_names_encoders_and_its_faults_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("method: ogm\nset:\n  encoder.fou: mlp\n  encoder.zer.lr_scale: 0.5\n")
    assert read_suite(path, catalogue())["settings"] == (("encoder.fou", "mlp"), ("encoder.zer.lr_scale", 0.5))
    path.write_text("method: ogm\nset:\n  encoder.fou: mpl\n  encoder.zer.lr_scal: 0.5\n")
    with pytest.raises(BadValue) as caught:
        read_suite(path, catalogue())
    assert "'mlp'" in str(caught.value) and "'lr_scale'" in str(caught.value)


def test_other_weights_are_another_run(tmp_path: Path, other: Any) -> None:
    import dataclasses

    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    known = catalogue()
    known.remove(other)
    known.add(dataclasses.replace(other, extra={**other.extra, "files": f"{__name__}:files"}))
    WEIGHTS[:] = [path]
    try:
        ids = set()
        for content in (b"one", b"two", b"one"):
            path.write_bytes(content)
            ids.add(plan(("encoder.fou", "plugged")).runs[0].spec.run_id)
            WEIGHTS[:] = [path.rename(tmp_path / f"{len(ids)}{content.decode()}.safetensors")]
            path = WEIGHTS[0]
        assert len(ids) == 2
        path.unlink()
        with pytest.raises((MmzooError, OSError)):
            plan(("encoder.fou", "plugged"))
    finally:
        known.remove(known.get("encoders", "plugged"))
        known.add(other)


WEIGHTS: list[Path] = []


def files(params: Any) -> list[Path]:
    return list(WEIGHTS)


# ---------------------------------------------------------------------- what stands still
def build(kind: str, **options: Any) -> Encoder:
    with seeded(0, "init"):
        made: Encoder = {
            "mlp": lambda: MLP(SPECS["vector"], hidden=(6, 5), width=4),
            "cnn": lambda: CNN(SPECS["video"]),
            "text": lambda: TextTransformer(SPECS["text"]),
            "timm": lambda: Timm(SPECS["image"], model="test_resnet"),
            "vit": lambda: Timm(SPECS["image"], model="test_vit"),
            "bert": lambda: Transformer(SPECS["text"], model="bert", weights="none", config=TINY),
        }[kind]()
        return made.configure(SPECS[KIND[kind]], **options)


KIND = {"mlp": "vector", "cnn": "video", "text": "text", "timm": "image", "vit": "image", "bert": "text"}


def trained(encoder: Encoder, kind: str, strategy: Any = None, steps: int = 2, **training: Any) -> Run:
    n = 12
    with seeded(1, "data"):
        x, target = SPECS[KIND[kind]].example(n), torch.arange(n).remainder(3)
        model = MultimodalModel({"a": encoder, "b": MLP((4,))}, Concat({"a": encoder.out_dim, "b": 32}, 3))
        data = Loader({"a": x, "b": torch.randn(n, 4)}, target, torch.arange(n), batch_size=6)
    options = {"lr": 0.05, "epochs": steps, "weight_decay": 0.01, **training}
    strategy = strategy or Plain()
    run = Run(
        model, strategy, train=data, slice=data if "slice" in strategy.requires else None, training=Training(**options)
    )
    for _ in range(steps):
        run.train_epoch()
        run.end_epoch()
    return run


@pytest.mark.parametrize("kind", KIND)
@pytest.mark.parametrize("stages", [1, 2])
def test_frozen_stages_stand_still_and_what_follows_moves(kind: str, stages: int) -> None:
    before, encoder = build(kind).state_dict(), build(kind, frozen_stages=stages)
    held = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    run = trained(encoder, kind)
    after = run.model.encoders["a"].state_dict()
    moved = {n for n, t in after.items() if not torch.equal(t, before[n])}
    assert held and not moved & held
    assert {n for n, p in encoder.named_parameters() if p.requires_grad} == moved & {
        n for n, _ in encoder.named_parameters()
    }
    # The same features of the first stages, in training mode, as an untouched encoder gives in eval mode.
    with seeded(1, "data"):
        x = SPECS[KIND[kind]].example(3)
    maps = []
    for e in (encoder.train(), build(kind).eval()):
        state = e.begin(x)
        for stage in range(stages):
            state = e.run_stage(stage, state)
        maps.append(e.view(state))
    assert torch.allclose(*maps, atol=1e-5) and not maps[0].requires_grad


@pytest.mark.parametrize("strategy", [Plain(), OGM(), DynamicGap(batches=1)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("options", [{"frozen": True}, {"frozen_stages": 1}], ids=str)
def test_a_strategy_trains_around_what_is_frozen(strategy: Any, options: Any) -> None:
    before, encoder = build("cnn").state_dict(), build("cnn", **options)
    held = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    run = trained(encoder, "cnn", copy.deepcopy(strategy))
    after = run.model.encoders["a"].state_dict()
    still = [n for n in after if options.get("frozen") or n in held or n.startswith("blocks.0")]
    assert held and all(torch.equal(after[n], before[n]) for n in still)
    assert run.finite()


def test_frozen_in_micro_batches() -> None:
    before, encoder = build("cnn").state_dict(), build("cnn", frozen=True)
    trained(encoder, "cnn", micro_batch=3)
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())


def test_an_encoder_without_stages_can_be_frozen_as_a_whole() -> None:
    encoder = NormEncoder(4, 3)
    encoder.configure((4,), frozen=True).train()
    assert not any(m.training for m in encoder.modules())
    for option in ({"frozen_stages": 1}, {"checkpoint": True}):
        with pytest.raises(Incompatible, match="no stages"):
            NormEncoder(4, 3).configure((4,), **option)
    for option in ({"frozen_stages": 1}, {"checkpoint": True}, {"lr_scale": 2.0}):
        with pytest.raises(BadValue, match="frozen leaves nothing"):
            MLP((4,)).configure((4,), frozen=True, **option)


# ---------------------------------------------------------------------- learning rate, memory
def test_the_rate_of_an_encoder_is_scaled() -> None:
    ends = []
    for scale in (1.0, 0.25):
        run = trained(build("mlp", lr_scale=scale), "mlp", steps=1, momentum=0.0)
        rates = {g["name"]: g["lr"] for g in run.optimizer.param_groups}
        assert rates["encoder:a"] == pytest.approx(0.05 * scale) and rates["encoder:b"] == pytest.approx(0.05)
        ends.append(run)


@pytest.mark.parametrize("kind", ["cnn", "text", "timm", "bert"])
def test_computing_stages_again_changes_no_number(kind: str) -> None:
    plain, again = trained(build(kind), kind), trained(build(kind, checkpoint=True), kind)
    for (name, t), other in zip(plain.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.allclose(t, other, atol=1e-6), name


def test_stages_are_in_truth_computed_again() -> None:
    calls: list[int] = []
    encoder = build("cnn", checkpoint=True)
    encoder.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    encoder(SPECS["video"].example()).sum().backward()
    assert len(calls) == 2


def test_second_derivatives_through_computed_again_stages() -> None:
    products = []
    for option in ({}, {"checkpoint": True}):
        encoder = build("cnn", **option).double().eval()
        params = list(encoder.parameters())
        with seeded(1, "data"):
            x = SPECS["video"].example()
        first = torch.autograd.grad(encoder(x).pow(2).sum(), params, create_graph=True)
        products.append(torch.autograd.grad(torch.stack([g.sum() for g in first]).sum(), params))
    assert all(torch.allclose(a, b) for a, b in zip(*products))


def test_channels_last_is_the_form_of_the_maps() -> None:
    encoder, plain = build("timm", channels_last=True).eval(), build("timm").eval()
    x = SPECS["image"].example()
    state = encoder.run_stage(0, encoder.begin(x))
    assert state.map.is_contiguous(memory_format=torch.channels_last) and not state.map.is_contiguous()
    assert torch.allclose(encoder(x), plain(x), atol=1e-5)
    moved = copy.deepcopy(encoder).to("cpu")
    assert next(p for p in moved.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(Incompatible, match="no convolution"):
        build("mlp", channels_last=True)
