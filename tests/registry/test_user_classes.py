"""Classes in files of the user's own: named like anything else, and without a package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmzoo.cli import main
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import BadValue, MmzooError, UnknownName
from mmzoo.registry.plugins import catalogue

MINE = '''
from beside import FACTOR
from mmzoo.api import FusionHead, Strategy
from torch import nn
import torch


class Mine(Strategy):
    """L = (1 + weight) CE."""

    neutral = {"weight": 0.0}

    def __init__(self, *, weight: float = 1, name: str | None = None, steps: int = 3) -> None:
        self.weight, self.name, self.steps = weight, name, steps

    def losses(self, step, out, terms):
        return {**terms, "mine/more": FACTOR * self.weight * terms["task"]}


class Head(FusionHead):
    """Linear."""

    def __init__(self, dims, n_classes, *, bias: bool = True):
        super().__init__(dims, n_classes)
        self.bias = bias
        self.layer = nn.Linear(sum(dims.values()), n_classes, bias=bias)

    def fuse(self, features, present):
        return self.layer(torch.cat(list(features.values()), 1)), {}


class Other:
    pass
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("FACTOR = 1.0\n")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_class_becomes_an_entry(mine: Path) -> None:
    entry = catalogue().get("strategies", "./mine.py:Mine")
    assert {n: (p.type, p.default) for n, p in entry.params.items()} == {
        "weight": ("float", 1),
        "name": ("str?", None),
        "steps": ("int", 3),
    }
    assert entry.summary == "L = (1 + weight) CE."
    assert catalogue().get("strategies", entry.id.partition("/")[2]).id == entry.id  # a worker looks it up by its id
    head = catalogue().get("heads", "mine.py:Head")
    assert head.extra["how"] == "ablated" and head.params["bias"].type == "bool"
    changed = entry.version
    mine.write_text(MINE.replace("FACTOR *", "2 * FACTOR *"))
    assert catalogue().get("strategies", "./mine.py:Mine").version != changed


def test_it_is_benched_like_a_method(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "bench",
            "--method",
            "./mine.py:Mine:0-50%+ogm@mine.py:Head",
            "--baselines",
            "./mine.py:Mine",
            "--seeds",
            "1",
            "--no-references",
            "--epochs",
            "2",
            "--set",
            "./mine.py:Mine.weight=0.5",
            "--out",
            "out",
        ]
    )
    out = capsys.readouterr()
    assert code == 2 and "ogm needs logits of each modality" in out.err
    code = main(
        [
            "bench",
            "--method",
            "./mine.py:Mine:0-50%+pmr",
            "--baselines",
            "./mine.py:Mine@mine.py:Head",
            "--seeds",
            "1",
            "--no-references",
            "--epochs",
            "2",
            "--set",
            "./mine.py:Mine.weight=0.5",
            "--out",
            "out",
        ]
    )
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["report", "out", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["status"] for r in rows] == ["ok", "ok"]
    assert {p["params"].get("weight") for r in rows for p in r["spec"]["parts"]} == {0.5, None}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("nowhere.py:Mine", BadValue, "cannot read nowhere.py: No such file"),
        ("./mine.py:Mien", BadValue, "Did you mean 'Mine'"),
        ("./mine.py:Other", BadValue, "neither a Strategy, a FusionHead nor an Encoder"),
        ("./mine.py:Head", UnknownName, "is no method"),
        ("ogm@./mine.py:Mine", UnknownName, "is no head"),
        ("broken.py:Mine", MmzooError, r"broken.py cannot be loaded \(line 2\): ZeroDivisionError"),
        ("syntax.py:Mine", MmzooError, r"syntax.py cannot be loaded \(line 1\): SyntaxError"),
        ("misspelt.py:Mine", MmzooError, r"looks like a hook a leading underscore\.$"),
        ("untyped.py:Mine", BadValue, "the type of parameter what cannot be inferred"),
        ("required.py:Mine", BadValue, "parameter what of Mine has no default"),
    ],
)
def test_what_is_wrong_is_said(mine: Path, text: str, kind: type[Exception], message: str) -> None:
    head = (
        "from mmzoo.api import Strategy\nclass Mine(Strategy):\n    def __init__(self, *, what{}): self.what = what\n"
    )
    Path("broken.py").write_text("\n1 / 0\n")
    Path("syntax.py").write_text("def f(:\n")
    Path("misspelt.py").write_text(
        "from mmzoo.api import Strategy\nclass Mine(Strategy):\n    def on_epoch_begin(self, run): ...\n"
    )
    Path("untyped.py").write_text(head.format("=object()"))
    Path("required.py").write_text(head.format(""))
    with pytest.raises(kind, match=message):
        resolve_method(catalogue(), text, Settings(catalogue(), ()))
