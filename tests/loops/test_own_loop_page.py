"""The page on loops of one's own: its code runs, its tables are true, and the formulas are those of the strategies."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_loops import Net, assert_same, batches, reference, sgd
from torch import nn

import mmzoo
from mmzoo import functional as mz

PAGE = Path(mmzoo.__file__).parent / "docs" / "own_loop.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.filterwarnings("ignore"),  # those of the frameworks
]


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("needed", ["nothing", "accelerate", "lightning"])
def test_its_code_runs(needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order in one namespace; those that need another package where it is there."""
    if needed != "nothing":
        pytest.importorskip(needed, reason=f"needs {needed}")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    ran = 0
    for code in re.findall(r"```python\n(.*?)```", page(), re.DOTALL):
        others = re.search(r"^# .*needs (\w+)$", code, re.MULTILINE)
        if others is None or others[1] == needed:
            exec(compile(code, str(PAGE), "exec"), names)
            ran += 1
    assert ran == {"nothing": 7, "accelerate": 10, "lightning": 9}[needed]
    assert torch.allclose(names["scores"].sum(1), torch.ones(4))
    net = names["net"] = nn.Module()
    net.joint = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6))
    z = {"audio": torch.randn(4, 32), "video": torch.randn(4, 32)}
    assert {m: tuple(own.shape) for m, own in names["unimodal"](z).items()} == dict.fromkeys(z, (4, 6))


#: lines of code that the same took a user of an earlier version, each in one formatted file with its network and data
BEFORE = {"own": 41, "wrap": 46, "lit": 86, "hf": 44, "fn": 28}


@pytest.mark.parametrize("name", BEFORE)
def test_it_takes_fewer_lines_than_without_attach(name: str) -> None:
    """Each example with the network and the data; fn.py with as many lines of them as the user's had: four and the imports."""
    shared, *examples = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)
    (code,) = (e for e in examples if e.startswith(f"# {name}.py"))
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    given = [line for line in shared.splitlines() if line.strip()] if name != "fn" else [""] * 7
    assert len(lines) + len(given) < BEFORE[name]


def test_its_table_names_functions_that_are_there() -> None:
    table = page().partition("| function | of | what |")[2]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)}
    assert named and all(callable(getattr(mz, name)) for name in named)
    assert set(mz.OF_METHODS) <= named


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ogm'"):
        _ = mz.ogm


def test_the_parts_of_a_linear_layer_add_up() -> None:
    for bias in (True, False):
        layer = torch.nn.Linear(7, 3, bias=bias)
        z = {"a": torch.randn(5, 4), "b": torch.randn(5, 3)}
        torch.testing.assert_close(sum(mz.split_linear(layer, z).values()), layer(torch.cat([*z.values()], 1)))


def test_ogm_by_its_formulas_is_the_strategy() -> None:
    """The three lines after backward, in a loop without dropout, are the strategy OGM."""
    net = Net()
    net.video[2].p = 0.0
    optimizer = sgd(net.parameters())
    for _ in range(2):
        for b in batches():
            own = mz.split_linear(net.head, {m: e(b[m]) for m, e in net.encoders.items()})
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(sum(own.values()), b["labels"]).backward()  # type: ignore[arg-type]
            factors = mz.ogm_coefficients(mz.true_class_sums(own, b["labels"]), alpha=0.3)
            mz.scale_gradients(net.encoders.values(), factors, least_axes=2)
            optimizer.step()
    other = Net()
    other.video[2].p = 0.0
    assert_same(net.state_dict(), reference("ogm", other)[0])


def test_a_factor_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mz.scale_gradients(Net().encoders.values(), torch.ones(1))


def test_the_extras_that_it_needs_are_declared() -> None:
    text = (PAGE.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r"^lightning = .*lightning", text, re.MULTILINE)
    assert re.search(r"^hf = .*accelerate", text, re.MULTILINE)
    assert importlib.util.find_spec("transformers") is not None
