"""What a strategy owes to a run on a GPU, seen on a device that is made up (`mmzoo.testing.elsewhere`)."""

from __future__ import annotations

from typing import Any

import torch

from mmzoo.errors import told
from mmzoo.run import Run, on_device
from mmzoo.testing import elsewhere
from mmzoo.testing.cases import StrategyCase
from mmzoo.testing.checks_distributed import shared_task
from mmzoo.testing.observing import difference, weights
from mmzoo.testing.ranks import in_another
from mmzoo.testing.report import CheckFailed, contract, require
from mmzoo.trainer import fit
from mmzoo.training import Training

APART = 1e-9
CURE = "make tensors where others are (x.new_zeros, torch.zeros_like, constant of mmzoo.functional, device=run.device)"


def trained(case: StrategyCase, incomplete: bool, device: torch.device | str) -> dict[str, torch.Tensor]:
    """The weights after an epoch; of complete items after two, with a checkpoint between them, which lies on the CPU."""
    task, epochs = shared_task(case, incomplete), 1 if incomplete else 2

    def run(state: Any = None) -> Run:
        return Run(
            case.model(task, norm=True), case.new(), train=task.loader("train"), device=device, state=state,
            slice=task.loader("slice") if "slice" in case.first.requires else None,
            training=Training(lr=0.05, weight_decay=0.01, batch_size=task.batch_size, epochs=epochs),
        )  # fmt: skip

    last = run()
    if not incomplete:
        last.train_epoch()
        last.end_epoch()
        last = run(on_device(last.state_dict(), torch.device("cpu")))
    fit(last, lambda: [task.batch("holdout")]).restore(last)
    return weights(last.model)


def trained_elsewhere(given: tuple[StrategyCase, bool]) -> tuple[dict[str, torch.Tensor], str]:
    """The same on the made-up device, in a process of its own, or the words of what was raised."""
    try:
        with elsewhere.device() as there:
            return elsewhere.values(trained(*given, there)), ""
    except elsewhere.TwoDevices as error:
        return {}, told(error)


@contract("strategy")
def check_other_device(case: StrategyCase) -> None:
    """On a device other than the CPU it trains as on the CPU, and no tensor of the one meets one of the other."""
    for incomplete in (False, True):
        claim = "a run on another device takes the steps of one on the CPU" + (
            ", where items lack modalities" * incomplete
        )
        found, fault = in_another(trained_elsewhere, (case, incomplete))
        if fault:
            raise CheckFailed(claim, fault, CURE)
        gap = difference(trained(case, incomplete, "cpu"), found, APART)
        require(gap is None, claim, str(gap), CURE)
