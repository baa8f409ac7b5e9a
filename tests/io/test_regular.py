"""Files that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmzoo.errors import BadValue
from mmzoo.io.regular import read_regular


def test_a_small_file_takes_no_room_for_the_largest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"id\n1\n")
    assert read_regular(tmp_path / "t.csv", "the table", 1 << 60) == b"id\n1\n"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_a_file_that_says_that_it_is_empty_is_read_whole() -> None:
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0
    assert read_regular(path, "the table", 1 << 20).startswith(b"Name:")
    with pytest.raises(BadValue, match="the table /proc/self/status is larger than 0 MiB"):
        read_regular(path, "the table", 10)
