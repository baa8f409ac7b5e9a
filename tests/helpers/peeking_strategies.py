"""Strategies that look for the labels of test samples, each in a way of its own."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import from_file

from mmzoo.api import Outputs, Run, Step, Strategy, Terms


class ReadsTest(Strategy):
    """Learns from the whole data set, through a function beside it."""

    def epoch_start(self, run: Any) -> None:
        _whole_set()


def _whole_set() -> Any:
    from mmzoo.data.datasets import mfeat

    return mfeat.load


class LooksAtObjects(Strategy):
    """Goes through all that is alive."""

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        len(gc.get_objects())
        return terms


class LooksAtReferrers(Strategy):
    def setup(self, run: Run) -> None:
        gc.get_referrers(run)


class LooksUpTheStack(Strategy):
    def predict(self, out: Outputs) -> Outputs:
        [frame.frame.f_locals for frame in inspect.stack()]
        return super().predict(out)


class LooksAtCallers(Strategy):
    def epoch_start(self, run: Run) -> None:
        dict(sys._getframe(1).f_locals)


class LooksAtTracebacks(Strategy):
    def epoch_start(self, run: Run) -> None:
        try:
            raise ValueError
        except ValueError as error:
            assert error.__traceback__ is not None
            dict(error.__traceback__.tb_frame.f_locals)


class LooksIntoStores(Strategy):
    def setup(self, run: Run) -> None:
        for path in Path(os.environ["MMZOO_HOME"]).rglob("*.csv"):
            path.read_text()


class LooksAtAllFrames(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        len(sys._current_frames())
        return terms


class LooksByAnotherProgram(Strategy):
    def setup(self, run: Run) -> None:
        subprocess.run([sys.executable, "-c", "", f"{os.environ['MMZOO_HOME']}/stores"], check=True)


class LooksIntoResults(Strategy):
    def setup(self, run: Run) -> None:
        with contextlib.suppress(OSError):
            Path("results/runs/some/predictions.npz").read_bytes()


class MapsStores(Strategy):
    """Through a function that gives no audit event."""

    def setup(self, run: Run) -> None:
        for path in Path(os.environ["MMZOO_HOME"]).rglob("*.csv"):
            torch.from_file(str(path), size=1, dtype=torch.uint8)


class MapsUnderItsOwnName(Strategy):
    def setup(self, run: Run) -> None:
        for path in Path(os.environ["MMZOO_HOME"]).rglob("*.csv"):
            from_file(filename=str(path), size=1, dtype=torch.uint8)


class MapsAsStorage(Strategy):
    def setup(self, run: Run) -> None:
        for path in Path(os.environ["MMZOO_HOME"]).rglob("*.csv"):
            torch.UntypedStorage.from_file(str(path), False, 1)
