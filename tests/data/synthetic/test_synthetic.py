"""The twins as a user runs them: generated, prepared by the code that reads real data, benched; and data of one's own."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.result_files import rows_by_label

from mmzoo.benchmark.planning.data_defaults import make_twin
from mmzoo.data.store.store import find_stores
from mmzoo.data.synthetic import Streams, generate, planted, render
from mmzoo.data.synthetic.cremad import CremaD
from mmzoo.data.synthetic.nvgesture import NVGesture
from mmzoo.data.synthetic.planting import ERASED
from mmzoo.errors import MmzooError, UnknownName
from mmzoo.registry import Catalogue

pytest.importorskip("av")


NAMES = ("kinetics_sounds", "cremad", "sarcasm", "twitter2015", "nvgesture")
SHARE = {"kinetics_sounds": 0.06, "cremad": 0.03, "sarcasm": 0.04, "twitter2015": 0.04, "nvgesture": 0.06}


def run_ok(mmzoo: Callable[..., Any], *arguments: object) -> str:
    result = mmzoo(*arguments)
    assert result.code == 0, result.err
    return str(result.out)


def twin_of(catalogue: Catalogue, name: str) -> Any:
    import importlib

    module, _, attribute = catalogue.get("datasets", name).extra["mini"]["twin"].partition(":")
    return getattr(importlib.import_module(module), attribute)()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_planted_truth_is_recovered(mmzoo: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    """One twin whole: each modality alone comes near its Bayes accuracy, plain joint training stays short of the joint one."""
    assert "Bayes accuracy: image" in run_ok(mmzoo, "data", "mini", "sarcasm")
    assert "(mini)" in run_ok(mmzoo, "data", "prepare", "sarcasm", "--mini", "--jobs", 0)
    out = tmp_path / "out"
    bench = (
        "bench",
        "--method",
        "concat",
        "--datasets",
        "sarcasm:mini",
        "--seeds",
        "1",
        "--device",
        "cpu",
        "--out",
        out,
    )
    text = run_ok(mmzoo, *bench)
    assert "sarcasm (mini)" in text and "closed" in text and "Bayes" in text
    assert "sarcasm (mini): synthetic data made by mmzoo, not the published data." in text  # under the overview
    assert "note: sarcasm (mini): synthetic data" in run_ok(mmzoo, *bench, "--plan")
    rows = rows_by_label(out)
    for m in ("image", "text"):
        row = rows[f"unimodal: {m}"]
        assert row["metrics"]["acc"] == pytest.approx(row["bayes"], abs=0.06), m
    plain = rows["concat"]
    assert plain["bayes"] > max(rows[f"unimodal: {m}"]["bayes"] for m in ("image", "text")) + 0.02
    assert plain["metrics"]["acc"] < plain["bayes"] - 0.03
    assert plain["metrics"]["n_scored"] >= 500


@pytest.mark.parametrize("name", NAMES)
def test_every_twin_goes_from_files_to_a_row(
    name: str, mmzoo: Callable[..., Any], catalogue: Catalogue, home: Path, tmp_path: Path
) -> None:
    """Made by a share of the items, it is prepared without a fault and benched under its own protocol; twice gives one store."""
    twin = twin_of(catalogue, name)
    facts = generate(twin, home / "mini" / name, share=SHARE[name])
    out = run_ok(mmzoo, "data", "prepare", name, "--mini", "--jobs", 0)
    assert "(mini)" in out and "fault" not in out
    assert sum("no split" in line for line in out.splitlines()) <= 1  # nobody publishes lists for a twin
    (store,) = find_stores(name, mini=True)
    assert len(store) == sum(facts["items"].values())
    assert set(store.bayes) and store.bayes["+".join(store.modalities)] == pytest.approx(max(facts["bayes"].values()))
    kinds = catalogue.get("datasets", name).extra["modalities"]
    assert store.kinds == kinds
    results = tmp_path / "out"
    run_ok(
        mmzoo,
        "bench",
        "--method",
        "concat",
        "--no-references",
        "--datasets",
        f"{name}:mini",
        "--seeds",
        "1",
        "--epochs",
        1,
        "--device",
        "cpu",
        "--out",
        results,
    )
    row = rows_by_label(results)["concat"]
    assert row["dataset"] == f"{name} (mini)" and row["status"] == "ok"
    assert row["metrics"]["n_scored"] == facts["items"]["test"]
    generate(twin, tmp_path / "again", share=SHARE[name])
    run_ok(mmzoo, "data", "prepare", name, "--root", tmp_path / "again", "--recipe", "mini", "--jobs", 0)
    (same,) = find_stores(name, mini=True)
    assert same.content == store.content


# ---------------------------------------------------------------------------------------------- what is lost on the way
def stored(name: str, mmzoo: Callable[..., Any], root: Path) -> Any:
    run_ok(mmzoo, "data", "prepare", name, "--root", root, "--recipe", "mini", "--jobs", 0)
    (store,) = find_stores(name, mini=True)
    return store


def read(seen: np.ndarray, values: np.ndarray, stored_values: np.ndarray) -> np.ndarray:
    """The value of each stored array by the nearest class mean under the shared covariance of other renderings."""
    known = np.unique(values)
    means = np.stack([seen[values == v].mean(0) for v in known])
    rest = seen - means[np.searchsorted(known, values)]
    spread = rest.T @ rest / len(rest)
    spread += 1e-2 * np.trace(spread) / len(spread) * np.eye(len(spread))
    weights = np.linalg.solve(spread, means.T)
    return known[(stored_values @ weights - 0.5 * (means.T * weights).sum(0)).argmax(1)]


def small(frames: np.ndarray) -> np.ndarray:
    """(256,) from (T, 16, 16): the mean over the frames."""
    return frames.astype(float).mean(0).ravel()


def as_stored(frames: np.ndarray) -> np.ndarray:
    """(3, 16, 16) from the (12, 32, 32) luma of a clip, as FFmpeg, Pillow and the recipe make it, but for the codec's loss."""
    from PIL import Image

    levels = np.clip((frames[[2, 6, 10]].astype(float) - 16) * 255 / 219, 0, 255).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((16, 16), Image.Resampling.BILINEAR)) for f in levels])


