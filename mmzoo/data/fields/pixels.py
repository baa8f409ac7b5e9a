"""The values of pictures that are not 8 bits deep, brought to 8 bits without a loss that nobody sees. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

#: the two values that become black and white
Range = tuple[float, float]
#: fewer of the 256 levels than this make a picture too dark or too flat
LEAST_LEVELS = 64
#: the part of the pixels that may lie outside the range
MOST_OUTSIDE = 0.05


def check_range(given: object) -> None:
    """Raise BadValue unless it is None or two different numbers, the lower first."""
    if given is None:
        return
    bounds = given if isinstance(given, tuple) else ()
    numbers = [v for v in bounds if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if not (len(bounds) == len(numbers) == 2 and numbers[0] < numbers[1]):
        raise BadValue(f"range must be [LOW, HIGH], the values that become black and white, not {given!r}.")


def stretched(picture: Picture, given: Range) -> Picture:
    """A picture of 8 bits with the values of a range spread over all levels."""
    low, high = given
    table = [round((min(max(v, low), high) - low) / (high - low) * 255) for v in range(256)]
    return picture.point(table * len(picture.getbands()))


def deep(picture: Picture) -> bool:
    """Whether a picture holds values that 8 bits do not."""
    return picture.mode.startswith(("I", "F"))


def to_8_bits(picture: Picture, given: Range | None) -> tuple[Picture, str]:
    """The picture in 8 bits, and in words what is lost by that; empty where nothing is.

    given: the values that become black and white. By default 0 and 65535 of 16 bits and of whole numbers, 0 and 255 of
    others, which is told where it makes a picture nearly black, flat, or cuts values off.
    """
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(picture, np.float64)
    there = values[np.isfinite(values)]
    if not there.size:
        return pil.fromarray(np.zeros(values.shape[:2], np.uint8)), "no pixel has a finite value"
    whole = picture.mode.startswith("I")
    low, high = given or ((0.0, 65535.0) if whole else (0.0, 255.0))
    inside = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if given is None:
        stored = (inside // 257 if whole else inside).astype(np.uint8)
    else:
        stored = np.rint((inside - low) / (high - low) * 255).astype(np.uint8)
    return pil.fromarray(stored), _lost(
        there, stored, low, high, given is not None, "whole numbers" if whole else "fractions"
    )


def _lost(values: np.ndarray, stored: np.ndarray, low: float, high: float, given: bool, what: str) -> str:
    least, most = float(values.min()), float(values.max())
    outside = float(((values < low) | (values > high)).mean())
    levels = int(stored.max()) - int(stored.min()) + 1
    spread = most > least
    if outside > (MOST_OUTSIDE if given else 0.0):
        why = f"{100 * outside:.0f} % of the pixels are outside {low:g} to {high:g}"
    elif spread and not given and levels < LEAST_LEVELS:
        why = f"they fill {levels} of the 256 levels that {low:g} to {high:g} is stored in"
    elif spread and levels == 1:
        why = f"all of them fall on one of the 256 levels that {low:g} to {high:g} is stored in"
    else:
        return ""
    advice = "" if given else f": give `range: [LOW, HIGH]` for all pictures, e.g. [{_below(least)}, {_above(most)}]"
    return f"{what} from {least:g} to {most:g}, and {why}{advice}"


def _below(value: float) -> str:
    return f"{min(value, 0.0):g}"


def _above(value: float) -> str:
    """The next power of two less one of a large number, one for fractions."""
    if value <= 1:
        return "1"
    top = 1
    while top - 1 < value:
        top *= 2
    return f"{top - 1}"
