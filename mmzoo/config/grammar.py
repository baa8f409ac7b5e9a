"""How methods, settings and seeds are written in one line: read, and written again."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmzoo.errors import BadValue, short
from mmzoo.io.yaml_file import TooMuch, parse

METHOD_GRAMMAR = "NAME[:FIRST-LAST][+NAME...][@HEAD], e.g. ogm:0-50+pmr@sum"
_BOUND = r"[0-9]{1,9}%?"
_PART = re.compile(
    rf"^(?P<name>[^:]*\.py:[A-Za-z_]\w*|[A-Za-z_][\w./-]*?)(?::(?P<first>{_BOUND})-(?P<last>{_BOUND})?)?$"
)
#: more are a slip
MOST_SEEDS = 10_000
#: settings of the encoder of a modality: encoder.MODALITY=NAME, encoder.MODALITY.KEY=VALUE
ENCODER = "encoder"
#: settings of training: train.KEY
TRAIN = "train"


# ---------------------------------------------------------------------------------------------- methods
@dataclass(frozen=True)
class MethodPart:
    """One name of a method's text, and the window of epochs that is written behind it (None: always; last None: to the end)."""

    name: str
    first: str | None = None
    last: str | None = None


@dataclass(frozen=True)
class MethodText:
    """A method as it was written, parsed: `ogm:0-50+pmr@sum`.

    Args:
        body: What stands before the head, as it was written.
        parts: The names in it, each with its window.
        head: The head that it names, if it names one.
    """

    body: str
    parts: tuple[MethodPart, ...]
    head: str | None = None

    def __str__(self) -> str:
        return self.body if self.head is None else f"{self.body}@{self.head}"

    def with_head(self, head: str) -> MethodText:
        return replace(self, head=head)

    def with_parts(self, names: Iterable[str]) -> MethodText:
        """The same with further parts, without windows."""
        more = tuple(names)
        return replace(self, body="+".join([self.body, *more]), parts=(*self.parts, *map(MethodPart, more)))


def parse_method(text: str) -> MethodText:
    """The parts and the head that a method's text names. Raises BadValue where it is not written as METHOD_GRAMMAR."""
    body, at, head = text.strip().partition("@")
    if not body or "@" in head or (at and not head):
        raise BadValue(f"{short(text)} is not a method. Write {METHOD_GRAMMAR}.")
    return MethodText(body, tuple(_part(piece, text) for piece in body.split("+")), head or None)


def _part(piece: str, text: str) -> MethodPart:
    match = _PART.match(piece.strip())
    if match is None:
        within = "" if piece == text else f" in {short(text)}"
        raise BadValue(f"{short(piece)}{within} is not NAME or NAME:FIRST-LAST. Write {METHOD_GRAMMAR}.")
    first, last = match["first"], match["last"]
    if first and last and first.endswith("%") == last.endswith("%") and int(last.strip("%")) < int(first.strip("%")):
        raise BadValue(f"{short(piece)}: the window ends before it starts. Write {METHOD_GRAMMAR}.")
    if any(b and b.endswith("%") and int(b[:-1]) > 100 for b in (first, last)):
        raise BadValue(f"{short(piece)}: a share of the run is at most 100%.")
    return MethodPart(match["name"], _bound(first), _bound(last))


def _bound(text: str | None) -> str | None:
    """A bound without leading zeros: another way to write the same window is no other run."""
    if not text:
        return None
    return f"{int(text[:-1])}%" if text.endswith("%") else str(int(text))


# ---------------------------------------------------------------------------------------------- settings
def divided_key(key: str) -> tuple[str, str]:
    """`WHAT.KEY` as its two parts, where WHAT may be a class in a file: `./mine.py:Mine.weight`."""
    local = re.match(r"(.*\.py:[A-Za-z_]\w*)\.(.*)", key)
    if local is not None:
        return local[1], local[2]
    scope, _, name = key.partition(".")
    return scope, name


