"""Series from files and numbers: which axis is time, what is filled, cut, resampled and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmzoo.data.fields.rebuilt import rebuilt
from mmzoo.data.fields.series import Series, steps_of
from mmzoo.data.sources.field import MediaFault
from mmzoo.data.sources.source import File, Media, Text, Values
from mmzoo.errors import BadValue

X = np.arange(12.0).reshape(2, 6)


def saved(folder: Path, x: np.ndarray) -> File:
    np.save(folder / "x.npy", x)
    return File(folder / "x.npy")


def written(folder: Path, text: str, name: str = "x.csv") -> File:
    (folder / name).write_text(text)
    return File(folder / name)


def test_a_short_one_is_filled_up_and_a_long_one_keeps_its_first_steps(tmp_path: Path) -> None:
    given = saved(tmp_path, X)
    for length in (9, 6, 4):
        found = Series(2, length, standardise=False).read(given)
        n = min(length, 6)
        assert found["values"].dtype == np.float32 and found["mask"].dtype == np.uint8
        np.testing.assert_array_equal(found["values"][:, :n], X[:, :n])
        assert not found["values"][:, n:].any() and found["mask"].tolist() == [1] * n + [0] * (length - n)


def test_time_is_the_axis_that_is_named(tmp_path: Path) -> None:
    np.testing.assert_array_equal(steps_of(saved(tmp_path, X.T), "first"), X)
    assert steps_of(saved(tmp_path, X[0])).shape == (1, 6)
    with pytest.raises(MediaFault, match=r"6 channels of 2 steps where 2 are asked for \(time: first"):
        Series(2, 6, standardise=False).read(saved(tmp_path, X.T))


@pytest.mark.parametrize("mark", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", [True, False])
def test_a_text_file_has_one_step_a_line(tmp_path: Path, mark: str, header: bool) -> None:
    lines = [mark.join(["a", "b"])] * header + [mark.join(map(str, step)) for step in X.T]
    np.testing.assert_array_equal(steps_of(written(tmp_path, "\n".join(["# made up", *lines, ""]))), X)


def test_channels_are_picked_by_name_or_number(tmp_path: Path) -> None:
    given = written(tmp_path, "t,a,b\n0,1,2\n1,3,4\n")
    np.testing.assert_array_equal(steps_of(given, pick=("b", "a")), [[2, 4], [1, 3]])
    np.testing.assert_array_equal(steps_of(given, pick=("1",)), [[1, 3]])
    with pytest.raises(MediaFault, match="no channel 'c', only t, a, b"):
        steps_of(given, pick=("c",))


def test_each_channel_is_standardised_over_the_steps_of_training(tmp_path: Path) -> None:
    media: list[Media] = [Values((1.0, 2.0, 3.0)), Values((5.0,))]
    fitted = Series(1, 3).fitted(media)
    assert fitted.mean == pytest.approx((2.75,)) and fitted.deviation == pytest.approx((np.std([1, 2, 3, 5]),))
    found = np.concatenate([fitted.read(m)["values"][:, : len(m.values)] for m in media if isinstance(m, Values)], 1)
    assert found.mean() == pytest.approx(0, abs=1e-6) and found.std() == pytest.approx(1, abs=1e-6)
    assert fitted.read(media[1])["values"][0, 1:].tolist() == [0, 0]
    again = rebuilt(fitted.as_dict())
    np.testing.assert_array_equal(again.read(media[0])["values"], fitted.read(media[0])["values"])


def test_a_constant_channel_is_only_centred() -> None:
    assert Series(1, 3).fitted([Values((0.1, 0.1, 0.1))]).deviation == (1.0,)


def test_steps_that_are_missing_are_a_fault_or_interpolated(tmp_path: Path) -> None:
    given = written(tmp_path, "1,1\nNA,2\n3,\n")
    with pytest.raises(MediaFault, match="fill: interpolate"):
        Series(2, 3, standardise=False).read(given)
    found = Series(2, 3, standardise=False, fill="interpolate").read(given)["values"]
    assert found.tolist() == [[1, 2, 3], [1, 2, 2]]
    with pytest.raises(MediaFault, match="without a single number"):
        Series(2, 3, standardise=False, fill="interpolate").read(written(tmp_path, "1,\n2,\n"))


def test_another_rate_keeps_a_slow_wave_and_takes_a_fast_one_out() -> None:
    seconds = np.arange(400) / 100
    slow, fast = np.sin(2 * np.pi * 2 * seconds), np.sin(2 * np.pi * 40 * seconds)
    field = Series(1, 100, rate=25, from_rate=100, standardise=False)
    found = field.read(Values(tuple(slow + fast)))
    assert found["mask"].all()
    np.testing.assert_allclose(found["values"][0, 10:90], slow[::4][10:90], atol=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 bytes"),
        ("a,b\n", "without a single step"),
        ("1,2\n3\n", "line 2 has 1 values, the first 2"),
        ("1,2\n3,x\n", "line 2: 'x' is no number"),
        ("1,2\n3,inf\n", "not finite"),
        ("1,2\n3,1e300\n", "too large"),
        ("1\n2\n", "1 channels of 2 steps where 2 are asked for"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(MediaFault, match=words):
        Series(2, 3, standardise=False).read(written(tmp_path, text))


def test_other_media_and_arrays_are_refused(tmp_path: Path) -> None:
    for given in (saved(tmp_path, np.zeros((2, 2, 2))), saved(tmp_path, np.array(["a"])), Text("a")):
        with pytest.raises(MediaFault, match="a series"):
            Series(2, 3, standardise=False).read(given)
    with pytest.raises(BadValue, match="must be fitted"):
        Series(1, 3).read(Values((1.0,)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"channels": 0}, "channels"),
        ({"time": "middle"}, "time must be"),
        ({"fill": "mean"}, "fill of a series"),
        ({"rate": 5.0}, "go together"),
        ({"rate": 1e6, "from_rate": 1.0}, "1,000 times"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(BadValue, match=words):
        Series(**{"channels": 1, "length": 3, **values})  # type: ignore[arg-type]
