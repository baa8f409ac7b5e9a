"""The entry points: check a strategy, a head, an encoder, or whatever a catalogue names; and a form for pytest."""

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

    strategy: an instance, a class, or a function without arguments that makes one; chains and windows too. head:
    (dims, n_classes) -> head, for a strategy that only works with a certain one. encoder: (input width, feature
    width, with batch statistics, dropout) -> encoder. draws: examples a check with random inputs. only: names of the
    checks to run. expected_failures: check -> reason, on top of those that the strategy itself declares; an expected
    failure that passes is a failure.

    Raises AssertionError listing all failures, unless raise_failures is False.
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
    """Run every contract check on a fusion head, given by its class or by (dims, n_classes) -> head.

    encoder: as in check_strategy; for a head with a `readout` what that makes. multiple: of which all widths are
    multiples, where the head asks for that. expected_failures: on top of those that the head itself declares.
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
    """Run every contract check on an encoder, given by a function without arguments.

    inputs: an InputSpec (`mmzoo.testing.SPECS` has one of each kind), the shape of one item, or (number of items,
    generator) -> a batch, e.g. of token ids and their mask.
    """
    case = EncoderCase(encoder, inputs=inputs, draws=draws, label=label)
    return _checked("encoder", case, only, expected_failures, raise_failures)


def check_part(kind: Kind, cls: type, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Report:
    """Run every contract check on what a catalogue entry names: a class and its parameters.

    options: those of check_strategy, check_head or check_encoder.
    """
    options.setdefault("raise_failures", True)
    only, expected, raising = (options.pop(k, None) for k in ("only", "expected_failures", "raise_failures"))
    return _checked(kind, part_case(kind, cls, kwargs, **options), only, expected, raising)


def part_case(kind: Kind, cls: type, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """The case of a class and its parameters."""
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
    """One check on one part, to be called by a test: raises on failure, skips through pytest."""

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
    """A decorator that turns `def test_contract(check): check()` into one test a part and check.

    parts: as the first argument of check_strategy, check_head or check_encoder; options: their other ones.
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
    """Replay a file of test vectors: every value of every case is compared or skipped for a reason, and agrees within 1e-9.

    Raises CheckFailed that names the case, BadValue for a file that holds no vectors. See mmzoo.testing.replay.
    """
    results = [replay(case) for case in read(str(path))]
    todo = "compare the formula with the vector's source"
    for result in results:
        good = result.known and not result.failed and not result.missed
        require(good, f"the numbers of {path.name}", line(path.name, result), todo)
    require(any(r.compared for r in results), f"the numbers of {path.name}", "nothing was compared", todo)
