"""Reading a prepared store of CREMA-D's shape, beside decoding the same items on the fly as peers do.

    python benchmarks/read_store.py [--items 600] [--seconds 3]

Makes a generated CREMA-D in its published layout (3 s of 16 kHz wav, and a flv video of 480x360 at 30 frames a second), prepares
it (spectrogram 257x299 float16, three frames of 224x224), and reads it with the training loader on one core: batches of 64 in a
drawn order, page cache warm, the raw rows; rates are per second of processor time, since the machine may have other work; then with the transforms that a CPU then does. "On the fly" decodes each item when it
is asked for: sound and spectrogram, and three frames out of jpg files (extracted before, as OGM-GE's and other loaders expect) or
out of the video. All in one process with one thread. Appends a row to benchmarks/results/read_store.csv with --write.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "read_store.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each way is timed, five times")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMZOO_HOME"] = folder
        row = measure(Path(folder), arguments.items, arguments.seconds)
    for key, value in row.items():
        print(f"{key}: {value}")
    if arguments.write:
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def measure(top: Path, n: int, seconds: float) -> dict[str, Any]:
    import torch

    from mmzoo.data.fields.audio import Spectrogram
    from mmzoo.data.fields.video import Frames
    from mmzoo.data.loading.columns import Buffers
    from mmzoo.data.loading.prepared import open_module
    from mmzoo.data.preparing.prepare import prepare
    from mmzoo.data.sources.source import File, Files, Item, Listing, Recipe, Source

    sound, video = Spectrogram(samples=48_000), Frames(frames=3, size=224)
    clips = make_clips(top / "clips", 24)

    class CremaShape(Source):
        name = "crema_shape"

        @classmethod
        def recipes(cls) -> dict[str, Recipe]:
            return {"paper": Recipe("paper", {"audio": sound, "video": video})}

        def list(self, root: Path, **_: Any) -> Listing:
            media = [{"audio": File(clips[i % 24][0]), "video": File(clips[i % 24][1])} for i in range(n)]
            return Listing([Item(f"i{i}", i % 6, m) for i, m in enumerate(media)], list("abcdef"))

    started = time.process_time()
    store = prepare(CremaShape(), top / "clips", jobs=0).store
    prepared = n / (time.process_time() - started)
    data = open_module(store.folder)
    loader = data.loader("train", "slice", "holdout", "test", batch_size=64)
    numbers, buffers = itertools.count(), Buffers()  # kept from epoch to epoch, as the loader does

    def raw() -> int:
        order = loader._order(torch.Generator().manual_seed(next(numbers)))
        return sum(len(rows) for rows, _ in loader._read([order[a:b] for a, b in loader._whole_bounds()], buffers))

    def transformed() -> int:
        return sum(len(b) for b in loader.batches(torch.Generator().manual_seed(next(numbers))))

    def from_jpgs() -> int:
        wav, _, jpgs = clips[next(numbers) % 24]
        sound.read(File(wav)), video.read(Files(jpgs))
        return 1

    def from_video() -> int:
        wav, flv, _ = clips[next(numbers) % 24]
        sound.read(File(wav)), video.read(File(flv))
        return 1

    rates = {f.__name__: best_rate(f, seconds) for f in (raw, transformed, from_jpgs, from_video)}
    return {
        "items": n,
        "bytes_an_item": sum(s["bytes"] for s in store.meta["files"].values()) // n,
        "store_items_a_second": round(rates["raw"]),
        "store_with_transforms": round(rates["transformed"]),
        "wav_and_jpg_on_the_fly": round(rates["from_jpgs"]),
        "wav_and_video_on_the_fly": round(rates["from_video"]),
        "prepare_items_a_second": round(prepared, 1),
        "times_jpg": round(rates["raw"] / rates["from_jpgs"], 1),
        "times_video": round(rates["raw"] / rates["from_video"], 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def best_rate(step: Callable[[], int], seconds: float) -> float:
    """Items a second of processor time, the best of five stretches: what else runs on the machine only makes it slower."""
    step()
    rates = []
    for _ in range(5):
        started, done = time.process_time(), 0
        while time.process_time() - started < seconds / 5:
            done += step()
        rates.append(done / (time.process_time() - started))
    return max(rates)


def make_clips(folder: Path, n: int) -> list[tuple[Path, Path, tuple[Path, ...]]]:
    """wav, video and three jpg frames of each clip."""
    import av
    import numpy as np
    import soundfile
    from PIL import Image

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    clips = []
    for i in range(n):
        wav, flv = folder / f"{i}.wav", folder / f"{i}.flv"
        soundfile.write(wav, 0.1 * draw.standard_normal(44_000), 16_000)
        base = np.kron(draw.integers(0, 255, (9, 12, 3)), np.ones((40, 40, 1))).astype(np.uint8)
        with av.open(str(flv), "w") as container:
            stream = container.add_stream("flv1", rate=30)
            stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
            for k in range(82):
                picture = np.roll(base, 3 * k, 1)
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        jpgs = tuple(folder / f"{i}-{k}.jpg" for k in range(3))
        for k, path in enumerate(jpgs):
            Image.fromarray(np.roll(base, 90 * k, 1)).save(path, quality=90)
        clips.append((wav, flv, jpgs))
    return clips


if __name__ == "__main__":
    main()
