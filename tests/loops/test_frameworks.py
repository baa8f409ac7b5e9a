"""A strategy in Lightning, the Hugging Face Trainer and accelerate: the numbers are those of mmzoo's own loop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_loops import (
    EPOCHS,
    METHODS,
    Net,
    assert_same,
    batches,
    held_out,
    reference,
    samples,
    sgd,
    shared_model,
)

import mmzoo
from mmzoo.errors import BadValue, Incompatible

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the frameworks


def attach(net: Any, method: str, **options: Any) -> Any:
    return mmzoo.attach(net, method, train=batches(), epochs=EPOCHS, slice=held_out(), **options)


def loader() -> Any:
    return torch.utils.data.DataLoader(samples(), 12)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- Lightning
@pytest.fixture
def lightning() -> Any:
    found = pytest.importorskip("lightning", reason="needs lightning (pip install 'mmzoo[lightning]')")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return found


def module_of(lightning: Any, net: Any, method: str, *, manual: bool = False) -> Any:
    from mmzoo.loops.lightning import StrategyCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.automatic_optimization = not manual
            self.attached = attach(net, method)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.attached.step(batch) if manual else self.attached.loss(batch)

        def configure_optimizers(self) -> Any:
            return sgd(self.net.parameters())

        def configure_callbacks(self) -> Any:
            return [StrategyCallback(self.attached)]

    return Module()


def trainer_of(lightning: Any, folder: Path, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": EPOCHS, "accelerator": "cpu", "enable_checkpointing": False, **quiet, **options}
    return lightning.Trainer(default_root_dir=folder, **given)


@pytest.mark.parametrize("method", METHODS)
def test_lightning(lightning: Any, method: str, tmp_path: Path) -> None:
    module = module_of(lightning, Net(), method)
    trainer = trainer_of(lightning, tmp_path)
    trainer.fit(module, loader())
    expected, values = reference(method)
    assert_same(module.net.state_dict(), expected)
    assert_same({k: v for k, v in trainer.callback_metrics.items() if k in values}, values)
    assert trainer.global_step == EPOCHS * len(batches())


@pytest.mark.parametrize("method", ["mla", "ogm"])
def test_lightning_with_manual_optimization(lightning: Any, method: str, tmp_path: Path) -> None:
    module = module_of(lightning, shared_model(), method, manual=True)
    trainer = trainer_of(lightning, tmp_path)
    trainer.fit(module, loader())
    assert_same(module.net.state_dict(), reference(method, shared_model())[0])
    passes = 2 if method == "mla" else 1
    assert trainer.global_step == EPOCHS * len(batches()) * passes


def test_a_lightning_checkpoint_continues_the_same_run(lightning: Any, tmp_path: Path) -> None:
    first = module_of(lightning, Net(), "dynamic_gap_lb")
    half = trainer_of(lightning, tmp_path, max_epochs=1)
    half.fit(first, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = module_of(lightning, Net(), "dynamic_gap_lb")
    trainer_of(lightning, tmp_path).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_same(second.net.state_dict(), reference("dynamic_gap_lb")[0])


def test_lightning_with_several_passes_or_accumulation_is_refused(lightning: Any, tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="automatic_optimization = False"):
        trainer_of(lightning, tmp_path).fit(module_of(lightning, shared_model(), "mla"), loader())
    with pytest.raises(Incompatible, match="one batch a step"):
        module = module_of(lightning, Net(), "ogm")
        trainer_of(lightning, tmp_path, accumulate_grad_batches=2).fit(module, loader())


def test_clipping_of_lightning_follows_the_strategy(lightning: Any, tmp_path: Path) -> None:
    """As in mmzoo's loop: gradients are changed first, then clipped."""
    module = module_of(lightning, Net(), "ogm")
    trainer_of(lightning, tmp_path, gradient_clip_val=0.05).fit(module, loader())
    net = Net()
    optimizer = sgd(net.parameters())
    attached = attach(net, "ogm", optimizer=optimizer)
    for _ in range(EPOCHS):
        attached.start_epoch()
        for batch in batches():
            optimizer.zero_grad()
            attached.loss(batch).backward()
            attached.gradients()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
        attached.end_epoch()
    assert_same(module.net.state_dict(), net.state_dict())


# ---------------------------------------------------------------------------------------------- accelerate
@pytest.mark.parametrize("method", METHODS)
def test_accelerate(method: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate (pip install 'mmzoo[hf]')")
    accelerator = accelerate.Accelerator(cpu=True)
    net = Net()
    optimizer = sgd(net.parameters())
    attached = attach(net, method, optimizer=optimizer)
    wrapped, optimizer = accelerator.prepare(net, optimizer)
    wrapped.train()
    logged: dict[str, float] = {}
    for _ in range(EPOCHS):
        attached.start_epoch()
        for batch in batches():
            optimizer.zero_grad()
            accelerator.backward(attached.loss(batch))
            attached.gradients()
            optimizer.step()
        logged = attached.end_epoch()
    expected, values = reference(method)
    assert_same(net.state_dict(), expected)
    assert_same(logged, values)


# ---------------------------------------------------------------------------------------------- Hugging Face Trainer
def hf_trainer(net: Any, method: str, folder: Path, **options: Any) -> Any:
    pytest.importorskip("accelerate", reason="needs accelerate (pip install 'mmzoo[hf]')")
    from transformers import TrainingArguments

    from mmzoo.loops.hf import StrategyTrainer

    quiet: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}
    quiet["remove_unused_columns"] = False
    given: dict[str, Any] = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 12,
        "max_grad_norm": 0.0,
        "use_cpu": True,
    }

    class Ordered(StrategyTrainer):  # the order of the reference
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    args = TrainingArguments(str(folder), **{**quiet, **given, **options})
    optimizer = sgd(net.parameters())
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    made = attach(net, method)
    return Ordered(net, args, train_dataset=samples(), attached=made, optimizers=(optimizer, constant))


@pytest.mark.parametrize("method", METHODS)
def test_hugging_face(method: str, tmp_path: Path) -> None:
    net = Net()
    trainer = hf_trainer(net, method, tmp_path)
    trainer.train()
    expected, values = reference(method)
    assert_same(net.state_dict(), expected)
    logged: dict[str, Any] = {}
    for record in trainer.state.log_history:
        logged.update(record)
    assert_same({k: v for k, v in logged.items() if k in values}, values)


def test_hugging_face_evaluates_by_the_models_forward(tmp_path: Path) -> None:
    net = Net()
    trainer = hf_trainer(net, "ogm", tmp_path)
    trainer.train()
    found = trainer.evaluate(samples(24, seed=2))["eval_loss"]
    net.eval()
    with torch.no_grad():
        expected = torch.stack([net(**b)["loss"] for b in held_out()]).mean()
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_hugging_face_refuses_accumulation_and_several_passes(tmp_path: Path) -> None:
    with pytest.raises((Incompatible, BadValue), match=r"one batch a step|cannot be accumulated"):
        hf_trainer(Net(), "ogm", tmp_path, gradient_accumulation_steps=2).train()
    net = shared_model()
    with pytest.raises(Incompatible, match="no place for it"):
        hf_trainer(net, "mla", tmp_path).train()
