"""A plan of data that is not prepared yet looks at the encoders that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmzoo.benchmark.bench import Execution, dry_plan
from mmzoo.config.grammar import parse_setting
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import MmzooError


def planned(*given: str) -> None:
    spec = BenchSpec("concat", datasets=("twitter2015:mini",), settings=tuple(map(parse_setting, given)))
    assert dry_plan(spec, Execution())[1] == ["twitter2015:mini"]


def test_what_cannot_be_built_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path))
    planned()
    planned("encoder.image=cnn", "cnn.frozen_stages=2")
    for given, words in (
        (("encoder.image=timm", "timm.model=resnet1888"), "resnet1888"),
        (("encoder.image=cnn", "cnn.frozen_stages=99"), "too few for frozen_stages=99"),
        (("encoder.text=transformer", f"transformer.weights={tmp_path}"), "config.json"),
    ):
        with pytest.raises(MmzooError, match=words):
            planned(*given)
