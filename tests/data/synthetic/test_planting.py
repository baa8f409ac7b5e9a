"""Generated twins: what is planted is known exactly, and can be read from the media."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.store.home import MARKER
from mmzoo.data.synthetic import Twin, generate, planted
from mmzoo.data.synthetic.cremad import CremaD
from mmzoo.data.synthetic.kinetics_sounds import KineticsSounds
from mmzoo.data.synthetic.nvgesture import NVGesture
from mmzoo.data.synthetic.planting import ERASED, Drawn, Planting, Symbol
from mmzoo.data.synthetic.render import velocities
from mmzoo.data.synthetic.sarcasm import Sarcasm
from mmzoo.data.synthetic.twitter2015 import Twitter2015
from mmzoo.errors import BadValue, MmzooError

TWINS = (CremaD, KineticsSounds, NVGesture, Sarcasm, Twitter2015)
SMALL = {CremaD: 0.02, KineticsSounds: 0.05, NVGesture: 0.05, Sarcasm: 0.02, Twitter2015: 0.02}


def chance(symbol: Symbol, value: int, label: int, n: int) -> Fraction:
    """The probability of a value given the class, straight from the definition."""
    erased, hit = Fraction(symbol.erased), Fraction(symbol.hit)
    if value == ERASED:
        return erased
    return (1 - erased) * (hit if value == label else (1 - hit) / (n - 1))


def chance_together(symbols: list[Symbol], values: tuple[int, ...], label: int, n: int) -> Fraction:
    """The probability of the values given the class where one number erases and one makes wrong: by its largest and least value."""
    erased = [Fraction(s.erased) for s in symbols]
    wrong = [1 - Fraction(s.hit) for s in symbols]
    there = [v != ERASED for v in values]

    def between(reached: list[Fraction], missed: list[Fraction]) -> Fraction:
        return max(Fraction(0), min([Fraction(1), *missed]) - max([Fraction(0), *reached]))

    p = between([e for e, t in zip(erased, there) if t], [e for e, t in zip(erased, there) if not t])
    shown = {v for v in values if v not in (ERASED, label)}
    if len(shown) > 1:
        return Fraction(0)
    hits = [w for w, v in zip(wrong, values) if v == label]
    misses = [w for w, v in zip(wrong, values) if v not in (ERASED, label)]
    return p * between(hits, misses) * (Fraction(1, n - 1) if misses else 1)


def given_class(planting: Planting, names: list[str], values: tuple[int, ...], label: int) -> Fraction:
    """The probability of the values of symbols given the class, straight from the definition."""
    n, symbols = planting.n_classes, [planting.symbols[name] for name in names]
    alone = Fraction(1)
    for symbol, value in zip(symbols, values):
        alone *= chance(symbol, value, label, n)
    content = Fraction(planting.content)
    return (1 - content) * alone + content * chance_together(symbols, values, label, n)


def best(planting: Planting, symbols: set[str]) -> Fraction:
    """The Bayes accuracy, value by value and class by class, in exact fractions."""
    n, names = planting.n_classes, sorted(symbols)
    total = Fraction(0)
    for values in itertools.product(range(-1, n), repeat=len(names)):
        total += max(given_class(planting, names, values, label) for label in range(n)) / n
    return total


shares = st.sampled_from([i / 16 for i in range(1, 16)])


@given(
    st.integers(2, 4), st.lists(st.tuples(shares, shares), min_size=1, max_size=3), st.sampled_from([0.0, 0.25, 1.0])
)
@settings(max_examples=30, deadline=None)
def test_bayes_accuracy_is_that_of_the_exact_sum(
    n: int, given_symbols: list[tuple[float, float]], content: float
) -> None:
    symbols = {f"s{i}": Symbol(*s) for i, s in enumerate(given_symbols)}
    carries = {f"m{i}": (f"s{i}", "s0") if i else ("s0",) for i in range(len(symbols))}
    planting = Planting(n, symbols, carries, content)
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
    assert joint > 0.02 + max(planting.bayes([m]) for m in planting.carries)
    assert twin.sizes["test"] * planting.n_classes >= 500


@pytest.mark.parametrize("preset", ["default", "content"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_part_is_as_lucky_as_the_population(twin: type[Twin], preset: str) -> None:
    """The Bayes rule, written out here, scores on the drawn test items what it scores on the population."""
    planting = planted(twin(), preset)
    items = planting.draw(twin.sizes["test"], np.random.default_rng(3))
    right = sum(credit(planting, item) for item in items)
    expected = planting.bayes(planting.carries)
    assert right / len(items) == pytest.approx(expected, abs=0.012)
    labels = [item.label for item in items]
    assert all(labels.count(c) == twin.sizes["test"] for c in range(planting.n_classes))


def credit(planting: Planting, item: Drawn) -> float:
    """How often the Bayes rule is right on an item, where it draws among classes that are equally probable."""
    n, names, values = planting.n_classes, list(item.symbols), tuple(item.symbols.values())
    scores = [given_class(planting, names, values, c) for c in range(n)]
    best_classes = [c for c in range(n) if scores[c] == max(scores)]
    return (item.label in best_classes) / len(best_classes)


@pytest.mark.parametrize("context", [0.0, 0.6, 1.0])
def test_scenes_are_shared_as_often_as_asked_and_say_nothing_of_the_class(context: float) -> None:
    planting = dataclasses.replace(CremaD.planting, context=context)
    items = planting.draw(1000, np.random.default_rng(4))
    audio, video = (np.array([i.scenes[m] for i in items]) for m in ("audio", "video"))
    assert (audio == video).mean() == pytest.approx(context, abs=0.02)
    for scene in (audio, video):
        assert np.quantile(scene, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
        means = [scene[[i.label == c for i in items]].mean() for c in range(planting.n_classes)]
        assert means == pytest.approx([0.5] * planting.n_classes, abs=0.04)


def test_symbols_that_are_drawn_together_keep_their_own_law() -> None:
    planting = dataclasses.replace(CremaD.planting, content=0.9)
    items = planting.draw(1000, np.random.default_rng(5))
    for name, symbol in planting.symbols.items():
        values = [(i.symbols[name], i.label) for i in items]
        assert np.mean([v == ERASED for v, _ in values]) == pytest.approx(symbol.erased, abs=0.002)
        assert np.mean([v == label for v, label in values if v != ERASED]) == pytest.approx(symbol.hit, abs=0.002)
    wrong = [i for i in items if all(v not in (ERASED, i.label) for v in i.symbols.values())]
    assert np.mean([len(set(i.symbols.values())) == 1 for i in wrong]) > 0.9


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
    planting = planted(twin)
    assert facts["bayes"] == planting.all_bayes() and facts["preset"] == "default"
    assert facts["planted"] == planting.as_dict()
    assert facts["planted"]["symbols"] == {k: vars(s) for k, s in twin.planting.symbols.items()}
    assert sum(facts["items"].values()) == sum(n * twin.planting.n_classes for n in small(twin).values())


def small(twin: Twin) -> dict[str, int]:
    return {part: max(2, round(SMALL[type(twin)] * n)) for part, n in twin.sizes.items()}


def test_what_is_there_is_left_alone(made: tuple[Twin, Path]) -> None:
    twin, root = made
    before = (root / MARKER).stat().st_mtime_ns
    generate(twin, root, share=SMALL[type(twin)])
    assert (root / MARKER).stat().st_mtime_ns == before


def test_two_processes_at_once_give_one_twin(tmp_path: Path) -> None:
    """Both succeed, and leave one set and no temporary folder."""
    code = (
        "import pathlib, sys; from mmzoo.data.synthetic import generate; from mmzoo.data.synthetic.sarcasm import Sarcasm; "
        "generate(Sarcasm(), pathlib.Path(sys.argv[1]), share=0.05)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "twin"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(p.communicate()[1], p.returncode) for p in both] == [("", 0), ("", 0)]
    generate(Sarcasm(), tmp_path / "alone", share=0.05)
    assert content(tmp_path / "twin") == content(tmp_path / "alone")
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"twin", "alone"}


def test_a_folder_with_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BadValue, match=r"not a synthetic set.*Choose another folder"):
        generate(CremaD(), tmp_path, share=0.02)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("given_values", [{"share": 0.0}, {"share": 1.5}, {"seed": -1}, {"preset": "contents"}])
def test_values_that_make_no_twin(given_values: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(MmzooError, match="synthetic set"):
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
