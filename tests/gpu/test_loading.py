"""Rows of a store on their way to a GPU: held there, or fetched ahead. The results are those of the CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmzoo.data.loading import columns, datamodule
from mmzoo.data.loading.columns import InMemory, Mapped, Resident
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.loading.transforms import transform_for
from mmzoo.testing.harness import fake_device
from mmzoo.testing.harness.ranks import in_another

ITEMS = 23


def stored() -> DataModule:
    """Pictures with drawn crops and flips, and texts, of which a split has some."""
    draw = np.random.default_rng(0)
    arrays = {
        "image": {"": draw.integers(0, 256, (ITEMS, 8, 8, 3), np.uint8)},
        "text": {"ids": draw.integers(0, 9, (ITEMS, 5), np.int32), "mask": np.ones((ITEMS, 5), np.uint8)},
    }
    shapes = {m: {part: a.shape[1:] for part, a in parts.items()} for m, parts in arrays.items()}
    return DataModule(
        "stored",
        {m: Mapped(parts, np.arange(ITEMS)) for m, parts in arrays.items()},
        torch.arange(ITEMS) % 3,
        3,
        {"train": range(0, ITEMS, 2), "slice": [1], "holdout": [3], "test": [5]},
        "made",
        "made",
        transforms={"image": transform_for("image", shapes["image"], size=6, crop=True, flip=True)}
        | {"text": transform_for("text", shapes["text"])},
    )


def batches(loader: Loader) -> list[dict[str, Any]]:
    made = loader.batches(torch.Generator().manual_seed(3))
    return [{**b.inputs, "target": b.target, "index": b.index} for b in made]


def away(held: bool) -> list[dict[str, Any]]:
    """What a loader makes on the mock device."""
    data = stored()
    with fake_device.device() as there:
        if held:
            columns_ = {m: x.on(there) for m, x in data.inputs.items()}
            data = DataModule(**{**vars(data), "inputs": columns_})
        loader = data.loader("train", batch_size=4, device=there)
        return [{k: fake_device.values(v) for k, v in b.items()} for b in batches(loader)]


@pytest.mark.parametrize("held", [False, True], ids=["fetched ahead", "held"])
def test_another_device_gets_the_batches_of_the_cpu(held: bool) -> None:
    here, there = batches(stored().loader("train", batch_size=4)), in_another(away, held)
    assert len(here) == len(there) == 3
    for a, b in zip(here, there):
        assert torch.equal(a["target"], b["target"]) and torch.equal(a["index"], b["index"])
        assert torch.equal(a["text"]["ids"], b["text"]["ids"])
        assert torch.allclose(a["image"], b["image"], atol=1e-6)


def test_all_columns_share_one_copy_on_a_device() -> None:
    x: Any = stored().inputs["image"]
    first = x.on(torch.device("cpu"))
    assert x.is_on(torch.device("cpu")) and x.select(torch.tensor([2, 5])).is_on(torch.device("cpu"))
    second = x.select(torch.tensor([2, 5])).on(torch.device("cpu"))
    assert isinstance(second, Resident) and second._arrays is first._arrays
    assert torch.equal(second.take(torch.tensor([1])), x.take(torch.tensor([5])))


def test_rows_are_brought_to_a_device_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(40 * (3 << 20), dtype=np.uint8).reshape(40, 3 << 20)
    there = Mapped({"": whole}, np.arange(40)).on(torch.device("cpu"))
    assert torch.equal(there.take(torch.tensor([0, 21, 22, 39])), torch.from_numpy(whole[[0, 21, 22, 39]]))


def test_rows_are_held_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    data, gpu = stored(), torch.device("cuda:0")
    size = sum(x.n_bytes for x in data.inputs.values())

    def room(free: float) -> bool:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 10 * size))
        return datamodule._fits(data.inputs, gpu)

    assert room(size / datamodule.RESIDENT_SHARE + 9) and not room(size / datamodule.RESIDENT_SHARE - 9)
    assert not datamodule._fits(data.inputs, torch.device("cpu"))
    assert not datamodule._fits({"a": InMemory(torch.zeros(3))}, gpu)
    data.inputs["image"]._device[str(gpu)] = {}  # what is there already takes no more room
    assert room(data.inputs["text"].n_bytes / datamodule.RESIDENT_SHARE + 9)


def test_rows_for_a_gpu_are_put_into_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def empty(*shape: Any, pin_memory: bool, dtype: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return torch.empty(*shape, dtype=dtype)

    monkeypatch.setattr(columns, "torch", SimpleNamespace(**{**vars(torch), "empty": empty}))
    loader = stored().loader("train", batch_size=4)
    loader._device = torch.device("cuda:0")  # nothing is brought there
    rows = loader._rows(torch.tensor([0, 3]))
    assert asked == [True, True, True] and rows["image"].shape == (2, 8, 8, 3)
