"""Messages of contract checks, how checks are run, and their results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mmzoo.errors import told, unknown
from mmzoo.testing.harness.authors import file_of, line_of

Kind = Literal["strategy", "head", "encoder", "dataset"]
Status = Literal["passed", "failed", "skipped", "expected"]
Check = Callable[[Any], None]

#: kind -> name -> check, in the order in which they run
CHECKS: dict[str, dict[str, Check]] = {"strategy": {}, "head": {}, "encoder": {}, "dataset": {}}
#: the checks without which no other one says anything
FIRST: list[str] = []


class CheckFailed(AssertionError):
    """A part does not do what it claims. The message has three parts.

    Args:
        claimed: the claim.
        seen: the observation.
        todo: the next step.
    """

    def __init__(self, claimed: str, seen: str, todo: str) -> None:
        super().__init__(f"claimed: {claimed}\nseen: {seen}\nto do: {todo}")
        self.claimed, self.seen, self.todo = claimed, seen, todo


class Skipped(Exception):
    """A check that does not apply; the message says why."""


def require(holds: bool, claimed: str, seen: str, todo: str) -> None:
    """Raise CheckFailed unless the claim holds.

    Args:
        holds: whether it does.
        claimed: the claim.
        seen: the observation.
        todo: the next step.
    """
    if not holds:
        raise CheckFailed(claimed, seen, todo)


def contract(kind: Kind, *, first: bool = False) -> Callable[[Check], Check]:
    """Register a check of one kind of part. The first line of its docstring is the claim. first: where it fails, no other one
    is run."""

    def register(check: Check) -> Check:
        CHECKS[kind][check.__name__] = check
        if first:
            FIRST.append(check.__name__)
            CHECKS[kind] = dict(sorted(CHECKS[kind].items(), key=lambda item: item[0] not in FIRST))
        return check

    return register


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on one part.

    Args:
        name: name of the check.
        status: the outcome.
        reason: why it failed, was skipped or was expected to fail.
    """

    name: str
    status: Status
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.status}" + (f"\n  {self.reason}".replace("\n", "\n  ") if self.reason else "")


class Report(list[CheckResult]):
    """The results of all checks on one part.

    Args:
        label: name of the part.
        results: the results.
    """

    def __init__(self, label: str, results: Collection[CheckResult] = ()) -> None:
        super().__init__(results)
        self.label = label

    @property
    def failed(self) -> list[CheckResult]:
        """The results of failed checks."""
        return [r for r in self if r.status == "failed"]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def status(self, name: str) -> Status:
        """The status of one check."""
        return next(r.status for r in self if r.name == name)

    def raise_if_failed(self) -> None:
        """Raise AssertionError with all failures."""
        if self.failed:
            listed = "\n".join(map(str, self.failed))
            raise AssertionError(f"{self.label} fails {len(self.failed)} of {len(self)} contract checks.\n{listed}")

    def __str__(self) -> str:
        return "\n".join([self.label, *map(str, self)])


#: what to do where the part raises in a check that does not know why
CRASHED = "make this case work"


def run_check(name: str, check: Check, case: Any, expected: str | None = None) -> CheckResult:
    """Run one check.

    Args:
        name: name of the check.
        check: the check.
        case: the part.
        expected: why it is expected to fail; passing then counts as a failure. None: it is not.
    """
    grad_mode = torch.is_grad_enabled()
    try:
        check(case)
    except Skipped as skipped:
        return CheckResult(name, "skipped", str(skipped))
    except Exception as error:  # whatever a part raises is a finding about it
        if expected is not None:
            return CheckResult(name, "expected", expected)
        return CheckResult(name, "failed", _explained(check, error) + _where(case, str(error)))
    finally:
        torch.set_grad_enabled(grad_mode)
    if expected is None:
        return CheckResult(name, "passed")
    surprise = CheckFailed(f"{name} is expected to fail: {expected}", "it passed", "remove it from expected_failures")
    return CheckResult(name, "failed", str(surprise))


def run_checks(
    kind: Kind,
    case: Any,
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Run the checks of a kind of part.

    Args:
        kind: "strategy", "head", "encoder" or "dataset".
        case: the part.
        expected_failures: check -> reason.
        only: names of the checks to run; None: all.
        progress: told the name of each check before it runs.

    Raises:
        UnknownName: there is no such check.
    """
    expected = dict(expected_failures or {})
    report = Report(case.label)
    for name, check in chosen(kind, expected, only):
        if progress is not None:
            progress(name)
        report.append(run_check(name, check, case, expected.get(name)))
        if name in FIRST and not report.ok:
            break
    if only is not None and any(CRASHED in r.reason for r in report.failed):
        report.extend(_reasons(kind, case, expected, only))
    return report


def _reasons(kind: Kind, case: Any, expected: Mapping[str, str], only: Collection[str]) -> list[CheckResult]:
    """The failure of the first check that was not asked for: where a part raises, it may know the cure."""
    for name, check in CHECKS[kind].items():
        if name in FIRST and name not in only and name not in expected:
            result = run_check(name, check, case)
            if result.status == "failed" and CRASHED not in result.reason:
                return [result]
    return []


def chosen(kind: Kind, expected: Collection[str] = (), only: Collection[str] | None = None) -> list[tuple[str, Check]]:
    """Names and checks of a kind. Raises UnknownName for a check that does not exist."""
    known = CHECKS[kind]
    for name in [*expected, *(only or ())]:
        if name not in known:
            raise unknown(f"{kind} check", name, known)
    return [(n, c) for n, c in known.items() if only is None or n in only]


def claim(check: Check) -> str:
    """What a check claims: the first sentence of its docstring."""
    text = " ".join((check.__doc__ or check.__name__).split("\n\n")[0].split())
    return text


def _where(case: Any, told: str) -> str:
    """Where to look in the author's file, where what was seen does not say it: the hook that is named, or all of them."""
    part = getattr(case, "first", None)
    file = Path(file_of(part)).name
    if not file or f"{file}:" in told:
        return ""
    own = [n for n in vars(type(part)) if not n.startswith("_") and inspect.isfunction(vars(type(part))[n])]
    named = [n for n in own if f"`{n}`" in told] or own
    lines = [f"`{n}` {line_of(part, n)}" for n in named] or [line_of(part)]
    return f"\nwhere: {', '.join(lines)}"


def _explained(check: Check, error: Exception) -> str:
    """The three parts of a failure, also where the part itself raised."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, CheckFailed):
        return str(error) + notes
    crash = CheckFailed(claim(check), told(error), CRASHED)
    return str(crash) + notes
