"""The benchmark runner: plan, runs, store, tables.

`mmzoo.bench(...)` is the bench itself: the package answers calls with `mmzoo.bench.calls.bench`. A function of that name
beside the package would be whichever of the two was imported last.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mmzoo.bench.calls import bench

        return bench(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
