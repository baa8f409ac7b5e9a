"""mmzoo beside BalanceBenchmark and Lightning: the same batches at CREMA-D's shapes, each in a process of its own.

Two ResNet18, batches of 8: spectrograms of 257x299 and one frame of 224x224, generated, in memory. Each side trains by its
own loop: BalanceBenchmark by `train_loop` of its trainers, Lightning by `Trainer.fit`, mmzoo by `Run.train_epoch`. The
first epoch warms up, the second is timed. BalanceBenchmark does not run as it is published (commit 4c1482f): what
`_corrected` does to it, before it is asked for anything, are the three corrections without which nothing of it can be
imported or called, and one each that PMR, MLA and the learned weight (LFM) need; its code is otherwise untouched, and
none of it is part of this project. G-Blend estimates its weights anew in each epoch here, on both sides, from one epoch
of each branch. The learned weight is updated once an epoch; that time is apart (`end_s`).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BATCH, CLASSES = 8, 6
#: method here -> (trainer there, its settings)
BALANCE = {
    "concat": ("baseline_trainer", "baselineTrainer", {}),
    "ogm": ("OGM_trainer", "OGMTrainer", {"alpha": 0.3, "method": "OGM"}),
    "ogm_ge": ("OGM_trainer", "OGMTrainer", {"alpha": 0.3, "method": "OGM_GE"}),
    "agm": ("AGM_trainer", "AGMTrainer", {"alpha": 1.0}),
    "pmr": ("PMR_trainer", "PMRTrainer", {"alpha": 0.6, "momentum_coef": 0.5, "eta": 0.01}),
    "mla": ("MLA_trainer", "MLATrainer", {}),
    "gblend": ("GBlending_trainer", "GBlendingTrainer", {"method": "online", "super_epoch": 1}),
    "dynamic_gap_lb": ("LFM_trainer", "LFMTrainer", {"alpha": {0: 0.95, 1: 0.05}, "method": "", "lr_alpha": 1e-4}),
}
OURS = ("concat", "ogm", "ogm_ge", "pmr", "agm", "agm_detached", "mla", "gblend", "dynamic_gap_lb")
#: method -> settings under which an epoch holds what BalanceBenchmark's does
SETTINGS = {"gblend": {"gblend.warmup": 1, "gblend.super_epoch": 1}}


def _inputs(n: int) -> list[dict[str, Any]]:
    import torch

    g = torch.Generator().manual_seed(0)
    return [
        {
            "audio": torch.randn((BATCH, 1, 257, 299), generator=g),
            "visual": torch.randn((BATCH, 3, 224, 224), generator=g),
            "label": torch.randint(CLASSES, (BATCH,), generator=g),
        }
        for _ in range(n)
    ]


def _corrected(folder: Path) -> Any:
    """Its module of models, after the corrections without which it does not run on a CPU."""
    sys.path.insert(0, str(folder))
    import lightning.fabric.utilities.types as types
    import torch

    if not hasattr(types, "LRScheduler"):  # a name that today's Lightning no longer has
        types.LRScheduler = torch.optim.lr_scheduler.LRScheduler
    import balancemm.models.avclassify_model as models

    sys.modules["models.avclassify_model"] = models  # a package prefix is missing in one import of its trainers
    sys.modules["models"] = sys.modules["balancemm.models"]
    base = models.BaseClassifierModel
    base.resnet = base.resnet_process  # called by a name it does not have
    base.Unimodality_Calculate = lambda self: self.unimodal_result  # PMR: the same
    torch.nn.Module.cuda = lambda self, *_: self  # type: ignore[method-assign]  # LFM: a loss goes to a GPU, whatever there is
    return models


def _balance(folder: Path, method: str, n: int) -> Callable[[], Any]:
    """An epoch of one of its trainers."""
    models = _corrected(folder)
    import importlib
    import logging

    import lightning
    import torch

    module_name, trainer, settings = BALANCE[method]
    module = importlib.import_module(f"balancemm.trainer.{module_name}")
    encoders = {
        m: {"name": "ResNet18", "modality": m, "if_pretrain": False, "pretrain_path": ""} for m in ("audio", "visual")
    }
    described = {
        "n_classes": CLASSES,
        "fusion": "shared" if method == "mla" else "concat",
        "encoders": encoders,
        "device": " ",
        "modality_size": {"audio": 512, "visual": 512},
    }
    made = models.BaseClassifierMLAModel if method == "mla" else models.BaseClassifierModel
    model = made(described).train()
    method_settings = {"modulation_starts": 0, "modulation_ends": 100, "modality": 2, **settings}
    more = [SimpleNamespace(model=described)] if method == "mla" else []
    loop = getattr(module, trainer)(lightning.Fabric(accelerator="cpu", devices=1), method_settings, {}, *more)
    if method == "mla":
        loop.alpha = 0.5  # read after each step, never set
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    batches = [{**b, "visual": b["visual"][:, :, None]} for b in _inputs(n + 1)]
    train, val = batches[:-1], batches[-1:]
    if method == "gblend":
        copied = made(described).train()
        trial = torch.optim.SGD(copied.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        fresh = trial.state_dict()

        def blended() -> None:
            log = logging.getLogger("gblend")
            weights = loop.super_epoch_origin(model, copied, float("inf"), train, val, trial, log, fresh)
            loop.train_loop(model, optimizer, train, weights=weights)

        return blended
    if method == "dynamic_gap_lb":

        def learned() -> Callable[[], Any]:
            loop.train_loop(model, optimizer, train)
            return lambda: module.getAlpha_Learnable(1, val[0], model, loop.alpha, loop.lr_alpha)

        return learned
    return lambda: loop.train_loop(model, optimizer, train)


def _lightning(method: str, n: int) -> Callable[[], Any]:
    """An epoch of plain training as its users write it."""
    import lightning
    import torch
    import torch.nn.functional as F
    from torch import nn

    from benchmarks.step_cost import ResNet18

    class Joint(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.audio, self.visual, self.head = ResNet18(1), ResNet18(3), nn.Linear(1024, CLASSES)

        def training_step(self, batch: Any, i: int) -> Any:
            z = torch.cat([self.audio(batch["audio"]), self.visual(batch["visual"])], 1)
            loss = F.cross_entropy(self.head(z), batch["label"])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    model, batches = Joint(), _inputs(n)

    def epoch() -> None:
        lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, torch.utils.data.DataLoader(batches, batch_size=None))

    return epoch


def _ours(method: str, n: int) -> Callable[[], Any]:
    import torch

    from benchmarks.step_cost import ResNet18
    from mmzoo import Batch, MultimodalModel, Run
    from mmzoo.benchmark.execution.building import build_strategy
    from mmzoo.config.methods import resolve_method
    from mmzoo.config.settings import Settings
    from mmzoo.registry.plugins import catalogue
    from mmzoo.training.config import Training

    known = catalogue()
    chosen = resolve_method(known, method, Settings(known, tuple(SETTINGS.get(method, {}).items())))
    head = known.get("heads", chosen.head).load()
    encoders = head.readout({"audio": ResNet18(1), "visual": ResNet18(3)}, **chosen.head_params)
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, CLASSES, **chosen.head_params))
    batches = [
        Batch({m: b[m] for m in ("audio", "visual")}, b["label"], torch.arange(BATCH) + i * BATCH)
        for i, b in enumerate(_inputs(n + 1))
    ]
    training = Training(optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4, batch_size=BATCH, epochs=40)
    strategy = build_strategy(known, chosen.parts)
    run = Run(model, strategy, train=batches[:-1], slice=batches[-1:], training=training)

    def epoch() -> Callable[[], Any]:
        run.train_epoch()
        return run.end_epoch

    return epoch


def one(side: str, method: str, n: int, folder: Path | None) -> dict[str, Any]:
    """The second epoch of `n` batches of one side, measured in this process."""
    import torch

    torch.set_num_threads(1)
    epoch = {"BalanceBenchmark": lambda *a: _balance(folder, *a), "Lightning": _lightning, "mmzoo": _ours}[side](
        method, n
    )  # type: ignore[arg-type]
    ready = time.process_time()
    for _ in range(2):
        start = time.process_time()
        end = epoch()
        seconds, start = time.process_time() - start, time.process_time()
        if end is not None:
            end()
    ended = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "start_s": round(ready, 2),
        "step_s": round(seconds / n, 3),
        "end_s": round(ended, 2),
        "peak_mb": round(peak / 1024),
    }


def measure(folder: Path | None, n: int) -> list[dict[str, Any]]:
    """One row for each side and method; `to_plain`: a step over one of mmzoo's plain training; `end_s`: what a method does
    once at the end of an epoch, however long it is."""
    todo = [("mmzoo", m) for m in OURS] + [("Lightning", "concat")]
    todo += [("BalanceBenchmark", m) for m in BALANCE] if folder is not None else []
    rows: list[dict[str, Any]] = []
    for side, method in todo:
        command = [sys.executable, "-m", "benchmarks.speed", "--peer", side, method, "--pairs", str(n)]
        command += ["--balance", str(folder)] if folder is not None else []
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            why = (done.stderr.strip() or "no message").splitlines()[-1][:200]
            rows.append({"side": side, "method": method, "failed": why})
            continue
        row = {"side": side, "method": method, **json.loads(done.stdout.splitlines()[-1])}
        row["to_plain"] = round(row["step_s"] / (rows[0]["step_s"] if rows else row["step_s"]), 3)
        rows.append(row)
        print(row, flush=True)
    return rows
