"""The device that runs are made on, and what it says of their numbers."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from mmzoo import __version__
from mmzoo.benchmark.execution.torchrun import local_rank, processes
from mmzoo.core.replaced import replaced
from mmzoo.errors import BadValue, short
from mmzoo.registry.plugins import load

_ACCEPTED = "Accepted are auto (a GPU where there is one), cpu, cuda, and cuda:N for the GPU of number N."


def check_device(name: str) -> str:
    """`auto` or a torch device that is there; under torchrun each process takes the GPU of its number. Raises BadValue
    otherwise."""
    if processes() > 1 and name != "cpu":
        return _own_gpu(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):  # torch lists twenty types, most of which are never there
        raise BadValue(f"device {short(name)} is unknown. {_ACCEPTED}") from None
    try:
        torch.zeros((), device=device).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, ValueError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadValue(f"device {name!r} cannot be used here: {why}. {_ACCEPTED}") from None
    return str(device)


def _own_gpu(name: str) -> str:
    if name not in ("auto", "cuda"):
        raise BadValue(
            f"device {name!r} under torchrun: each process uses the GPU of its local rank; use --device cuda or cpu."
        )
    there = torch.cuda.device_count()
    if name == "auto" and not there:
        return "cpu"
    if local_rank() >= there:
        raise BadValue(
            f"process {local_rank()} of this machine has no GPU: there are {there}. Start as many processes "
            "(--nproc-per-node), or take --device cpu."
        )
    return f"cuda:{local_rank()}"


def environment(device: str) -> dict[str, Any]:
    """What the numbers were made on; of a GPU also the bytes that torch reserved at most since `forget_peak`. Third-party
    packages that are loaded, and what of torch is replaced, where there are any."""
    facts: dict[str, Any] = {
        "mmzoo": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if packages := {p.name: p.version for p in load().plugins[1:] if p.status == "loaded"}:
        facts["packages"] = packages
    if names := replaced():
        facts["replaced"] = names
    if device.startswith("cuda"):
        facts |= {"gpu": torch.cuda.get_device_name(device), "peak_memory": torch.cuda.max_memory_reserved(device)}
    return facts


def forget_peak(device: str) -> None:
    """Let the peak of a GPU's memory be that of what follows."""
    if device.startswith("cuda"):
        torch.cuda.init()  # under torchrun the device is known by its name only, and nothing has been put on it yet
        torch.cuda.reset_peak_memory_stats(device)
