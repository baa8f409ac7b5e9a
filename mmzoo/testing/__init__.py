"""Contract checks for strategies, fusion heads and encoders, your own or those of a package.

    from mmzoo.testing import check_strategy
    report = check_strategy(lambda: MyStrategy(alpha=0.3))

or, with one pytest test per check:

    from mmzoo.testing import parametrize_with_checks
    @parametrize_with_checks([MyStrategy, MyStrategy(alpha=0.0)])
    def test_contract(check): check()

What a part declares about itself (`requires`, `owns`, `neutral`, ...) selects the checks. The message of a failure
gives the claim, the observation and the next step. The names below are loaded on first use.
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
