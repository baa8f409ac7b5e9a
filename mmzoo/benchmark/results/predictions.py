"""The kept predictions of a run, read back and checked against its row. No numpy, no torch at import."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile
from mmzoo.io.files import read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "predictions.npz"
#: bytes that the arrays of a file may take when they are unpacked: so many, and so many more a test sample
ROOM, ROOM_EACH = 1 << 20, 1 << 18
_FAULTS = (
    OSError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    RecursionError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Kept:
    """The predictions of a run, in the order of the samples' numbers.

    index: (N,) number of each test sample in its data set. target: (N,) its class. scores: (N, C) as the method ranks them.
    """

    index: NDArray[np.int64]
    target: NDArray[np.int64]
    scores: NDArray[np.float32]
    #: the names of the samples, and of the classes; of runs of earlier versions their numbers
    ids: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) the class with the highest score."""
        import numpy as np

        return np.asarray(self.scores.argmax(1))

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the predicted class is the sample's."""
        import numpy as np

        return np.asarray(self.predicted == self.target)

    def confusion(self) -> NDArray[np.int64]:
        """(C, C) test samples by true class (row) and predicted class (column)."""
        import numpy as np

        n = self.scores.shape[1]
        return np.bincount(self.target * n + self.predicted, minlength=n * n).reshape(n, n)


def digest_of(data: bytes) -> str:
    """The short hash of a file's content under which a row names it."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_predictions(row: Mapping[str, Any], store: Store) -> Kept:
    """Read the predictions that a scored row rests on.

    Raises:
        CorruptFile: The file is missing, damaged, too large when unpacked, or not the one that the row was scored with.
    """
    path = store.folder(row["run_id"]) / NAME
    try:
        data = read_bytes(path)
        if row["hashes"].get("predictions", digest_of(data)) != digest_of(data):
            raise ValueError("they are not those of the row beside them: the file was changed after it was written")
        kept = _unpacked(data, row["metrics"]["n_scored"])
        if len(set(kept.index.tolist())) != len(kept.target):
            raise ValueError("they are not those of the row beside them")
        if abs((acc := kept.right.mean()) - row["metrics"]["acc"]) > 1e-9:
            raise ValueError(
                "they are not those of the row beside them: their accuracy is "
                f"{100 * acc:.1f} %, and the row says {100 * row['metrics']['acc']:.1f} %"
            )
    except _FAULTS as error:
        why = getattr(error, "strerror", None) or error
        raise CorruptFile(
            f"the predictions {path} cannot be used: {why}. Move the folder {path.parent.name} away and run the same "
            "bench again: it repeats that run only."
        ) from None
    return kept


def note(error: CorruptFile, row: Mapping[str, Any], store: Store, faults: list[CorruptFile] | None) -> None:
    """Add the error of `read_predictions` to a list, unless the file is not there at all."""
    if faults is not None and (store.folder(row["run_id"]) / NAME).exists():
        faults.append(error)


def _unpacked(data: bytes, n: int) -> Kept:
    import numpy as np

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > ROOM + ROOM_EACH * n:
        raise ValueError(f"unpacked they take {size:,} bytes, which is too much for {n:,} test samples")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        index, target, scores = arrays["index"], arrays["target"], arrays["scores"]
        names = json.loads(arrays["names"].tobytes()) if "names" in arrays else {"ids": [], "classes": []}
    shapes = index.shape == target.shape == (n,) and scores.ndim == 2 and len(scores) == n
    if not shapes or index.dtype.kind != "i" or target.dtype.kind != "i" or scores.dtype.kind != "f":
        raise ValueError(f"they are not the predictions of {n:,} test samples")
    if not np.isfinite(scores).all() or not ((target >= 0) & (target < scores.shape[1])).all():
        raise ValueError("they hold scores that are not finite, or targets that are no class")
    ids, classes = (tuple(map(str, names[k])) for k in ("ids", "classes"))
    ids, classes = ids or tuple(map(str, index.tolist())), classes or tuple(map(str, range(scores.shape[1])))
    if len(ids) != n or len(classes) != scores.shape[1]:
        raise ValueError(f"they name {len(ids):,} samples and {len(classes):,} classes")
    order = np.argsort(index)
    return Kept(index[order], target[order], scores[order], tuple(ids[i] for i in order), classes)
