"""What a test vector is, who computes its quantities, and how far the two are apart."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmzoo.errors import BadValue

#: Keys of a file or a case that are not expected values.
ABOUT = frozenset(
    {
        "kind",
        "name",
        "method",
        "source",
        "note",
        "dtype",
        "torch",
        "inputs",
        "params",
        "registered_params",
        "expected",
        "outputs",
        "cases",
    }
)
_TEXT = frozenset({"note", "source"})


@dataclass(frozen=True)
class Check:
    """One comparison.

    expected: None takes the value found under `path`. tolerance: where the vector is itself an approximation,
    how far from it the exact value may lie. note: what a reader should know, such as which part was left out.
    """

    path: str
    computed: Any
    expected: Any = None
    tolerance: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Skip:
    """Quantities that are left out on purpose. paths may hold wildcards; none at all means the whole case."""

    reason: str
    paths: tuple[str, ...] = ()


def skip(reason: str, *paths: str) -> Skip:
    return Skip(reason, paths)


@dataclass(frozen=True)
class Case:
    """One case of a vector file.

    expected: the expected values; further sections of a case stand under their own names. The path of a value
    is its key; a value in a mapping or a list of mappings has the keys joined by `/`.
    """

    name: str
    kind: str
    inputs: Mapping[str, Any]
    params: Mapping[str, Any]
    expected: Mapping[str, Any]

    def __contains__(self, path: str) -> bool:
        return path in self._nodes()

    def __getitem__(self, path: str) -> Any:
        return self._nodes()[path]

    def real(self, key: str) -> Tensor:
        """An input as float64. Raises BadValue where it is missing or not a block of numbers."""
        return real(self._input(key), key)

    def whole(self, key: str) -> Tensor:
        """An input as int64. Raises BadValue where a number is not whole."""
        value = self.real(key)
        if not bool((value == value.round()).all()):
            raise BadValue(f"{key} is not made of whole numbers")
        return value.to(torch.int64)

    def number(self, key: str) -> float:
        """An input that is a single number."""
        value = self.real(key)
        if value.ndim:
            raise BadValue(f"{key} is not a single number")
        return float(value)

    def named(self, prefix: str) -> dict[str, Tensor]:
        """All inputs whose key starts with `prefix`, keyed by the rest of it, in the order of the file."""
        found = {k.removeprefix(prefix): self.real(k) for k in self.inputs if k.startswith(prefix)}
        if not found:
            raise BadValue(f"no input {prefix}*")
        return found

    def leaves(self) -> list[str]:
        """The paths of all expected values."""
        return [path for path, value in self._nodes().items() if not _is_inner(value)]

    def _input(self, key: str) -> Any:
        if key not in self.inputs:
            raise BadValue(f"no input {key!r}")
        return self.inputs[key]

    def _nodes(self) -> dict[str, Any]:
        return dict(_walk(self.expected, ""))


def _is_inner(value: Any) -> bool:
    listed = value if isinstance(value, list) else []
    return isinstance(value, Mapping) or any(isinstance(v, Mapping) for v in listed)


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path:
        yield path, value
    if _is_inner(value):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            if not (key in _TEXT and isinstance(inner, str)):
                yield from _walk(inner, f"{path}/{key}" if path else str(key))


def real(value: Any, what: str = "value") -> Tensor:
    """float64 from a number, nested lists of numbers or a tensor; None becomes NaN."""
    if isinstance(value, Tensor):
        return value.detach().to(torch.float64)
    try:
        return torch.tensor(_filled(value), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as fault:
        raise BadValue(f"{what} is not a block of numbers") from fault


def _filled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        inner = [_filled(v) for v in value]
        return [v.tolist() if isinstance(v, Tensor) else v for v in inner]
    return math.nan if value is None else value


Replay = Callable[[Case], Iterable[Any]]
_REPLAYS: dict[tuple[str, str], Replay] = {}


def replays(name: str, *kinds: str) -> Callable[[Replay], Replay]:
    """Register the function that computes the cases of `name` (and of these kinds) with the library's code.

    It takes a Case and yields `(path, computed)`, `(path, computed, expected)` where only a part of the value
    in the file is meant, a Check, or `skip(reason, *paths)`. A path that the case at hand does not have is
    passed over. An expected value that is neither computed nor skipped is reported as not compared.
    """

    def register(function: Replay) -> Replay:
        for kind in kinds or ("",):
            _REPLAYS[name, kind] = function
        return function

    return register


def replay_of(case: Case) -> Replay | None:
    return _REPLAYS.get((case.name, case.kind))


@dataclass
class Result:
    """What became of one case.

    compared: path -> error. loose: the same where the vector is an approximation. skipped: (reason, what, how
    many values). missed: neither compared nor skipped. failed: the paths beyond the tolerance, or the fault.
    """

    case: Case
    known: bool = True
    compared: dict[str, float] = field(default_factory=dict)
    loose: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str, int]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        return max(self.compared.values(), default=0.0)


def replay(case: Case, tolerance: float = 1e-9) -> Result:
    """Compute a case and compare. Raises BadValue for a case whose inputs cannot be read.

    Any other fault is kept in the result, so that one case cannot hide the rest.
    """
    function = replay_of(case)
    if function is None:
        return Result(case, known=False, missed=case.leaves())
    result, left, skips = Result(case), dict.fromkeys(case.leaves()), []
    try:
        for item in function(case):
            if isinstance(item, Skip):
                skips.append(item)
            else:
                _compare(item if isinstance(item, Check) else Check(*item), case, tolerance, result, left)
    except BadValue:
        raise
    except Exception as fault:
        result.failed.append(f"{type(fault).__name__}: {fault}".splitlines()[0])
    for item in skips:
        for pattern in item.paths or ("*",):
            found = [path for path in left if fnmatch.fnmatchcase(path, pattern)]
            if found:
                what = pattern if len(found) > 3 and item.paths else ", ".join(found)
                result.skipped.append((item.reason, what, len(found)))
            for path in found:
                del left[path]
    result.missed = list(left)
    return result


def _compare(check: Check, case: Case, tolerance: float, result: Result, left: dict[str, None]) -> None:
    if check.path not in case:
        return
    expected = case[check.path] if check.expected is None else check.expected
    error = difference(check.computed, expected)
    covered = [p for p in left if p == check.path or p.startswith(f"{check.path}/")]
    for path in covered:
        del left[path]
    table = result.compared if check.tolerance is None else result.loose
    table.update(dict.fromkeys(covered or [check.path], error))
    if check.note:
        result.notes.append(f"{check.path}: {check.note}")
    if not error <= max(tolerance, check.tolerance or 0.0):
        result.failed.append(check.path)


def difference(computed: Any, expected: Any) -> float:
    """Largest |computed - expected| / max(1, |expected|); infinite where shapes, keys or NaN do not agree."""
    if isinstance(expected, Mapping):
        if not isinstance(computed, Mapping) or set(map(str, computed)) != set(expected):
            return math.inf
        return max((difference(v, expected[str(k)]) for k, v in computed.items()), default=0.0)
    try:
        a, b = real(computed), real(expected)
    except BadValue:
        return 0.0 if computed == expected else math.inf
    if a.shape != b.shape:
        return math.inf
    off = (a - b).abs() / b.abs().clamp_min(1.0)
    off = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, off).nan_to_num(nan=math.inf)
    return float(off.max()) if off.numel() else 0.0


def cases_of(data: Any) -> list[Case]:
    """The cases of one file's content. Raises BadValue when it is not a vector file."""
    name = (data.get("method") or data.get("name")) if isinstance(data, Mapping) else None
    if not isinstance(name, str):
        raise BadValue("not a vector file: no 'method' or 'name'")
    if "cases" not in data:
        if "outputs" not in data and "expected" not in data:
            raise BadValue("not a vector file: neither 'cases' nor 'outputs'")
        return [_case(name, data, 0)]
    if not isinstance(data["cases"], list):
        raise BadValue("not a vector file: 'cases' is not a list")
    return [_case(name, case, i) for i, case in enumerate(data["cases"])]


def _case(name: str, data: Any, number: int) -> Case:
    if not isinstance(data, Mapping) or not isinstance(data.get("kind", ""), str):
        raise BadValue(f"not a vector file: case {number} is not an object with a 'kind'")
    blocks = {key: data.get(key, {}) for key in ("inputs", "params")}
    for key, block in blocks.items():
        if not isinstance(block, Mapping):
            raise BadValue(f"not a vector file: '{key}' of case {number} is not an object")
    expected: dict[str, Any] = {}
    for key in ("expected", "outputs"):
        value = data.get(key, {})
        expected.update(value if isinstance(value, Mapping) else {key: value})
    expected.update({k: v for k, v in data.items() if k not in ABOUT})
    return Case(name, data.get("kind", ""), blocks["inputs"], blocks["params"], expected)
