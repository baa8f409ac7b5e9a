"""Generated twins: what is planted is known exactly, and can be read from the media."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.store.home import MARKER
from mmzoo.data.synthetic import Twin, generate
from mmzoo.data.synthetic.cremad import CremaD
from mmzoo.data.synthetic.kinetics_sounds import KineticsSounds
from mmzoo.data.synthetic.nvgesture import NVGesture
from mmzoo.data.synthetic.planting import ERASED, Drawn, Planting, Symbol
from mmzoo.data.synthetic.render import velocities
from mmzoo.data.synthetic.sarcasm import Sarcasm
from mmzoo.data.synthetic.twitter2015 import Twitter2015
from mmzoo.errors import BadValue

TWINS = (CremaD, KineticsSounds, NVGesture, Sarcasm, Twitter2015)
SMALL = {CremaD: 0.02, KineticsSounds: 0.05, NVGesture: 0.05, Sarcasm: 0.02, Twitter2015: 0.02}


def chance(symbol: Symbol, value: int, label: int, n: int) -> Fraction:
    """The probability of a value given the class, straight from the definition."""
    erased, hit = Fraction(symbol.erased), Fraction(symbol.hit)
    if value == ERASED:
        return erased
    return (1 - erased) * (hit if value == label else (1 - hit) / (n - 1))


def best(planting: Planting, symbols: set[str]) -> Fraction:
    """The Bayes accuracy, value by value and class by class, in exact fractions."""
    n, names = planting.n_classes, sorted(symbols)
    total = Fraction(0)
    for values in itertools.product(range(-1, n), repeat=len(names)):
        joint = []
        for label in range(n):
            p = Fraction(1, n)
            for name, value in zip(names, values):
                p *= chance(planting.symbols[name], value, label, n)
            joint.append(p)
        total += max(joint)
    return total


shares = st.sampled_from([i / 16 for i in range(1, 16)])


@given(st.integers(2, 4), st.lists(st.tuples(shares, shares), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_bayes_accuracy_is_that_of_the_exact_sum(n: int, given_symbols: list[tuple[float, float]]) -> None:
    symbols = {f"s{i}": Symbol(*s) for i, s in enumerate(given_symbols)}
    carries = {f"m{i}": (f"s{i}", "s0") if i else ("s0",) for i in range(len(symbols))}
    planting = Planting(n, symbols, carries)
    for subset, value in planting.all_bayes().items():
        seen = {s for m in subset.split("+") for s in carries[m]}
        assert value == pytest.approx(float(best(planting, seen)), abs=1e-12)


def test_two_symbols_in_closed_form() -> None:
    """The surer symbol decides where it is there, else the other one, else a guess."""
    a, b, n = Symbol(0.96, 0.3), Symbol(0.9, 0.12), 31
    planting = Planting(n, {"a": a, "b": b}, {"x": ("a",), "y": ("b",)})
    wanted = 0.7 * 0.96 + 0.3 * (0.88 * 0.9 + 0.12 / n)
    assert planting.bayes(["x", "y"]) == pytest.approx(wanted, abs=1e-12)
    assert planting.bayes([]) == pytest.approx(1 / n)


@pytest.mark.parametrize("twin", TWINS)
def test_the_planted_imbalance(twin: type[Twin]) -> None:
    """All modalities together are clearly better than each, and the test part has at least 500 items."""
    planting = twin.planting
    joint = planting.bayes(planting.carries)
    assert joint > 0.05 / 2 + max(planting.bayes([m]) for m in planting.carries)
    assert twin.sizes["test"] * planting.n_classes >= 500


@pytest.mark.parametrize("twin", TWINS)
def test_a_part_is_as_lucky_as_the_population(twin: type[Twin]) -> None:
    """The Bayes rule, written out here, scores on the drawn test items what it scores on the population."""
    planting = twin.planting
    items = planting.draw(twin.sizes["test"], np.random.default_rng(3))
    right = sum(decided(planting, item) == item.label for item in items)
    expected = planting.bayes(planting.carries)
    assert right / len(items) == pytest.approx(expected, abs=0.012)
    labels = [item.label for item in items]
    assert all(labels.count(c) == twin.sizes["test"] for c in range(planting.n_classes))


def decided(planting: Planting, item: Drawn) -> int:
    n = planting.n_classes
    scores = [np.prod([float(chance(planting.symbols[s], v, c, n)) for s, v in item.symbols.items()]) for c in range(n)]
    return int(np.argmax(np.array(scores) + 1e-9 * (np.arange(n) == 0)))


def test_a_motion_is_never_none_and_never_another() -> None:
    given_velocities = np.array(velocities(25))
    apart = np.linalg.norm(given_velocities[:, None] - given_velocities[None], axis=-1) + np.eye(25)
    assert np.linalg.norm(given_velocities, axis=1).min() > 0.4 and apart.min() > 0.3


# ---------------------------------------------------------------------------------------------- files
@pytest.fixture(scope="module", params=TWINS, ids=lambda t: t.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Twin, Path]]:
    twin = request.param()
    root = tmp_path_factory.mktemp("twins") / twin.name
    generate(twin, root, share=SMALL[type(twin)])
    yield twin, root


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(made: tuple[Twin, Path], tmp_path: Path) -> None:
    twin, root = made
    generate(twin, tmp_path / "again", share=SMALL[type(twin)])
    assert content(tmp_path / "again") == content(root)
    facts = generate(twin, tmp_path / "other", seed=1, share=SMALL[type(twin)])
    assert facts["seed"] == 1 and content(tmp_path / "other") != content(root)


def test_the_marker_says_what_is_planted(made: tuple[Twin, Path]) -> None:
    twin, root = made
    facts = json.loads((root / MARKER).read_text(encoding="utf-8"))
    assert facts["bayes"] == twin.planting.all_bayes()
    assert facts["planted"]["symbols"] == {k: vars(s) for k, s in twin.planting.symbols.items()}
    assert sum(facts["items"].values()) == sum(n * twin.planting.n_classes for n in small(twin).values())


def small(twin: Twin) -> dict[str, int]:
    return {part: max(2, round(SMALL[type(twin)] * n)) for part, n in twin.sizes.items()}


def test_what_is_there_is_left_alone(made: tuple[Twin, Path]) -> None:
    twin, root = made
    before = (root / MARKER).stat().st_mtime_ns
    generate(twin, root, share=SMALL[type(twin)])
    assert (root / MARKER).stat().st_mtime_ns == before


def test_a_folder_with_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BadValue, match=r"not a synthetic set.*Choose another folder"):
        generate(CremaD(), tmp_path, share=0.02)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("given_values", [{"share": 0.0}, {"share": 1.5}, {"seed": -1}])
def test_values_that_make_no_twin(given_values: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="synthetic set"):
        generate(CremaD(), tmp_path / "new", **given_values)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_generation_that_fails_leaves_no_twin(tmp_path: Path) -> None:
    class Torn(CremaD):
        def write(self, root: Path, parts: object, streams: object) -> None:
            (root / "half").write_text("", encoding="utf-8")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        generate(Torn(), tmp_path / "new", share=0.02)
    assert not (tmp_path / "new").exists()
    assert generate(CremaD(), tmp_path / "new", share=0.02)["data_set"] == "cremad"
    assert not (tmp_path / "new" / "half").exists()
