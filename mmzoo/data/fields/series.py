"""Series of measurements over time, one or several channels, from .npy or .csv files or from the cells of a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.fields.vector import LARGEST
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media, Values
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np

#: bytes of a .csv file of one series that are read at most
LARGEST_TABLE = 1 << 28
_BETWEEN = re.compile(r"[,;\t ]+")


@dataclass(frozen=True)
class Series(Field):
    """`channels` measurements at each of up to `length` steps: values (channels, length) float32, mask (length,) uint8.

    What is shorter is filled with zeros where the mask is 0; of what is longer the first steps are stored.

    Args:
        channels: measurements of a step.
        length: steps that are stored at most.
        time: which axis of a .npy file is time; of one with a single axis that one. A .csv file has one step a line.
        pick: the channels that are read, in this order: names of a .csv file's header, or numbers from 0. Empty: all.
        rate: steps a second that are stored; with `from_rate`, those of the files: resampled from one to the other.
        standardise: each channel less its mean over all steps of the training samples, over its standard deviation there.
        fill: "interpolate": steps that are not there (nan, empty) are interpolated; None: such a series cannot be read.
        mean, deviation: what `fitted` has found.
    """

    channels: int
    length: int
    time: Literal["first", "last"] = "last"
    pick: tuple[str, ...] = ()
    rate: float = 0.0
    from_rate: float = 0.0
    standardise: bool = True
    fill: Literal["interpolate"] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    kind = "series"

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= 1 << 16 or not 1 <= self.length <= 1 << 24:
            raise BadValue(
                f"channels must be from 1 to {1 << 16} and length from 1 to {1 << 24}, not {self.channels!r} and {self.length!r}."
            )
        if self.time not in ("first", "last"):
            raise BadValue(f"time must be first or last: which axis of a .npy file is time; not {self.time!r}.")
        if self.fill not in (None, "interpolate"):
            raise BadValue(f"fill of a series must be interpolate, not {self.fill!r}.")
        if bool(self.rate) != bool(self.from_rate):
            raise BadValue("rate and from_rate go together: steps a second that are stored, and those of the files.")
        if self.rate and not 1e-3 <= self.rate / self.from_rate <= 1e3:
            raise BadValue(f"rate {self.rate:g} is more than 1,000 times from_rate {self.from_rate:g}, or less.")

    def arrays(self) -> Mapping[str, Array]:
        return {"values": Array((self.channels, self.length), "float32"), "mask": Array((self.length,), "uint8")}

    def fitted(self, media: Iterable[Media]) -> Series:
        import numpy as np

        if not self.standardise:
            return self
        n, total, square = 0, np.zeros(self.channels), np.zeros(self.channels)
        for one in media:
            try:
                x = self._raw(one)[:, : self.length]
            except MediaFault:  # reported when it is read
                continue
            n, total, square = n + x.shape[1], total + x.sum(1), square + (x**2).sum(1)
        mean = total / max(n, 1)
        deviation = np.sqrt(np.maximum(square / max(n, 1) - mean**2, 0))
        deviation = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
        return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        if self.standardise and not self.mean:
            raise BadValue("a Series with means must be fitted on the training samples before it reads.")
        x = self._raw(media)[:, : self.length]
        if self.standardise:
            x = (x - np.array(self.mean)[:, None]) / np.array(self.deviation)[:, None]
        found = {name: np.zeros(a.shape, a.dtype) for name, a in self.arrays().items()}
        found["values"][:, : x.shape[1]], found["mask"][: x.shape[1]] = x, 1
        return found

    def _raw(self, media: Media) -> np.ndarray:
        """(channels, T) float64, all finite."""
        import numpy as np

        x = steps_of(media, self.time, self.pick)
        if len(x) != self.channels:
            hint = " (time: first, where time is the first axis of a .npy file)" if x.shape[1] == self.channels else ""
            raise MediaFault(
                "value", f"{len(x)} channels of {x.shape[1]} steps where {self.channels} are asked for{hint}"
            )
        if not x.shape[1]:
            raise MediaFault("empty", "a series without a single step")
        if self.fill:
            x = _interpolated(x)
        if not (np.abs(x) <= LARGEST).all():
            said = "" if self.fill else "; `fill: interpolate` fills steps that are missing (nan)"
            raise MediaFault("value", f"a number that is not finite, or too large for 32 bits{said}")
        return _resampled(x, self.rate, self.from_rate) if self.rate != self.from_rate else x


def steps_of(media: Media, time: str = "last", pick: Sequence[str] = ()) -> np.ndarray:
    """(channels, T) float64 of a file or of the numbers of cells. Raises MediaFault."""
    import numpy as np

    if isinstance(media, Values):
        return np.array(media.values, np.float64)[None]
    if not isinstance(media, File):
        raise MediaFault("value", f"a series is numbers, a .npy or a .csv file, not {type(media).__name__}")
    start = head(media.path)
    if start.startswith(b"\x93NUMPY"):
        with decoding("the series"):
            stored = np.load(media.path, mmap_mode="r", allow_pickle=False)
            if stored.dtype.kind not in "fiub" or stored.ndim not in (1, 2):
                raise MediaFault(
                    "value",
                    f"an array of {stored.dtype} with {stored.ndim} axes; a series has numbers, and one or two axes",
                )
            x = np.array(stored, np.float64)
        names = None
        x = x[None] if x.ndim == 1 else x.T if time == "first" else x
    else:
        names, x = _table(media.path)
    return x if not pick else x[_places(pick, names, len(x))]


def _places(pick: Sequence[str], names: Sequence[str] | None, n: int) -> list[int]:
    known = {name: i for i, name in enumerate(names or ())}
    known |= {str(i): i for i in range(n) if str(i) not in known}
    if lacking := [p for p in pick if p not in known]:
        there = ", ".join(names) if names else f"0 to {n - 1}"
        raise MediaFault("value", f"pick: there is no channel {lacking[0]!r}, only {there}")
    return [known[p] for p in pick]


def _table(path: Path) -> tuple[list[str] | None, np.ndarray]:
    """The names of the header, if there is one, and (channels, T) of a text file of one step a line."""
    import numpy as np

    if path.stat().st_size > LARGEST_TABLE:
        raise MediaFault("value", f"a file of more than {LARGEST_TABLE >> 20} MiB: save it as .npy")
    with decoding("the series", head(path)):
        text = path.read_bytes().decode("utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise MediaFault("empty", "a file without a single line of numbers")
    mark = next((m for m in ",;\t" if m in lines[0]), None)
    first = [c.strip().strip('"') for c in (lines[0].split(mark) if mark else lines[0].split())]
    names = None if all(_is_number(c) for c in first) else first
    rows = []
    for n, line in enumerate(lines[1:] if names else lines, 2 if names else 1):
        cells = line.split(mark) if mark else line.split()
        if len(cells) != len(first):
            raise MediaFault("value", f"line {n} has {len(cells)} values, the first {len(first)}")
        bad = next((c for c in cells if not _is_number(c)), None)
        if bad is not None and not _is_absent(bad):
            raise MediaFault(
                "value", f"line {n}: {bad.strip()!r} is no number (pick: [...] names the channels that are)"
            )
        rows.append([float("nan") if _is_absent(c) else float(c) for c in cells])
    return names, np.array(rows, np.float64).reshape(len(rows), len(first)).T


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python would take 1_000


def _is_absent(cell: str) -> bool:
    return cell.strip().casefold() in ("", "na", "nan", "null", "none", "?")


def _interpolated(x: np.ndarray) -> np.ndarray:
    """Linear between the steps that are there, constant beyond the first and the last. Raises MediaFault where a channel has none."""
    import numpy as np

    filled = x.copy()
    at = np.arange(x.shape[1])
    for channel in filled:
        there = ~np.isnan(channel)
        if not there.any():
            raise MediaFault("value", "a channel without a single number")
        channel[~there] = np.interp(at[~there], at[there], channel[there])
    return filled


def _resampled(x: np.ndarray, rate: float, from_rate: float) -> np.ndarray:
    """At another rate, through a filter against aliasing (scipy's resample_poly; borders repeat)."""
    from scipy.signal import resample_poly

    ratio = Fraction(rate / from_rate).limit_denominator(1000)
    found: np.ndarray = resample_poly(x, ratio.numerator, ratio.denominator, axis=1, padtype="edge")
    return found