def test_the_stored_clips_and_recordings_of_cremad_still_show_their_symbols(
    mmzoo: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    twin, share = CremaD(), 0.2
    generate(twin, tmp_path / "twin", share=share)
    store = stored("cremad", mmzoo, tmp_path / "twin")
    drawn = {part: planted(twin).draw(round(share * n), Streams(0)("cremad", part)) for part, n in twin.sizes.items()}
    items = [*drawn["train"], *drawn["test"]]
    assert [i.label for i in items] == [r.label for r in store.index]
    rng = np.random.default_rng(9)
    values = rng.integers(ERASED, 6, 1500)
    clips = np.stack([small(as_stored(render.spots(int(v), 6, rng, frames=12, size=32, contrast=48))) for v in values])
    truth = np.array([i.symbols["spot"] for i in items])
    found = read(clips, values, np.stack([small(v.mean(-1)) for v in store.array("video")]))
    assert (found == truth).mean() > 0.995
    tones = np.stack([store.array("audio")[n].astype(float).max(1) for n in range(len(items))])
    heard = np.array([i.symbols["tone"] for i in items])
    half = np.arange(len(items)) % 2 == 0
    assert (read(tones[half], heard[half], tones[~half]) == heard[~half]).mean() > 0.995


def test_the_stored_motion_of_nvgesture_still_shows_its_symbol(
    mmzoo: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    twin, share = NVGesture(), 0.15
    generate(twin, tmp_path / "twin", share=share)
    store = stored("nvgesture", mmzoo, tmp_path / "twin")
    drawn = {
        part: planted(twin).draw(round(share * n), Streams(0)("nvgesture", part)) for part, n in twin.sizes.items()
    }
    items = [*drawn["train"], *drawn["test"]]
    assert [i.label for i in items] == [r.label for r in store.index]
    flow = np.stack([f.astype(float).mean(0)[4:12, 4:12].mean((0, 1)) for f in store.array("flow")]) - 127.5
    for item, seen in zip(items, flow):
        if item.symbols["motion"] != ERASED:
            across, down = render.velocities(25)[item.symbols["motion"]][::-1]
            assert np.dot(seen, (across, down)) > 0.8 * np.linalg.norm(seen) * np.hypot(across, down)


# ---------------------------------------------------------------------------------------------- by name
def test_a_data_set_without_a_twin_says_so(catalogue: Catalogue, refused: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="mfeat has no synthetic set"):
        make_twin(catalogue.get("datasets", "mfeat"), tmp_path / "x")
    assert "mfeat" in refused("data", "mini", "mfeat")


def test_a_twin_that_cannot_be_loaded_names_itself(catalogue: Catalogue, tmp_path: Path) -> None:
    import dataclasses

    entry = catalogue.get("datasets", "cremad")
    broken = dataclasses.replace(entry, extra={**entry.extra, "mini": {"twin": "mmzoo.data.nowhere:Twin"}})
    with pytest.raises(MmzooError, match=r"synthetic set of cremad cannot be loaded from mmzoo\.data\.nowhere:Twin"):
        make_twin(broken, tmp_path / "x")


# ---------------------------------------------------------------------------------------------- data of one's own
def own(folder: Path, modalities: str, header: list[str], rows: list[list[object]]) -> Path:
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    manifest = folder / "own.yaml"
    manifest.write_text(f"name: own_data\ntable: items.csv\nmodalities:\n{modalities}", encoding="utf-8")
    return manifest


def benched(mmzoo: Callable[..., Any], manifest: Path, out: Path) -> dict[str, Any]:
    run_ok(mmzoo, "data", "check", manifest, "--jobs", 0)
    run_ok(mmzoo, "data", "prepare", manifest, "--jobs", 0)
    run_ok(
        mmzoo,
        "bench",
        "--method",
        "ogm",
        "--no-references",
        "--datasets",
        manifest,
        "--seeds",
        "1",
        "--epochs",
        1,
        "--device",
        "cpu",
        "--out",
        out,
    )
    (row,) = rows_by_label(out).values()
    assert row["status"] == "ok", row["reason"]
    return row


def test_own_pictures_and_texts(mmzoo: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    from mmzoo.data.synthetic.sarcasm import Sarcasm

    generate(Sarcasm(), tmp_path / "twin", share=0.04)
    rows = []
    for line in (tmp_path / "twin" / "text" / "train.txt").read_text(encoding="utf-8").splitlines():
        name, text, label = ast.literal_eval(line)
        if (tmp_path / "twin" / "dataset_image" / f"{name}.jpg").is_file():
            rows.append([name, label, f"twin/dataset_image/{name}.jpg", text])
    manifest = own(tmp_path, "  picture: image\n  words: text\n", ["id", "label", "picture", "words"], rows)
    assert set(benched(mmzoo, manifest, tmp_path / "out")["spec"]["encoders"]) == {"picture", "words"}


def test_own_recordings_and_clips(mmzoo: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    generate(CremaD(), tmp_path / "twin", share=0.03)
    names = sorted(p.stem for p in (tmp_path / "twin" / "AudioWAV").glob("*.wav"))
    rows = [[n, n[9:12], f"twin/AudioWAV/{n}.wav", f"twin/VideoFlash/{n}.flv"] for n in names]
    fields = "  sound: {kind: audio, column: sound, seconds: 0.5}\n  clip: {kind: video, column: clip, frames: 3, size: 16}\n"
    manifest = own(tmp_path, fields, ["id", "label", "sound", "clip"], rows)
    assert set(benched(mmzoo, manifest, tmp_path / "out")["spec"]["encoders"]) == {"sound", "clip"}


def test_three_vectors_of_ones_own(mmzoo: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = [[f"i{n}", f"class {c}", *np.round(rng.normal(c, 1, 6), 3)] for n, c in enumerate(labels.tolist())]
    fields = "".join(f"  {m}: {{kind: vector, columns: [{m}1, {m}2]}}\n" for m in "xyz")
    manifest = own(tmp_path, fields, ["id", "label", *(f"{m}{k}" for m in "xyz" for k in (1, 2))], rows)
    assert len(benched(mmzoo, manifest, tmp_path / "out")["spec"]["encoders"]) == 3
