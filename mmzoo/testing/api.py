"""The entry points: check a strategy, a head, an encoder or any catalogue entry, directly or through pytest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmzoo.core.encoder import Encoder
from mmzoo.errors import BadValue
from mmzoo.testing import checks
from mmzoo.testing.harness.cases import EncoderCase, HeadCase, Inputs, StrategyCase
from mmzoo.testing.harness.report import Check, CheckResult, Kind, Report, chosen, require, run_check, run_checks
from mmzoo.testing.harness.tasks import EncoderBuilder, HeadBuilder, TinyEncoder
from mmzoo.testing.replay import replay
from mmzoo.testing.replay.command import line, read
from mmzoo.training.strategy import Strategy

#: the modules that hold the checks; importing them registers the checks
CHECK_MODULES = checks.MODULES


def check_strategy(
    strategy: Strategy | Callable[[], Strategy],
    *,
    head: HeadBuilder | None = None,
    encoder: EncoderBuilder = TinyEncoder,
    draws: int = 10,
    only: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    raise_failures: bool = True,
) -> Report:
    """Run every contract check on a strategy.

    Args:
        strategy: an instance, a class, or a function without arguments that returns one; chains and windows too.
        head: (dims, n_classes) -> head, for a strategy that works with certain heads only; None: a head that fits its
            requirements.
        encoder: (input width, feature width, with batch statistics, dropout) -> encoder.
        draws: number of examples per check with random inputs.
        only: names of the checks to run; None: all.
        expected_failures: check -> reason, in addition to those that the strategy declares. An expected failure that
            passes is a failure.
        raise_failures: raise if a check fails.

    Returns:
        The result of every check.

    Raises:
        AssertionError: checks failed; the message lists all of them.
    """
    case = StrategyCase(strategy, head=head, encoder=encoder, draws=draws)
    return _checked("strategy", case, only, expected_failures, raise_failures)


def check_head(
    head: HeadBuilder,
    *,
    encoder: EncoderBuilder = TinyEncoder,
    draws: int = 10,
    label: str = "",
    multiple: int = 1,
    only: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    raise_failures: bool = True,
) -> Report:
    """Run every contract check on a fusion head.

    Args:
        head: its class, or (dims, n_classes) -> head.
        encoder: as for `check_strategy`; for a head with a `readout`, the encoder that it returns.
        draws: number of examples per check with random inputs.
        label: name in the report; default: that of the class.
        multiple: all widths are multiples of this number, for heads that require it.
        only: names of the checks to run; None: all.
        expected_failures: check -> reason, in addition to those that the head declares.
        raise_failures: raise if a check fails.

    Returns:
        The result of every check.

    Raises:
        AssertionError: checks failed; the message lists all of them.
    """
    case = HeadCase(head, encoder=encoder, draws=draws, label=label, multiple=multiple)
    return _checked("head", case, only, expected_failures, raise_failures)


def check_encoder(
    encoder: Callable[[], Encoder],
    *,
    inputs: Inputs,
    draws: int = 5,
    label: str = "",
    only: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    raise_failures: bool = True,
) -> Report:
    """Run every contract check on an encoder.

    Args:
        encoder: a function without arguments that returns one.
        inputs: an InputSpec (`mmzoo.testing.SPECS` has one of each kind), the shape of one sample, or (number of
            samples, generator) -> a batch, e.g. of token ids and their mask.
        draws: number of examples per check with random inputs.
        label: name in the report; default: that of the class.
        only: names of the checks to run; None: all.
        expected_failures: check -> reason.
        raise_failures: raise if a check fails.

    Returns:
        The result of every check.

    Raises:
        AssertionError: checks failed; the message lists all of them.
    """
    case = EncoderCase(encoder, inputs=inputs, draws=draws, label=label)
    return _checked("encoder", case, only, expected_failures, raise_failures)


def check_part(kind: Kind, cls: type, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Report:
    """Run every contract check on a class with given parameters, as named by a catalogue entry.

    Args:
        kind: "strategy", "head" or "encoder".
        cls: the class.
        kwargs: its parameters.
        options: those of `check_strategy`, `check_head` or `check_encoder`.
    """
    options.setdefault("raise_failures", True)
    only, expected, raising = (options.pop(k, None) for k in ("only", "expected_failures", "raise_failures"))
    return _checked(kind, part_case(kind, cls, kwargs, **options), only, expected, raising)


def part_case(kind: Kind, cls: type, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """The test case of a class with given parameters; arguments as for `check_part`."""
    given = dict(kwargs or {})
    if kind == "strategy":
        return StrategyCase(partial(cls, **given), **options)
    if kind == "head":
        inner = options.pop("encoder", TinyEncoder)

        def read(*arguments: Any) -> Encoder:
            encoder: Encoder = cls.readout({"m": inner(*arguments)}, **given)["m"]  # type: ignore[attr-defined]
            return encoder

        return HeadCase(partial(cls, **given), encoder=read, **options)
    if kind == "encoder":
        return EncoderCase(partial(cls, **given), **options)
    raise BadValue(f"there are checks for strategy, head and encoder, not for {kind!r}.")


class BoundCheck:
    """One check on one part, to be called by a test: raises on failure, skips through pytest.

    Args:
        name: name of the check.
        check: the check.
        case: the part.
        expected: why it is expected to fail; None: it is not.
    """

    def __init__(self, name: str, check: Check, case: Any, expected: str | None) -> None:
        self.id = f"{case.label}-{name}"
        self._name, self._check, self._case, self._expected = name, check, case, expected

    def __call__(self) -> CheckResult:
        import pytest

        result = run_check(self._name, self._check, self._case, self._expected)
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "expected":
            pytest.xfail(result.reason)
        if result.status == "failed":
            pytest.fail(result.reason, pytrace=False)
        return result


def parametrize_with_checks(
    parts: Sequence[Any],
    *,
    kind: Kind = "strategy",
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """A decorator that turns `def test_contract(check): check()` into one pytest test per part and check.

    Args:
        parts: first arguments of `check_strategy`, `check_head` or `check_encoder`.
        kind: "strategy", "head" or "encoder".
        expected_failures: check -> reason, for all parts.
        options: further arguments of these functions.
    """
    import pytest

    cases = {"strategy": StrategyCase, "head": HeadCase, "encoder": EncoderCase}
    bound = [
        BoundCheck(name, check, case, expected.get(name))
        for case in [cases[kind](part, **options) for part in parts]
        for expected in [_expected(case, expected_failures)]
        for name, check in chosen(kind, expected)
    ]
    return pytest.mark.parametrize("check", [pytest.param(b, id=b.id) for b in bound])


def _checked(
    kind: Kind,
    case: Any,
    only: Collection[str] | None,
    expected: Mapping[str, str] | None,
    raise_failures: bool,
) -> Report:
    report = run_checks(kind, case, _expected(case, expected), only)
    if raise_failures:
        report.raise_if_failed()
    return report


def _expected(case: Any, given: Mapping[str, str] | None) -> dict[str, str]:
    """The checks that a part says cannot hold by design (`expected_failures`), and those that the caller names."""
    return {**getattr(case.first, "expected_failures", {}), **(given or {})}


def check_vectors(path: Path) -> None:
    """Replay a file of test vectors: every value of every case must agree within 1e-9 or be skipped for a reason.

    Args:
        path: the file; see `mmzoo.testing.replay`.

    Raises:
        CheckFailed: a value differs; the message names the case.
        BadValue: the file holds no vectors.
    """
    results = [replay(case) for case in read(str(path))]
    todo = "compare the formula with the vector's source"
    for result in results:
        good = result.known and not result.failed and not result.missed
        require(good, f"the numbers of {path.name}", line(path.name, result), todo)
    require(any(r.compared for r in results), f"the numbers of {path.name}", "nothing was compared", todo)
