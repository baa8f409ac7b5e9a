"""mmzoo: multimodal encoders, fusion heads and modality-rebalancing strategies under one fair benchmark.

Importing this package imports no torch. The public names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from mmzoo.renamed import install

__version__ = "0.1.0"

_PUBLIC = (
    "Batch",
    "Chain",
    "Encoder",
    "FusionHead",
    "Grads",
    "MultimodalModel",
    "Outputs",
    "Pass",
    "Run",
    "Step",
    "Strategy",
    "Window",
)
_BENCHMARK = {
    "bench": "python",
    "evaluate": "foreign",
    "from_pretrained": "pretrained",
    "load_run": "trained",
    "save_pretrained": "pretrained",
}
_LOOPS = {"Branches": "branches", "attach": "attached"}
__all__ = ["__version__", *_BENCHMARK, *_LOOPS, *_PUBLIC]

install()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module("mmzoo.api"), name)
    if name in _BENCHMARK:
        return getattr(importlib.import_module(f"mmzoo.benchmark.{_BENCHMARK[name]}"), name)
    if name in _LOOPS:
        return getattr(importlib.import_module(f"mmzoo.loops.{_LOOPS[name]}"), name)
    raise AttributeError(f"module 'mmzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
