"""Random streams derived from a seed and a purpose, so that adding one consumer never shifts another's numbers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(0, "init", "encoder:audio")`. The same in every process."""
    text = "\x1f".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose. Different kinds of devices give different numbers from the same seed."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Run a block under a global generator of its own; the former one is restored afterwards."""
    number = derive(seed, *purpose)
    if torch.cuda.is_initialized():
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.default_generator.manual_seed(number)
            torch.cuda.manual_seed_all(number)
            yield
        return
    # torch.manual_seed also queues a seed for a GPU that nobody uses, at a hundred times the cost.
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
