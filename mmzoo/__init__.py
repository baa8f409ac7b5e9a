"""mmzoo: multimodal encoders, fusion heads and modality-rebalancing strategies under one fair benchmark.

Importing this package imports no torch. The public names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = (
    "Batch", "Chain", "Encoder", "FusionHead", "Grads", "MultimodalModel", "Outputs",
    "Pass", "Run", "Step", "Strategy", "Window",
)  # fmt: skip
#: these train or score; `bench` is the package itself, which can be called
_CALLS = ("evaluate", "load_run")
__all__ = ["__version__", "bench", *_CALLS, *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module("mmzoo.api"), name)
    if name in _CALLS:
        return getattr(importlib.import_module("mmzoo.bench.calls"), name)
    if name == "bench":
        return importlib.import_module("mmzoo.bench")
    raise AttributeError(f"module 'mmzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
