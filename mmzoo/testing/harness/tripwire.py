"""Notices when code looks for what it is not given: live objects, frames of callers, prepared data, results.

A tripwire, not a fence. Python's audit events name the usual ways; code that means to hide will find others.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

from mmzoo.errors import HERE

_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
#: event -> what it means
_OBJECTS = {f"gc.{name}": f"gc.{name}" for name in ("get_objects", "get_referrers", "get_referents")}
_OBJECTS |= {
    f"sys.{name}": f"sys.{name}" for name in ("_current_frames", "_current_exceptions", "settrace", "setprofile")
}
_FILES = ("open", "os.listdir", "os.scandir")
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
#: functions that open a file without an event: module and name
_SILENT = (("torch", "from_file"), ("torch", "UntypedStorage.from_file"), ("torchvision.io", "read_file"))
#: modules through which frames are asked for on behalf of their caller
_LOOKERS = ("inspect.py", "traceback.py")
#: names of files that hold labels or answers, wherever they are
ANSWERS = ("predictions.npz", "index.csv")


class Watch:
    """What the code of one author does.

    Args:
        author: The file of the code; whatever is beside it or below is the author's too.
        folders: Folders that it must not read.
    """

    def __init__(self, author: Path, folders: Sequence[Path]) -> None:
        self._root = str(author.resolve().parent) + os.sep
        self._folders = [str(f.resolve()) + os.sep for f in folders]
        self.found: list[str] = []
        self.busy = False

    def hear(self, event: str, arguments: tuple[Any, ...], frame: FrameType | None) -> None:
        """Note an event where it is the author's."""
        if event in _OBJECTS:
            self._note(_OBJECTS[event], self._nearest(frame))
        elif event == "sys._getframe":
            while frame is not None and Path(frame.f_code.co_filename).name in _LOOKERS:
                frame = frame.f_back
            self._note("the frames of its callers", frame)
        elif event == "object.__getattr__" and arguments[1:] and arguments[1] in ("tb_frame", "gi_frame"):
            self._note(f"the frames of its callers ({arguments[1]})", frame)
        elif event in _FILES and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if os.path.basename(path) in ANSWERS or any((path + os.sep).startswith(f) for f in self._folders):
                self._note(f"the file or folder {path}", self._any(frame))
        elif event in _PROGRAMS:
            given = str(arguments)
            if any(name in given for name in (*ANSWERS, *(f.rstrip(os.sep) for f in self._folders))):
                self._note("prepared data or results, by another program", self._any(frame))

    def _note(self, what: str, frame: FrameType | None) -> None:
        if frame is not None and self.is_author(frame.f_code.co_filename):
            text = f"{what} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
            if text not in self.found:
                self.found.append(text)

    def is_author(self, file: str) -> bool:
        """Whether a file is the author's."""
        here = str(HERE) + os.sep
        if file.startswith(here) and not self._root.startswith(here):
            return False
        return file.startswith(self._root) and not (_of_library(file) and not _of_library(self._root))

    def _nearest(self, frame: FrameType | None) -> FrameType | None:
        """The nearest frame that is of no library."""
        while (
            frame is not None and _of_library(frame.f_code.co_filename) and not self.is_author(frame.f_code.co_filename)
        ):
            frame = frame.f_back
        return frame

    def _any(self, frame: FrameType | None) -> FrameType | None:
        """The nearest frame that is the author's."""
        while frame is not None and not self.is_author(frame.f_code.co_filename):
            frame = frame.f_back
        return frame


def _of_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or file.startswith("<")


_watches: list[Watch] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or _watches[-1].busy:
        return
    watch = _watches[-1]
    watch.busy = True
    try:
        watch.hear(event, arguments, sys._getframe(1))
    finally:
        watch.busy = False


@contextlib.contextmanager
def watching(author: Path, folders: Sequence[Path]) -> Iterator[list[str]]:
    """Note in the list what the code of an author looks for while the block runs, see `Watch`."""
    if not _hooked:
        sys.addaudithook(_hook)  # stays for the life of the process, and does nothing without a watch
        _hooked.append(True)
    watch = Watch(author, folders)
    _watches.append(watch)
    try:
        with _audible(watch):
            yield watch.found
    finally:
        _watches.remove(watch)


@contextlib.contextmanager
def _audible(watch: Watch) -> Iterator[None]:
    """Meanwhile functions that open a file in silence give the event that `open` gives, under whichever name the author has them."""
    with contextlib.ExitStack() as stack:
        for module, name in _SILENT:
            *way, last = name.split(".")
            owner: Any = sys.modules.get(module)
            for part in way:
                owner = getattr(owner, part, None)
            if (silent := getattr(owner, last, None)) is None:
                continue
            said = _saying(silent)
            for theirs in _names_of(silent, watch):
                stack.enter_context(mock.patch.object(*theirs, said))
            stack.enter_context(
                mock.patch.object(owner, last, said if isinstance(owner, ModuleType) else staticmethod(said))
            )
        yield


def _saying(silent: Callable[..., Any]) -> Callable[..., Any]:
    def said(*given: Any, **named: Any) -> Any:
        for file in (*given[:1], *(named[key] for key in ("filename", "path") if key in named)):
            sys.audit("open", file, "rb", 0)
        return silent(*given, **named)

    return said


def _names_of(value: Any, watch: Watch) -> list[tuple[ModuleType, str]]:
    """Where modules of the author hold a value (`from torch import from_file`)."""
    modules = [m for m in list(sys.modules.values()) if watch.is_author(getattr(m, "__file__", None) or "")]
    return [(m, name) for m in modules for name, held in list(vars(m).items()) if held is value]
