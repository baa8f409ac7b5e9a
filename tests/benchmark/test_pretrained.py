"""A trained model taken away: as a folder that needs nothing else, and as a graph that gives the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.own_tables import write_table

import mmzoo
from mmzoo.benchmark.exporting import export
from mmzoo.benchmark.pretrained import CARD, CONFIG, MODEL
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.trained import Trained
from mmzoo.cli import main
from mmzoo.errors import BadValue, CorruptFile, Incompatible
from mmzoo.io.json_file import read_json, write_sealed
from mmzoo.registry import plugins


def bench(folder: Path, method: str, *data: str) -> Path:
    """The folder of a run that kept its weights."""
    options = ["--no-references", "--epochs", "2", "--seeds", "1", "--device", "cpu", "--keep-weights"]
    assert main(["bench", "--method", method, *options, *data, "--out", str(folder / "r")]) == 0
    row = next(r for r in Store(folder / "r").rows()[0] if r["status"] == "ok" and not r["spec"].get("floor"))
    return folder / "r" / "runs" / row["run_id"]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMZOO_PLUGINS", "")
        patch.setenv("MMZOO_HOME", str(tmp_path_factory.mktemp("home")))
        plugins.load.cache_clear()
        yield


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers and texts of a user's own table."""
    folder = tmp_path_factory.mktemp("own")
    return bench(folder, "concat", "--datasets", str(write_table(folder, kind="vector")))


@pytest.fixture(scope="module")
def deciding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A method with a decision rule and tensors that it remembers."""
    return bench(tmp_path_factory.mktemp("mla"), "mla", "--datasets", "mfeat")


def inputs(trained: Trained, n: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    return {m: trained.form.spec(m).example(n) for m in trained.form.modalities}


@pytest.mark.parametrize("name", ["own", "deciding"])
def test_a_folder_gives_the_same_scores_without_anything_else(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(name)
    trained = mmzoo.load_run(run)
    x = inputs(trained)
    expected = trained.predict(x, "all").scores
    folder = mmzoo.save_pretrained(trained, tmp_path / "model", license="MIT")
    moved = folder.rename(tmp_path / "elsewhere")
    again = mmzoo.from_pretrained(moved)
    assert torch.equal(again.predict(x, "all").scores, expected)
    assert again.form == trained.form
    assert not any(p.suffix in (".pt", ".pkl", ".py", ".bin") for p in moved.rglob("*"))
    card = (moved / CARD).read_text(encoding="utf-8")
    assert 'license: "MIT"' in card and trained.row["run_id"] in card and f"{trained.row['metrics']['acc']:.4f}" in card


def test_new_rows_are_scored_by_the_folder_alone(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = own.parents[2] / "new.csv"
    rows = next(own.parents[2].glob("*.csv")) if not table.is_file() else table
    assert main(["predict", str(own), str(rows)]) == 0
    expected = capsys.readouterr().out
    assert main(["export", str(own), "-o", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "model"), str(rows)]) == 0
    assert capsys.readouterr().out == expected and expected.count("\n") > 2


def test_what_is_there_is_not_overwritten(own: Path, tmp_path: Path) -> None:
    trained = mmzoo.load_run(own)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    with pytest.raises(BadValue, match="is there already"):
        mmzoo.save_pretrained(trained, tmp_path / "kept")
    (tmp_path / "model.pt2").write_text("mine")
    with pytest.raises(BadValue, match="is there already"):
        export(trained, tmp_path / "model.pt2", "torch")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "model.pt2"]


def test_a_folder_that_was_changed_is_refused(own: Path, tmp_path: Path) -> None:
    saved = mmzoo.save_pretrained(mmzoo.load_run(own), tmp_path / "model")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(saved, tmp_path / name))

    with pytest.raises(BadValue, match="name a folder that save_pretrained wrote"):
        mmzoo.from_pretrained(tmp_path)
    weights = copy("weights") / MODEL
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match="not the one that was written"):
        mmzoo.from_pretrained(weights.parent)
    config = copy("config") / CONFIG
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CorruptFile, match="checksum"):
        mmzoo.from_pretrained(config.parent)
    cut = copy("cut") / MODEL
    cut.write_bytes(cut.read_bytes()[:50])
    with pytest.raises(CorruptFile, match="cannot be used"):
        mmzoo.from_pretrained(cut.parent)


def test_a_folder_that_names_code_is_refused_before_it_is_run(own: Path, tmp_path: Path) -> None:
    saved = mmzoo.save_pretrained(mmzoo.load_run(own), tmp_path / "model")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = read_json(saved / CONFIG)
    config["run"]["spec"]["head"] = f"{tmp_path}/evil.py:Evil"
    write_sealed(saved / CONFIG, {k: v for k, v in config.items() if k != "checksum"})
    with pytest.raises(BadValue, match="names code"):
        mmzoo.from_pretrained(saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore")  # those of the exporters
@pytest.mark.parametrize("name", ["own", "deciding"])
def test_torch_export_gives_the_same_scores_at_any_batch_size(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = request.getfixturevalue(name)
    path = tmp_path / "model.pt2"
    assert main(["export", str(run), "--to", "torch", "-o", str(path)]) == 0
    assert "differ from the model's by at most" in capsys.readouterr().out
    trained = mmzoo.load_run(run)
    x = inputs(trained, 5)
    flat = [t for v in x.values() for t in (v.values() if isinstance(v, dict) else [v])]
    found = torch.export.load(path).module()(*flat)
    torch.testing.assert_close(found, trained.predict(x, "all").scores, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_scores_at_any_batch_size(own: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (pip install 'mmzoo[onnx]')")
    pytest.importorskip("onnxscript", reason="needs onnxscript (pip install 'mmzoo[onnx]')")
    path = tmp_path / "model.onnx"
    trained = mmzoo.load_run(own)
    assert export(trained, path, "onnx") < 1e-4
    session = runtime.InferenceSession(str(path))
    assert [o.name for o in session.get_outputs()] == ["scores"]
    x = inputs(trained, 5)
    flat = [t for v in x.values() for t in (v.values() if isinstance(v, dict) else [v])]
    fed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), flat)}
    found = torch.from_numpy(session.run(None, fed)[0])
    torch.testing.assert_close(found, trained.predict(x, "all").scores, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_with_other_numbers_is_not_kept(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = mmzoo.load_run(own)
    import mmzoo.benchmark.exporting as module

    monkeypatch.setattr(module, "_to_torch", lambda *given: lambda *x: torch.zeros(len(x[0]), trained.form.n_classes))
    with pytest.raises(Incompatible, match="other scores than the model"):
        export(trained, tmp_path / "model.pt2", "torch")
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == "[]"
