"""Optical flow of a clip: computed, or read as the peers store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.fields.image import Fit, check_form, fitted
from mmzoo.data.fields.video import Clip, centres, fetched, opened
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media
from mmzoo.errors import BadValue, MmzooError

if TYPE_CHECKING:
    import numpy as np

#: numbers in the largest .npy that is read
MOST_NUMBERS = 1 << 28


@dataclass(frozen=True)
class Flow(Field):
    """Motion from one frame to the next, (frames, size, size, 2) uint8: (u, v) in pixels as (x + bound) / (2 bound) * 255.

    Of a video or pictures: Farneback's method (OpenCV; scale 0.5, 3 levels, window 15, 3 iterations, polynomial 5 and 1.2)
    between grey frames brought to (size, size), at the very frames that Frames(frames, ...) takes, so that flow and
    picture belong together; the last frame of a clip takes the motion towards it. Of a .npy file: (H, W, 2, T) as the
    authors of AMSS keep it, whose T frames are the whole span. Its pixels are those of its own size: like theirs, the values
    are not scaled with the picture. Needs opencv-python-headless, unless read from .npy.
    """

    frames: int = 32
    size: int = 160
    fit: Fit = "crop"
    bound: float = 20.0

    kind = "video"

    def __post_init__(self) -> None:
        check_form(self.size, 1, self.fit)
        if not 1 <= self.frames <= 4096:
            raise BadValue(f"frames must be from 1 to 4096, not {self.frames!r}.")
        if not 0 < self.bound < float("inf"):
            raise BadValue(f"bound must be above 0 pixels, not {self.bound!r}.")

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.frames, self.size, self.size, 2), "uint8")}

    def blank(self) -> Mapping[str, np.ndarray]:
        """No motion."""
        import numpy as np

        return {"": np.full((self.frames, self.size, self.size, 2), 127, np.uint8)}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        if isinstance(media, File) and media.path.suffix == ".npy":
            shown, lacks, lost = *self._stored(media.path), ""
        else:
            shown, lacks, lost = self._computed(media)
        if lacks:
            raise MediaFault("short", lacks, {"": shown})
        if lost:
            raise MediaFault("range", lost, {"": shown})
        return {"": shown}

    def _lacks(self, there: int) -> str:
        return f"{there} frames where {self.frames} are asked for" if there < self.frames else ""

    def _bytes(self, flow: np.ndarray) -> np.ndarray:
        import numpy as np

        scaled = (np.clip(flow, -self.bound, self.bound) + self.bound) * (255 / (2 * self.bound))
        levels: np.ndarray = np.rint(scaled).astype(np.uint8)
        return levels

    def _computed(self, media: Media) -> tuple[np.ndarray, str, str]:
        import numpy as np

        cv2 = _cv2()

        def pairs(clip: Clip) -> list[int]:
            if len(clip) < 2:
                raise MediaFault("short", clip.lacks or f"{len(clip)} frames have no motion")
            return [min(i, len(clip) - 2) for i in centres(self.frames, len(clip))]

        def needed(clip: Clip) -> list[int]:
            return sorted({j for i in pairs(clip) for j in (i, i + 1)})

        clip = opened(media, 1)
        _, grey = fetched(clip, needed, lambda picture: fitted(picture, self.size, self.fit)[..., 0])
        done: dict[int, Any] = {}
        for i in pairs(clip):
            if i not in done:
                flow = cv2.calcOpticalFlowFarneback(grey[i], grey[i + 1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
                done[i] = self._bytes(flow)
        return np.stack([done[i] for i in pairs(clip)]), clip.lacks or self._lacks(len(clip)), clip.lost

    def _stored(self, path: Path) -> tuple[np.ndarray, str]:
        import numpy as np
        from PIL import Image as pil

        head(path)
        with decoding("the flow"):
            flow = np.load(path, mmap_mode="r", allow_pickle=False)
            if flow.ndim != 4 or flow.shape[2] != 2 or flow.dtype.kind not in "fiu":
                raise MediaFault("value", f"an array {flow.shape} of {flow.dtype} is not a flow (H, W, 2, T)")
            if not 0 < flow.size <= MOST_NUMBERS:
                raise MediaFault("broken", f"{flow.size} numbers; from 1 to {MOST_NUMBERS} are read")
            shown = []
            for t in centres(self.frames, flow.shape[3]):
                at = np.asarray(flow[..., t], np.float32)
                if not np.isfinite(at).all():
                    raise MediaFault("value", f"frame {t} of the flow holds values that are not finite")
                parts = [fitted(pil.fromarray(at[..., k]), self.size, self.fit, "float32") for k in range(2)]
                shown.append(self._bytes(np.concatenate(parts, axis=-1)))
            return np.stack(shown), self._lacks(flow.shape[3])


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise MmzooError(
            "optical flow is computed by OpenCV, which is not installed: pip install 'mmzoo[flow]', or choose a recipe "
            "without flow."
        ) from None
    cv2.setNumThreads(1)  # preparing runs a process a core
    return cv2
