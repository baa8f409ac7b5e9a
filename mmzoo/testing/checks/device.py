"""What a strategy owes to a run on a GPU, seen on a device that is made up (`mmzoo.testing.harness.fake_device`)."""

from __future__ import annotations

from typing import Any

import torch

from mmzoo.errors import told
from mmzoo.testing.checks.processes import shared_task
from mmzoo.testing.harness import fake_device
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.ranks import RankFailed, in_another
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.training.config import Training
from mmzoo.training.loop import fit
from mmzoo.training.run import Run
from mmzoo.training.weights import on_device

APART = 1e-9
CURE = "make tensors where others are (x.new_zeros, torch.zeros_like, constant of mmzoo.functional, device=run.device)"


def trained(case: StrategyCase, incomplete: bool, device: torch.device | str) -> dict[str, torch.Tensor]:
    """The weights after an epoch; of complete items after two, with a checkpoint between them, which lies on the CPU."""
    task, epochs = shared_task(case, incomplete), 1 if incomplete else 2

    def run(state: Any = None) -> Run:
        return Run(
            case.model(task, norm=True),
            case.new(),
            train=task.loader("train"),
            device=device,
            state=state,
            slice=task.loader("slice") if "slice" in case.first.requires else None,
            training=Training(lr=0.05, weight_decay=0.01, batch_size=task.batch_size, epochs=epochs),
        )

    last = run()
    if not incomplete:
        last.train_epoch()
        last.end_epoch()
        last = run(on_device(last.state_dict(), torch.device("cpu")))
    fit(last, lambda: [task.batch("holdout")]).restore(last)
    return weights(last.model)


def trained_elsewhere(given: tuple[StrategyCase, bool]) -> tuple[str, Any]:
    """("done", the same on the made-up device), in a process of its own; or "fault" or "unknown", and what was raised."""
    try:
        with fake_device.device() as there:
            return "done", fake_device.values(trained(*given, there))
    except fake_device.TwoDevices as error:
        return "fault", told(error)
    except NotImplementedError as error:
        return "unknown", str(error).splitlines()[0]


@contract("strategy")
def check_other_device(case: StrategyCase) -> None:
    """On a device other than the CPU it trains as on the CPU, and no tensor of the one meets one of the other."""
    for incomplete in (False, True):
        claim = "a run on another device takes the steps of one on the CPU" + (", with missing modalities" * incomplete)
        try:
            kind, found = in_another(trained_elsewhere, (case, incomplete))
        except RankFailed as error:
            raise CheckFailed(claim, str(error), CURE) from error
        if kind == "unknown":
            raise Skipped(f"the mock device does not support an operation of the method: {found}")
        if kind == "fault":
            raise CheckFailed(claim, found, CURE)
        gap = difference(trained(case, incomplete, "cpu"), found, APART)
        require(gap is None, claim, str(gap), CURE)
