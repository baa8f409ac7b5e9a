"""What becomes of stored rows as they are read, and that every draw follows from the epoch and the item alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mmzoo.data.loading.columns import Mapped
from mmzoo.data.loading.datamodule import Loader
from mmzoo.data.loading.transforms import DEVIATION, MEAN, Draws, Pixels, transform_for
from mmzoo.errors import BadValue


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loader(n: int = 40, batch_size: int = 6, rows: list[int] | None = None) -> Loader:
    """Clips of ten frames whose pixels tell item, frame and column."""
    clips = np.zeros((n, 10, 8, 8, 3), np.uint8)
    clips[..., 0] = np.arange(n)[:, None, None, None]
    clips[..., 1] = np.arange(10)[None, :, None, None] * 20
    clips[..., 2] = np.arange(8) * 30
    chosen = np.arange(n) if rows is None else np.array(rows)
    index = torch.from_numpy(chosen)
    transform = transform_for("video", {"": (10, 8, 8, 3)}, frames=3, size=6, crop=True, flip=True)
    return Loader({"v": Mapped({"": clips}, chosen)}, index, index, batch_size=batch_size, transforms={"v": transform})


def by_item(of: Loader, generator: torch.Generator | None) -> dict[int, torch.Tensor]:
    return {int(i): x for b in of.batches(generator) for i, x in zip(b.index, b.inputs["v"])}


def test_augmentation_depends_on_epoch_and_item_and_not_on_batches_or_other_items() -> None:
    every = by_item(loader(), seeded())
    for other in (loader(batch_size=40), loader(rows=[3, 7, 21, 39]), loader(batch_size=1)):
        for i, x in by_item(other, seeded()).items():
            torch.testing.assert_close(x, every[i], rtol=0, atol=1e-4)
    assert all(torch.equal(x, every[i]) for i, x in by_item(loader(), seeded()).items())
    again = by_item(loader(), seeded(1))
    assert not any(torch.equal(x, every[i]) for i, x in again.items())


def test_the_order_is_that_of_batches_and_reads_nothing() -> None:
    made = loader()
    shown = torch.cat([b.index for b in made.batches(seeded(3))])
    assert torch.equal(made.order(seeded(3)), shown) and not torch.equal(shown, made.index)


def test_evaluation_takes_the_middle_frames_and_the_middle_of_the_picture() -> None:
    (x,) = [b.inputs["v"] for b in loader(batch_size=40).batches()]
    assert x.shape == (40, 3, 3, 6, 6)
    back = (x * torch.tensor(DEVIATION).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    assert back[5, :, 1, 0, 0].round().tolist() == [20, 80, 140]  # thirds of ten frames are 0-2, 3-5, 6-9
    assert back[5, 0, 2, 0].round().tolist() == [30, 60, 90, 120, 150, 180] and back[5, 0, 0, 0, 0].round() == 5


def test_training_takes_one_frame_of_each_part_and_flips_whole_clips() -> None:
    plain = Pixels((10, 8, 8, 1), frames=5, size=None, crop=False, flip=True)
    clips = torch.zeros(400, 10, 8, 8, 1, dtype=torch.uint8)
    clips[...] = (torch.arange(10)[:, None, None, None] * 10 + torch.arange(8)[None, None, :, None]).to(torch.uint8)
    x = plain(clips, Draws(5, np.arange(400)))
    values = (x * 0.5 + 0.5) * 255
    frames = (values[:, :, 0, 0, :].min(-1).values / 10).round().long()
    assert ((frames // 2) == torch.arange(5)).all() and {0, 1} == set(frames[:, 0].tolist())
    turned = values[:, :, 0, 0, 0] > values[:, :, 0, 0, -1]
    assert (turned.all(1) | ~turned.any(1)).all() and 150 < int(turned[:, 0].sum()) < 250


def test_a_crop_is_a_part_of_the_picture_and_one_of_all_of_it_is_the_picture() -> None:
    picture = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1).expand(50, -1, -1, -1)
    cropped = Pixels((8, 8, 1), frames=None, size=None, crop=True, flip=False)(picture, Draws(1, np.arange(50)))
    values = (cropped * 0.5 + 0.5) * 255
    assert values.min() >= -0.01 and values.max() <= 63.01 and len({v.sum().item() for v in values}) > 40
    rows, columns = values.diff(dim=-2), values.diff(dim=-1)
    assert (rows > 0).all() and (columns > 0).all()  # neither turned nor sheared


def test_draws_are_uniform_and_apart_by_purpose() -> None:
    draws = Draws(7, np.arange(4000))
    a, b = draws.uniform("crop", 2), draws.uniform("flip", 1)
    assert a.min() >= 0 and a.max() < 1
    for column in (a[:, 0], a[:, 1], b[:, 0]):
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    for u, v in ((a[:, 0], a[:, 1]), (a[:, 0], b[:, 0]), (a[1:, 0], a[:-1, 0])):
        assert abs(float(np.corrcoef(u, v)[0, 1])) < 0.06


def test_words_and_spectrograms() -> None:
    words = transform_for("text", {"ids": (6,), "mask": (6,)})
    raw = {
        "ids": torch.arange(12, dtype=torch.int32).view(2, 6),
        "mask": torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]),
    }
    out = words(raw, None)
    assert out["ids"].dtype == torch.int64 and out["ids"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert out["mask"].tolist() == [[True, True, False], [True, True, True]] and words.shape == (6,)
    assert (
        transform_for("spectrogram", {"": (3, 4)})(torch.ones(2, 3, 4, dtype=torch.float16), None).dtype
        == torch.float32
    )


@pytest.mark.parametrize(
    ("values", "part"), [({"frames": 11}, "between 1 and the 10"), ({"size": 9}, "between 1 and the 8 pixels")]
)
def test_more_than_is_stored_cannot_be_had(values: dict[str, int], part: str) -> None:
    with pytest.raises(BadValue, match=part):
        transform_for("video", {"": (10, 8, 8, 3)}, **values)  # type: ignore[arg-type]


def test_a_mapped_column_gathers_any_order_and_reaches_its_own_rows_only() -> None:
    big = np.arange(20 * 2000, dtype=np.float32).reshape(20, 2000)
    for array in (big, big[:, :3]):
        column = Mapped({"": array}, np.array([4, 9, 2]))
        wanted = torch.tensor([2, 0, 0, 1])
        np.testing.assert_array_equal(column.take(wanted).numpy(), array[[2, 4, 4, 9]])
        np.testing.assert_array_equal(column.select(torch.tensor([1, 1])).take(torch.tensor([1])).numpy(), array[[9]])
        with pytest.raises(IndexError):
            column.take(torch.tensor([3]))
        resident = column.on(torch.device("cpu"))
        assert torch.equal(resident.take(wanted), column.take(wanted))
        with pytest.raises(IndexError):
            resident.take(torch.tensor([3]))
