"""The bench from Python: the same rows as the command, foreign modules, trained models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.result_files import rewrite
from torch import nn

import mmzoo as package
from mmzoo.api import Batch, DataModule
from mmzoo.benchmark.execution.building import load_data
from mmzoo.benchmark.foreign import evaluate
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.trained import load_run
from mmzoo.errors import BadValue, CorruptFile, Incompatible, MmzooError, UnknownName
from mmzoo.registry.plugins import catalogue

Command = Callable[..., Any]
QUICK: dict[str, Any] = {"seeds": 1, "epochs": 2, "references": False, "device": "cpu"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store with weights: an own decision rule, modules added in training, a modality alone, a window."""
    out = tmp_path_factory.mktemp("kept")
    rows = package.bench("mla", ["gblend", "unimodal", "mla:0-0@shared"], keep_weights=True, out=out, **QUICK)  # type: ignore[operator]
    assert [r["status"] for r in rows] == ["ok"] * 5
    return out


def run_of(out: Path, label: str) -> Path:
    return next(out / "runs" / r["run_id"] for r in Store(out).rows()[0] if r["label"] == label)


def test_a_trained_model_and_its_data_are_shown_in_a_line(kept: Path) -> None:
    folder = run_of(kept, "mla")
    trained = load_run(folder)
    assert (
        repr(trained)
        == f"Trained(mla on mfeat, seed 0, acc {100 * trained.row['metrics']['acc']:.1f} %, {str(folder)!r})"
    )
    shown = repr(trained.data())
    assert shown.startswith("DataModule(name='mfeat', n_classes=10,") and len(shown) < 300 and "tensor" not in shown


# ---------------------------------------------------------------------- bench
def test_a_call_gives_the_rows_of_the_command(mmzoo: Command, tmp_path: Path) -> None:
    told: list[str] = []
    rows = package.bench(
        "ogm",
        out=tmp_path / "a",
        on_row=lambda row: told.append(row["label"]),  # type: ignore[operator]
        **QUICK,
        settings={"ogm.alpha": 0.5},
        heads=["concat", "sum"],
    )
    command = mmzoo(
        "bench",
        "--method",
        "ogm",
        "--seeds",
        1,
        "--epochs",
        2,
        "--no-references",
        "--device",
        "cpu",
        "--set",
        "ogm.alpha=0.5",
        "--heads",
        "concat,sum",
        "--out",
        tmp_path / "b",
    )
    assert repr(rows) == f"Rows(2 runs of {rows[0]['label']}, {rows[1]['label']} on mfeat in {str(tmp_path / 'a')!r})"
    assert command.code == 0 and told == [r["label"] for r in rows] == ["ogm@concat[alpha=0.5]", "ogm@sum[alpha=0.5]"]
    by_command = {r["run_id"]: r for r in Store(tmp_path / "b").rows()[0]}
    for row in rows:
        assert row["metrics"] == by_command[row["run_id"]]["metrics"]
    # What is there is not run again, and the tables are those of the folder.
    again = package.bench(
        "ogm",
        out=tmp_path / "a",
        on_row=lambda row: told.append("again"),
        **QUICK,  # type: ignore[operator]
        settings={"ogm.alpha": 0.5},
        heads=("concat", "sum"),
    )
    assert again == rows and "again" not in told
    assert rows.report() == mmzoo("report", tmp_path / "a").out
    assert "tests over seeds" in rows.report(stats=True)


def test_a_frame_has_one_line_a_run(kept: Path) -> None:
    pytest.importorskip("pandas")
    rows = package.bench("mla", ["gblend"], keep_weights=True, out=kept, **QUICK)  # type: ignore[operator]
    frame = rows.frame()
    assert frame["run_id"].tolist() == [r["run_id"] for r in rows]
    assert frame["metrics.acc"].tolist() == pytest.approx([r["metrics"]["acc"] for r in rows])


@pytest.mark.parametrize(
    "given, error",
    [
        ({"method": "ogmm"}, UnknownName),
        ({"method": "ogm", "baselines": "pmr"}, BadValue),
        ({"method": "ogm", "seeds": "x"}, BadValue),
        ({"method": "ogm", "selection": "best"}, UnknownName),
        ({"method": "ogm", "settings": {"ogm.alpa": 1}}, UnknownName),
        ({"method": "ogm", "track": ["tensor"]}, UnknownName),
        ({"method": "ogm+ogm"}, BadValue),
        ({"method": "gblend+dynamic_gap_lb"}, Incompatible),
    ],
)
def test_what_the_command_refuses_is_an_error(given: dict[str, Any], error: type, tmp_path: Path) -> None:
    with pytest.raises(error):
        package.bench(**given, out=tmp_path / "r")  # type: ignore[operator]
    assert not list(tmp_path.rglob("result.json"))


def test_the_names_come_without_torch_and_the_bench_can_always_be_called() -> None:
    code = """
import sys, mmzoo
assert "torch" not in sys.modules and {"bench", "evaluate", "load_run"} <= set(dir(mmzoo))
assert callable(mmzoo.bench) and "torch" not in sys.modules
import mmzoo.benchmark.planning.plan
assert callable(mmzoo.bench) and mmzoo.benchmark.planning.plan
print("done")
"""
    env = {"PYTHONPATH": str(Path(package.__file__).parent.parent), "MMZOO_PLUGINS": "", "PATH": ""}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout == "done\n"


