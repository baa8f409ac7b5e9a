"""Whether a contract check fails, and what it says."""

from __future__ import annotations

from typing import Any


def is_caught(report: Any, check: str, seen: str) -> None:
    assert report.status(check) == "failed", str(report)
    reason = report.failed[0].reason
    assert reason.index("claimed: ") < reason.index("\nseen: ") < reason.index("\nto do: ")
    assert seen in reason, reason
