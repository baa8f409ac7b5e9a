"""Symbols as sound and pictures.

Everything else that a rendering draws (noise, background, loudness, small displacements) is drawn without looking at the
class; a *scene*, in [0, 1), sets one such quantity: the colour or the brightness of a picture, the noise of a sound or a motion. A symbol's value is a number below `n`; ERASED shows the same noise and background without it. How plainly a
symbol stands out decides how fast a network learns it, and not whether it can be read.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from mmzoo.data.synthetic.planting import ERASED


def chord(
    value: int,
    n: int,
    rng: np.random.Generator,
    *,
    scene: float,
    seconds: float,
    rate: int = 16_000,
    level: float = 0.15,
) -> np.ndarray:
    """(seconds * rate,) float in [-1, 1]: noise, as loud as the scene says, with two tones out of a scale of just as many as n
    pairs need."""
    count = round(seconds * rate)
    sound = rng.normal(0, 0.02 + 0.03 * scene, count)
    if value != ERASED:
        pitches, pairs = scale(n)
        time = np.arange(count) / rate
        for tone in pairs[value]:
            pitch = pitches[tone] * rng.uniform(0.99, 1.01)
            sound += level * rng.uniform(0.6, 1.4) * np.sin(2 * np.pi * (pitch * time + rng.uniform()))
    return np.clip(sound, -1, 1)


def scale(n: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The tones in Hz, and the first n pairs of them."""
    tones = next(k for k in itertools.count(2) if k * (k - 1) // 2 >= n)
    return np.geomspace(400, 6000, tones), list(itertools.combinations(range(tones), 2))[:n]


def place(value: int, n: int) -> tuple[float, float]:
    """(y, x) in units of the picture: the middle of the value's cell among n in rows."""
    columns = cells(n)[1]
    row, column = divmod(value, columns)
    return (row + 0.5) / cells(n)[0], (column + 0.5) / columns


def cells(n: int) -> tuple[int, int]:
    """Rows and columns; up to three values lie below one another, so that a mirror image shows the same value."""
    if n <= 3:
        return n, 1
    rows = math.isqrt(n)
    return rows, -(-n // rows)


def spots(
    value: int,
    n: int,
    rng: np.random.Generator,
    *,
    frames: int,
    size: int,
    contrast: float,
    background: float = 35.0,
    noise: float = 4.0,
    radius: float = 0.08,
    brightness: float | None = None,
) -> np.ndarray:
    """(frames, size, size) uint8: a spot that circles in the cell of the value, before waves that drown it.

    contrast: of the spot, in grey levels; background: of the waves, their deviation; noise: of each pixel in each
    frame anew; brightness: of the waves, in [0, 1) (none: drawn).
    """
    shown = waves(size, rng, background, brightness) + rng.normal(0, noise, (frames, size, size))
    if value != ERASED:
        radius = size * min(radius, 0.3 / max(cells(n)))
        turn = rng.uniform(0, 2 * np.pi) + 0.8 * np.arange(frames)
        y, x = np.array(place(value, n)) * size + rng.uniform(-0.15, 0.15, 2) * radius
        shown += contrast * bump(y + 0.3 * radius * np.sin(turn), x + 0.3 * radius * np.cos(turn), radius, size)
    return _bytes(shown)


def waving(
    value: int,
    n: int,
    rng: np.random.Generator,
    *,
    period: int,
    size: int,
    contrast: float,
    scene: float,
    background: float = 30.0,
    noise: float = 4.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A spot that leaves the middle with the velocity of the value, to be shown again and again; an erased one has no spot.

    scene: how much the motion trembles; the frames do not show it.

    Returns its frames, (period, size, size) uint8, and the motion from each to the next, (period, s, s, 2) float16 for
    s = size // 2, across and down in pixels of that size; none where the spot jumps back.
    """
    shown = waves(size, rng, background) + rng.normal(0, noise, (1, size, size))
    motion = rng.normal(0, 0.05 + 0.1 * scene, (period, size // 2, size // 2, 2))
    if value != ERASED:
        velocity = 0.42 / period * np.array(velocities(n)[value])
        y, x = (size / 2 + rng.uniform(-0.5, 0.5, 2) + size * np.arange(period)[:, None] * velocity).T
        shown = shown + contrast * bump(y, x, 0.11 * size, size)
        motion[:-1] += bump(y[:-1] / 2, x[:-1] / 2, 0.15 * size / 2, size // 2)[..., None] * velocity[::-1] * size / 2
    return _bytes(np.broadcast_to(shown, (period, size, size))), motion.astype(np.float16)


def velocities(n: int) -> list[tuple[float, float]]:
    """n velocities (down, across) of size a half and one, none too near another, and none zero: that would look erased."""
    slow = n // 3
    turns = [(0.5, i / slow) for i in range(slow)] + [(1.0, i / (n - slow)) for i in range(n - slow)]
    return [(speed * math.sin(2 * math.pi * turn), speed * math.cos(2 * math.pi * turn)) for speed, turn in turns]


def waves(size: int, rng: np.random.Generator, deviation: float, brightness: float | None = None) -> np.ndarray:
    """(size, size): three plane waves of random direction and length over a mean of the given or a random brightness, dark enough
    that a spot on top of them is seldom lost in white."""
    at = np.arange(size) / size
    total = np.full((size, size), 70 + 35 * (rng.random() if brightness is None else brightness))
    for _ in range(3):
        across, down = rng.uniform(-1.5, 1.5, 2)
        phase = 2 * np.pi * (down * at[:, None] + across * at + rng.uniform())
        total += deviation * math.sqrt(2 / 3) * np.cos(phase)
    return total


def bump(y: np.ndarray, x: np.ndarray, radius: float, size: int) -> np.ndarray:
    """(T, size, size): a round spot of height one at (y[t], x[t])."""
    at = np.arange(size) + 0.5
    down = np.exp(-((at - np.asarray(y)[:, None]) ** 2) / (2 * radius**2))
    across = np.exp(-((at - np.asarray(x)[:, None]) ** 2) / (2 * radius**2))
    return np.asarray(down[:, :, None] * across[:, None, :])


def tint(scene: float, rng: np.random.Generator) -> tuple[int, int]:
    """Two chroma values that say nothing of the class: the scene's, and one that is drawn."""
    return 108 + int(41 * scene), int(rng.integers(108, 149))


def _bytes(levels: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)
