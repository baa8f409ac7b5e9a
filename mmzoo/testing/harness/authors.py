"""Where in the file of a part's author something was made or written."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+)', re.MULTILINE)


def file_of(part: object) -> str:
    """The file in which the class of a part is written; empty where that is not known."""
    cls = part if inspect.isclass(part) else type(part)
    try:
        return inspect.getsourcefile(cls) or ""
    except TypeError:
        return ""


def line_of(part: object, method: str = "") -> str:
    """`FILE:LINE` of a class, or of a method that it defines itself; empty where that is not known."""
    cls: Any = part if inspect.isclass(part) else type(part)
    try:
        _, line = inspect.getsourcelines(getattr(cls, method) if method else cls)
    except (OSError, TypeError, AttributeError):
        return ""
    return f"{Path(file_of(cls)).name}:{line}"


def call_of(part: object, name: str) -> str:
    """`FILE:LINE` of the first call of a method of that name in the class; empty where there is none."""
    try:
        lines, first = inspect.getsourcelines(type(part))
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return ""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    at = [n.lineno for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr == name]
    return f"{Path(file_of(part)).name}:{first + min(at) - 1}" if at else ""


def written_names(part: object, names: frozenset[str]) -> list[str]:
    """What the code of a class looks up or compares by one of these names, with its line: `"audio" (FILE:LINE)`."""
    try:
        lines, first = inspect.getsourcelines(type(part))
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            said = [node.slice]
        elif isinstance(node, ast.Compare):
            said = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            said = node.args[:1]
        else:
            continue
        for each in said:
            text = each.value if isinstance(each, ast.Constant) else None
            if isinstance(text, str) and text.rpartition(":")[2] in names:
                found.append(f'"{text}" ({Path(file_of(part)).name}:{first + each.lineno - 1})')
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within the block each operation of a graph remembers the lines that led to it; see `made_at`. Nothing is warned of, for
    torch would print those lines too."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("ignore")
        yield


def made_at(node: Any, file: str) -> str:
    """`FILE:LINE` of the innermost line of a file that made a node of a graph, within `remembering`; else empty."""
    trace = "".join(getattr(node, "metadata", {}).get("traceback_", ()))
    found = [m["line"] for m in _FRAME.finditer(trace) if m["file"] == file]
    return f"{Path(file).name}:{found[-1]}" if found else ""


def _here(file: str) -> str:
    """`FILE:LINE` of the innermost frame that is of a file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return "" if frame is None else f"{Path(file).name}:{frame.f_lineno}"


class Writes(TorchDispatchMode):
    """A block that notes in `found` (name -> where) which of some tensors are written to, views of them included.

    Args:
        given: Name -> tensor.
        file: The file whose lines are named.
    """

    def __init__(self, given: Mapping[str, Tensor], file: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {t.untyped_storage().data_ptr(): name for name, t in given.items() if t.numel()}
        self._file = file
        self.found: dict[str, str] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for argument, value in zip(func._schema.arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                name = self._places.get(value.untyped_storage().data_ptr())
                if name is not None:
                    self.found.setdefault(name, _here(self._file))
        return func(*args, **(kwargs or {}))