def of_encoder(key: str) -> bool:
    """Whether a setting of a data set is about the encoder of one of its modalities: DATASET.encoder.MODALITY."""
    return key.startswith(f"{ENCODER}.")


def of_training(key: str) -> bool:
    """Whether a setting of a data set is about the training on it: DATASET.train.KEY."""
    return key.startswith(f"{TRAIN}.")


def of_runs(key: str) -> bool:
    """Whether a setting of a data set is about the runs on it, not about its own parameters."""
    return of_encoder(key) or of_training(key)


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with the value read as YAML, so that 0.3, true, null and [a, b] mean what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue(f"--set {short(text)}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3.")
    return key.strip(), _scalar(value, text)


def dataset_names(text: str) -> tuple[str, ...]:
    """`NAME[:PRESET][,KEY=VALUE...],NAME...` as one text a data set: a piece `KEY=VALUE` belongs to the name before it.

    Commas within brackets part nothing. Raises BadValue for an empty name and for a setting without a name.
    """
    pieces = [p.strip() for p in re.split(r",(?![^\[{]*[\]}])", text)]
    if not all(pieces):
        raise BadValue(f"{short(text)} has an empty name: write NAME or NAME,NAME.")
    names: list[str] = []
    for piece in pieces:
        key, equals, _ = piece.partition("=")
        if not equals or ":" in key:
            names.append(piece)
        elif names and ":" in names[-1]:
            names[-1] += f",{piece}"
        else:
            raise BadValue(f"{short(text)}: {piece} follows no data set. Write NAME:KEY=VALUE,KEY=VALUE.")
    return tuple(names)


def dataset_options(text: str) -> tuple[str, dict[str, Any]]:
    """What follows the colon of a data set, `[PRESET][,KEY=VALUE...]`, as the preset and the settings."""
    first, *rest = re.split(r",(?![^\[{]*[\]}])", text)
    preset, settings = ("", [first, *rest]) if "=" in first else (first, rest)
    return preset.strip(), dict(map(parse_setting, settings))


def parse_override(text: str) -> tuple[tuple[str, Any], ...]:
    """`KEY=VALUE KEY=VALUE ...`: settings that hold together, parted by blanks as a shell parts words."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadValue(f"--override {short(text)}: {error}. Write 'WHAT.KEY=VALUE WHAT.KEY=VALUE'.") from None
    if not words:
        raise BadValue("--override is empty: write 'WHAT.KEY=VALUE WHAT.KEY=VALUE'.")
    return tuple(map(parse_setting, words))


def _scalar(value: str, text: str) -> Any:
    try:
        read = parse(value, f"--set {short(text)}").data
    except TooMuch:
        raise
    except BadValue:
        raise BadValue(
            f"--set {short(text)}: the value is not plain YAML. Write a number, a word, true, false, null, [A, B] or "
            "{A: 1, B: 2}."
        ) from None
    return {k: _number(v) for k, v in read.items()} if isinstance(read, dict) else _number(read)


def _number(read: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a text; nobody who writes it means one."""
    if isinstance(read, str):
        try:
            return float(read)
        except ValueError:
            return read
    return read


def shown(value: Any) -> str:
    """A parameter's value as it is written after --set, on one line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, str) and value.isprintable() and value:
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `0,4` and `7,` list seeds; `5-14` is a range, both ends included."""
    faulty = BadValue(f"seeds {short(text)}: write how many (3), a list (0,4 or 7,) or a range (5-14).")
    pieces = [p.strip() for p in text.split(",")]
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()  # `7,` is a list of one
    if not all(re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", p) for p in pieces):
        raise faulty
    if "," not in text and "-" not in text:
        ranges = [range(int(text))]
    else:
        ranges = [range(int(first), int(last or first) + 1) for first, _, last in (p.partition("-") for p in pieces)]
    if not all(ranges):
        raise faulty
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise BadValue(
            f"seeds {short(text)}: those are more than {MOST_SEEDS:,}. A list of seeds is written 7, or 0,4."
        )
    return tuple(dict.fromkeys(itertools.chain(*ranges)))
