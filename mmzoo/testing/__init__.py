"""Contract checks for strategies, fusion heads and encoders, one's own or those of a package.

    from mmzoo.testing import check_strategy
    report = check_strategy(lambda: MyStrategy(alpha=0.3))

or, one pytest test a check:

    from mmzoo.testing import parametrize_with_checks
    @parametrize_with_checks([MyStrategy, MyStrategy(alpha=0.0)])
    def test_contract(check): check()

Checks are chosen by what a part declares about itself (`requires`, `owns`, `neutral`, ...). A failure says what was
claimed, what was seen and what to do. The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "check_encoder": "api",
    "check_head": "api",
    "check_part": "api",
    "check_strategy": "api",
    "check_vectors": "api",
    "parametrize_with_checks": "api",
    "SPECS": "harness.cases",
    "check_installed": "harness.program",
    "run_program": "harness.program",
    "CheckFailed": "harness.report",
    "CheckResult": "harness.report",
    "Report": "harness.report",
    "build_model": "harness.tasks",
    "build_run": "harness.tasks",
    "make_task": "harness.tasks",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
