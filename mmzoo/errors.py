"""Errors that a user can act on. Each gives the value, the accepted values and the next step."""

from __future__ import annotations

import difflib
import itertools
import reprlib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

#: control characters, which a terminal would obey, and how they are written; breaks of lines and tabs are text
_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n\r"}
HERE, STDLIB = Path(__file__).resolve().parent, Path(sysconfig.get_path("stdlib")).resolve()


class MmzooError(Exception):
    """Base of all errors that the command line prints as one message with exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        """The message; what it repeats of names and values of others holds no control characters."""
        return uncontrolled(super().__str__())


def uncontrolled(text: str) -> str:
    """The text with its control characters as escapes: `\\x1b`."""
    return text if text.isprintable() else text.translate(_CONTROLS)


class ResultsLost(MmzooError):
    """The results folder was moved or deleted while a benchmark wrote to it."""

    exit_code = 1


class UnknownName(MmzooError):
    """A name that the catalogue, a mapping or a file does not know."""


class BadValue(MmzooError):
    """A value of the wrong type, outside its range, or malformed."""


class Incompatible(MmzooError):
    """Parts that cannot be combined; the message gives the reason."""


class CorruptFile(MmzooError):
    """A file written by mmzoo that cannot be read back."""


class Diverged(MmzooError):
    """Training produced a value that is not finite."""


#: names that are compared with one that is misspelt
COMPARED = 2000


class _Short(reprlib.Repr):
    """A value in a message: a few of its parts, each cut."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 3, 4, 6, 6, 6
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        if abs(x).bit_length() > 200:
            return f"a number of about {int(abs(x).bit_length() * 0.30103):,} digits"
        return repr(x)


_short = _Short()


def short(value: object, most: int = 160) -> str:
    """A value as it is shown in a message: its `repr`, at most so many characters, whatever it holds."""
    text = _short.repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The closest known name, or None where none is close."""
    by_lower = {name.lower(): name for name in itertools.islice(known, COMPARED)}
    close = difflib.get_close_matches(str(given)[:200].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def near_miss(given: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or an empty string."""
    close = nearest(given, known)
    return "" if close is None else f" Did you mean {close!r}?"


def unknown(what: str, given: str, known: Iterable[str], *, see: str = "") -> UnknownName:
    """The error for a name that is not among `known`; `see` is the next step."""
    names = sorted(known)
    listed = ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
    return UnknownName(
        f"no {what} {short(given)}.{near_miss(given, names)} Known: {listed or 'none'}." + (f" {see}" if see else "")
    )


def undefined(owner: object, method: str) -> TypeError:
    """The error that a class lacks a method which its base leaves to it. That is a defect of the class, nothing that a user
    has given."""
    name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    return TypeError(f"{name} does not define {method}")


def said(error: BaseException) -> str:
    """`KIND: MESSAGE`, also of an error whose own message cannot be made."""
    try:
        message = str(error)
    except BaseException as another:
        message = f"its message cannot be shown: {type(another).__name__}"
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def ended(text: str) -> str:
    """A text from elsewhere with a full stop at its end, which it may have already."""
    return text if text.endswith(".") else f"{text}."


def told(error: BaseException) -> str:
    """`KIND: MESSAGE (FOLDER/FILE:LINE)` of an error in a run or a check. The line is the innermost one of whoever wrote a
    part; where none is on the way, that of ours, unless the error is one of ours too and says enough by itself."""
    text = said(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _of_tools(Path(f.filename))]
    theirs = [f for f in frames if HERE not in Path(f.filename).parents]
    place = next(reversed(theirs or ([] if isinstance(error, MmzooError) else frames)), None)
    return text if place is None else f"{text} ({'/'.join(Path(place.filename).parts[-2:])}:{place.lineno})"


def _of_tools(file: Path) -> bool:
    """Whether a file is Python's or that of a library which calls back."""
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool({"torch", "hypothesis"} & set(file.parts)) or (not installed and STDLIB in file.parents)
