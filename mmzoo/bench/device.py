"""The device that runs are made on, and what it says of their numbers."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mmzoo import __version__
from mmzoo.errors import BadValue


def check_device(name: str) -> str:
    """`auto` or a torch device that is there. Raises BadValue otherwise."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, ValueError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadValue(f"device {name!r} cannot be used here: {why}. Try --device auto.") from None
    return str(device)


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """TF32 on CUDA GPUs within a block, where it is wanted; as it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, cudnn.allow_tf32
    if wanted:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        if wanted:
            matmul.allow_tf32, cudnn.allow_tf32 = was


def environment(device: str) -> dict[str, Any]:
    """What the numbers were made on; of a GPU also the bytes that torch reserved at most since `forget_peak`."""
    facts = {"mmzoo": __version__, "torch": torch.__version__, "numpy": np.__version__,
             "python": platform.python_version(), "machine": platform.machine(), "device": device,
             "threads": torch.get_num_threads()}  # fmt: skip
    if device.startswith("cuda"):
        facts |= {"gpu": torch.cuda.get_device_name(device), "peak_memory": torch.cuda.max_memory_reserved(device)}
    return facts


def forget_peak(device: str) -> None:
    """Let the peak of a GPU's memory be that of what follows."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
