"""What is otherwise in a run that several processes have trained together: every row of one says it."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmzoo.benchmark.execution.building import Kit
from mmzoo.benchmark.execution.scoring import on_device
from mmzoo.core.modes import buffers_kept
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Batch
from mmzoo.training.run import Run


def per_process(run: Run, kit: Kit, size: int) -> list[str]:
    """How a trained run differs from that of a single process, beyond rounding; nothing where it does not."""
    if size == 1:
        return []
    share, found = kit.spec.training.batch_size // size, []
    if any(isinstance(m, _BatchNorm) for m in run.model.modules()):
        found.append(
            f"batch statistics are those of {share} samples in each process; running statistics are averaged after "
            "every epoch"
        )
    if draws(run, next(on_device(kit.train, run.device))):
        found.append(f"the model draws random numbers (dropout) for {share} samples, the same ones in each process")
    if run.strategy.stochastic:
        found.append(
            f"the method draws random numbers; those for the samples of a batch are drawn for {share}, the same in each process"
        )
    if kit.train.n_left_out:
        found.append(
            f"{kit.train.n_left_out} of {kit.train.n_items} training samples are skipped in every epoch, different ones each "
            "time, since they cannot be shared among the processes"
        )
    return found


@torch.no_grad()
def draws(run: Run, batch: Batch) -> bool:
    """Whether the model draws random numbers in training."""
    with seeded(0, "draws"), buffers_kept(run.model):
        run.model.train()
        before = _random_state(run.device)
        run.model(batch.inputs, batch.present)
        return not torch.equal(before, _random_state(run.device))


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