# ---------------------------------------------------------------------- foreign modules
class Foreign(nn.Module):
    """Takes its modalities by name and drops at random while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(76 + 47, 10)

    def forward(self, fou: torch.Tensor, zer: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.functional.dropout(torch.cat([fou, zer], 1), 0.5, self.training))


def ask(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**batch.inputs)


def test_a_foreign_module_is_scored_on_every_item_by_other_peoples_metrics() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    model = Foreign().train()
    found = evaluate(model, "mfeat", call=ask, batch_size=64)
    assert model.training and found["n_scored"] == found["n_total"] == 500
    data: DataModule = load_data(catalogue(), "mfeat", json.dumps({"views": ["fou", "zer"], "labels": None}))
    rows = torch.tensor(data.splits["test"])
    with torch.no_grad():
        logits = model.eval()(**{m: x[rows] for m, x in data.inputs.items()})
    target, scores = data.target[rows], logits.softmax(-1)
    assert found["acc"] == pytest.approx(metrics.accuracy_score(target, scores.argmax(1)))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(target, scores.argmax(1), average="macro"))
    assert found["map"] == pytest.approx(metrics.average_precision_score(nn.functional.one_hot(target), scores))
    assert found["hashes"]["split"] == data.split_hash
    assert evaluate(model, data, call=ask) == found
    assert evaluate(model, "mfeat", call=ask, split="holdout")["acc"] != found["acc"]


def test_a_foreign_module_is_left_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, moved = Foreign(), []
    monkeypatch.setattr(model, "to", lambda where: moved.append(where))
    evaluate(model, "mfeat", call=ask)
    evaluate(model, "mfeat", call=ask, device="cpu")
    assert moved == []
    with pytest.raises(BadValue, match="Accepted are auto"):
        evaluate(model, "mfeat", call=ask, device="cuda:77")


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda m, b: torch.zeros(len(b), 3), "logits of shape"),
        (lambda m, b: "yes", "not str"),
        (lambda m, b: torch.full((len(b), 10), float("nan")), "not finite"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(call: Any, said: str) -> None:
    with pytest.raises(BadValue, match=said):
        evaluate(Foreign(), "mfeat", call=call)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UnknownName):
        evaluate(Foreign(), "mfeet")
    with pytest.raises(BadValue, match="scores on training samples"):
        evaluate(Foreign(), "mfeat", split="train", call=ask)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="parameter of data set mfeat"):
        evaluate(Foreign(), "mfeat", call=ask, settings={"mfeat.vews": ["fou"]})


# ---------------------------------------------------------------------- trained models
def test_a_loaded_run_predicts_what_was_scored(kept: Path) -> None:
    rows = Store(kept).rows()[0]
    assert len(rows) == 5
    for row in rows:
        trained = load_run(kept / "runs" / row["run_id"])
        data = trained.data()
        assert not trained.model.training and data.modalities == trained.model.modalities
        found = evaluate(trained.model, data, call=lambda m, b, t=trained: t.predict(b.inputs))
        for key in ("acc", "macro_f1", "map"):
            assert found[key] == pytest.approx(row["metrics"][key], abs=1e-12), row["label"]


def test_only_what_was_kept_can_be_loaded(kept: Path, results: Path, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"kept no weights.*--keep-weights"):
        load_run(run_of(results, "concat"))
    for wrong in (tmp_path, kept, kept / "runs" / "0123456789abcdef", kept / "runs" / ".." / ".."):
        with pytest.raises(BadValue, match="not the folder of a run"):
            load_run(wrong)
    folder = run_of(Path(shutil.copytree(kept, tmp_path / "kept")), "mla")
    row = json.loads((folder / "result.json").read_text())
    rewrite(folder / "result.json", row | {"status": "diverged", "reason": "loss is nan"})
    with pytest.raises(BadValue, match="diverged: loss is nan"):
        load_run(folder)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["cut", "changed", "pickle", "state", "module"])
def test_files_of_a_run_from_outside_do_no_harm(how: str, kept: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, marker = run_of(Path(shutil.copytree(kept, tmp_path / "kept")), "mla:0-0@shared"), tmp_path / "ran"
    weights = folder / "weights.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "changed":
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    elif how == "pickle":
        torch.save(Touch(marker), weights)
    elif how == "state":
        torch.save({"a": Touch(marker)}, folder / "strategy.pt")
    else:  # names are looked up in the catalogue, never imported
        row = json.loads((folder / "result.json").read_text())
        row["spec"]["head"] = "os:system"
        rewrite(folder / "result.json", row)
    with pytest.raises((CorruptFile, MmzooError), match=folder.name):
        load_run(folder)
    assert not marker.exists()


def test_a_call_can_show_its_progress_and_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {**QUICK, "out": tmp_path / "r", "encoders": {"fou": "mlp"}}
    (row,) = package.bench("ogm", progress=True, **given)  # type: ignore[operator]
    assert capsys.readouterr().out.startswith("[1/1] mfeat ogm seed 0: ")
    command = Store(tmp_path / "r").bench()["command"]
    assert command.startswith("mmzoo.bench(method='ogm', seeds=1, epochs=2, encoders={'fou': 'mlp'}, ")
    assert package.bench("ogm", **given) == [row] and capsys.readouterr().out == ""  # type: ignore[operator]
    with pytest.raises(Incompatible, match="fou is vector, and encoder cnn takes image"):
        package.bench("ogm", **{**given, "encoders": {"fou": "cnn"}})  # type: ignore[operator]
