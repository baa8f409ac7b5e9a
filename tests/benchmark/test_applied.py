"""`mmzoo predict` and `mmzoo predictions` on a table of a user's own, through the real program."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.own_tables import write_table

from mmzoo.benchmark.pretrained import from_pretrained, save_pretrained
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.trained import load_run
from mmzoo.cli import main
from mmzoo.data.own.row_values import cell_of
from mmzoo.errors import BadValue, CorruptFile
from mmzoo.io.json_file import write_sealed
from mmzoo.registry import plugins

Command = Callable[..., Any]


class Own:
    """A table, a bench on it with weights, and the folder that its data was prepared in, moved away."""

    def __init__(self, folder: Path, **table: Any) -> None:
        folder.mkdir()
        self.folder, self.out, self.new = folder, folder / "r", folder / "new.csv"
        manifest = write_table(folder, **table)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MMZOO_PLUGINS", "")
            patch.setenv("MMZOO_HOME", str(folder / "home"))
            plugins.load.cache_clear()
            options = ["--no-references", "--epochs", "2", "--seeds", "1", "--device", "cpu", "--keep-weights"]
            assert (
                main(["bench", "--method", "concat", *options, "--datasets", str(manifest), "--out", str(self.out)])
                == 0
            )
        (folder / "home").rename(folder / "gone")
        self.row = next(r for r in Store(self.out).rows()[0] if r["status"] == "ok" and not r["spec"].get("floor"))
        self.run = self.out / "runs" / self.row["run_id"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """Pictures, which some rows lack, and texts."""
    return Own(tmp_path_factory.mktemp("own") / "pictures", missing=7)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """Numbers and texts, which every row has."""
    return Own(tmp_path_factory.mktemp("own") / "numbers", kind="vector")


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("which", ["pictures", "numbers"])
def test_new_rows_get_the_scores_that_the_bench_gave_them(which: str, mmzoo: Command, request: Any) -> None:
    own: Own = request.getfixturevalue(which)
    new = mmzoo("predict", own.run, own.new, "--jobs", 0)
    assert new.code == 0, new.err
    answers = {line["id"]: line for line in table_of(new.out)}
    assert len(answers) == 60 and all(name.startswith("'@item") for name in answers)
    tested = [t for t in table_of(mmzoo("predictions", own.out).out) if t["run"] == own.row["run_id"]]
    assert len(tested) == own.row["metrics"]["n_scored"]
    for line in tested:
        found = answers[line["id"]]
        assert found["predicted"] == line["predicted"]
        for name in ("probability:dog", "probability:=cat"):
            assert float(found[name]) == pytest.approx(float(line[name]), abs=1e-4)
    right = sum(t["true"] == t["predicted"] for t in tested) / len(tested)
    assert right == pytest.approx(own.row["metrics"]["acc"])


def test_a_run_is_named_by_folder_or_id(pictures: Own, mmzoo: Command, refused: Command, tmp_path: Path) -> None:
    run_id = pictures.row["run_id"]
    whole = mmzoo("predict", pictures.run, pictures.new).out
    for named in ([f"{pictures.out}/{run_id}"], [pictures.out, run_id[:6]], [pictures.out]):
        assert mmzoo("predict", *named, pictures.new).out == whole
    told = mmzoo("predict", pictures.run, pictures.new, "--out", tmp_path / "a.csv")
    assert told.code == 0 and told.out == "" and (tmp_path / "a.csv").read_text() == whole
    assert "no run begins with 'zz'" in refused("predict", pictures.out, "zz", pictures.new)
    assert "there is no run" in refused("predict", tmp_path / "no", pictures.new)


def test_the_name_of_a_method_is_answered_with_the_ids_of_its_runs(
    pictures: Own, refused: Command, tmp_path: Path
) -> None:
    label, run_id = pictures.row["label"], pictures.row["run_id"]
    said = refused("predict", pictures.out, label, pictures.new)
    assert "a run is named by its id" in said and f"{run_id} ({label} on {pictures.row['dataset']}, seed 0)" in said
    assert "no run begins" not in said and "kept its weights" not in said
    bare = tmp_path / "bare" / "runs" / run_id
    bare.mkdir(parents=True)
    (bare / "result.json").write_bytes((pictures.run / "result.json").read_bytes())
    said = refused("export", tmp_path / "bare", label, "--out", tmp_path / "to")
    assert run_id in said and "None of them kept its weights" in said and "--keep-weights" in said


def test_predictions_are_shown_in_a_line(pictures: Own) -> None:
    assert repr(load_run(pictures.run).predict_rows(pictures.new)) == "Predictions(60 rows, 2 classes)"


def test_tables_that_do_not_fit_are_refused_in_words(
    pictures: Own, numbers: Own, mmzoo: Command, refused: Command, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(pictures.new.read_text().replace("picture", "pictur"))
    said = refused("predict", pictures.run, renamed)
    assert "modality 'first' is read from the column 'picture'" in said and "Did you mean 'pictur'?" in said
    assert "there is no table" in refused("predict", pictures.run, tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("name,picture,title\n")
    assert "no rows" in refused("predict", pictures.run, tmp_path / "empty.csv")
    bad = tmp_path / "bad.csv"
    bad.write_text("name,picture,title\na,none.png,meow\nb,,\nc,/etc/passwd,bark\nd,,purr\n")
    said = refused("predict", pictures.run, bad)
    assert "3 rows of" in said and "line 2, first: there is no" in said and "line 3: no modality" in said
    left = mmzoo("predict", pictures.run, bad, "--on-bad", "drop")
    assert left.code == 0 and [r["id"] for r in table_of(left.out)] == ["d"] and left.err.count("left out") == 3
    (tmp_path / "words.csv").write_text("name,x,y,title\na,1,much,meow\n")
    assert "column y: 'much' is not a finite number" in refused("predict", numbers.run, tmp_path / "words.csv")


def test_rows_that_lack_what_no_training_sample_lacked_are_told(numbers: Own, mmzoo: Command, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("name,x,y,title\na,,,meow\nb,0,1,bark\n")
    found = mmzoo("predict", numbers.run, tmp_path / "new.csv")
    assert found.code == 0 and "1 row lacks first, which every sample of the training data had" in found.err


@pytest.mark.parametrize("which", ["pictures", "numbers"])
def test_raw_rows_in_python_get_what_the_command_prints(which: str, mmzoo: Command, request: Any) -> None:
    own: Own = request.getfixturevalue(which)
    trained = load_run(own.run)
    printed = table_of(mmzoo("predict", own.run, own.new, "--jobs", 0).out)
    rows = list(csv.DictReader(own.new.open()))
    if which == "numbers":  # as Python has them
        rows = [{**r, "x": np.float64(r["x"]), "y": float(r["y"])} for r in rows]
    else:
        rows = [{**r, "picture": r["picture"] and Path(r["picture"])} for r in rows]
    for found in (trained.predict_rows(str(own.new)), trained.predict_rows(rows, root=own.folder)):
        assert [f"'{i}" for i in found.ids] == [line["id"] for line in printed] and len(found.ids) == 60
        assert [n.removeprefix("=") for n in found.predicted] == [p["predicted"].lstrip("'=") for p in printed]
        assert found.classes == trained.form.class_names == ("=cat", "dog")
        for i, name in enumerate(found.classes):
            assert [f"{p:.6g}" for p in found.scores[:, i].tolist()] == [p[f"probability:{name}"] for p in printed]
    moved = save_pretrained(trained, own.folder / "model")
    assert np.array_equal(from_pretrained(moved).predict_rows(own.new).scores, found.scores)
    assert "predict_rows" in (moved / "README.md").read_text()


def test_raw_rows_that_do_not_fit_are_refused_in_words(numbers: Own, pictures: Own) -> None:
    trained = load_run(numbers.run)
    good = {"x": 1, "y": "0.5", "title": "meow"}
    found = trained.predict_rows([good, {**good, "x": None, "y": math.nan, "name": "b"}])
    assert found.ids == ("row 0", "b") and "1 row lacks first" in found.notes[0]
    for wrong, words in (
        (good, r"of the type dict.*list of mappings"),
        ([], "there are no rows"),
        (3, "of the type int"),
        ([good, ["meow"]], "row 1 is of the type list"),
        ([good, {**good, "titel": "a"} | {"y": b"1"}], r"row 1: 'y' is .*b'1'.*A cell is"),
        ([{"x": 1, "y": 2, "titel": "a"}], r"row 0 has no 'title'\. Did you mean 'titel'\?.*None"),
        ([{**good, "x": "much"}], r"1 row cannot be read.*drop=True.*row 0, first: column x: 'much'"),
    ):
        with pytest.raises(BadValue, match=f"(?s){words}"):
            trained.predict_rows(wrong)
    assert trained.predict_rows([{**good, "x": "much"}, good], drop=True).ids == ("row 1",)
    nothing = trained.predict_rows([{**good, "x": "much"}], drop=True)
    assert nothing.ids == () and nothing.predicted == () and nothing.scores.shape == (0, 2)
    with pytest.raises(BadValue, match=r"'words' is a text: predict takes it prepared.*ids.*predict_rows"):
        trained.predict({"first": torch.zeros(1, 2), "words": ["meow"]})
    with pytest.raises(BadValue, match=r"'first' must be a tensor or an array, not list.*predict_rows"):
        load_run(pictures.run).predict({"first": ["p0.png"], "words": None})


def test_a_number_is_the_level_of_its_value() -> None:
    """A frame with a gap has 1.0 where the table of the training data has 1."""
    assert cell_of({"ward": 1.0}, 0, "ward", ("1", "2", "icu")) == "1"
    assert cell_of({"ward": "icu"}, 0, "ward", ("1", "2", "icu")) == "icu"
    assert cell_of({"ward": 3.0}, 0, "ward", ("1", "1.00", "icu")) == "3.0"
    assert cell_of({"v": torch.tensor([1.5, 2.0])}, 0, "v") == "[1.5, 2.0]"


def test_a_run_without_weights_or_without_a_table_is_refused(results: Path, refused: Command, pictures: Own) -> None:
    assert "no run that kept its weights" in refused("predict", results, pictures.new)


def test_a_model_is_used_without_its_data_and_asks_for_what_is_missing(pictures: Own, numbers: Own) -> None:
    trained = load_run(numbers.run)
    assert trained.form.classes == ("=cat", "dog") and trained.form.modalities == ("first", "words")
    words = {"ids": torch.ones(3, 4, dtype=torch.long), "mask": torch.ones(3, 4, dtype=torch.bool)}
    x = torch.randn(3, 2)
    whole = trained.predict({"first": x, "words": words}).scores
    with pytest.raises(BadValue, match=r"lack the modality 'first'.*None"):
        trained.predict({"words": words})
    alone = trained.predict({"first": None, "words": words}).scores
    empty = trained.predict({"first": torch.full((3, 2), torch.nan), "words": words}).scores
    given = trained.predict({"words": words}, torch.tensor([[False, True]] * 3)).scores
    assert torch.equal(alone, empty) and torch.equal(alone, given) and not torch.allclose(alone, whole)
    partly = load_run(pictures.run)
    image = torch.zeros(3, 3, 8, 8)
    with pytest.raises(BadValue, match=r"some samples of own lack modalities.*present="):
        partly.predict({"first": image, "words": words})
    assert not torch.equal(
        partly.predict({"first": image, "words": words}, "all").scores,
        partly.predict({"first": None, "words": words}).scores,
    )


def test_what_is_kept_beside_the_weights_must_be_what_was_written(pictures: Own, tmp_path: Path) -> None:
    out = Path(shutil.copytree(pictures.out, tmp_path / "r"))
    path = out / "runs" / pictures.row["run_id"] / "inputs.json"
    found = json.loads(path.read_text())
    found["classes"].reverse()
    path.write_text(json.dumps(found))
    with pytest.raises(CorruptFile, match=r"inputs\.json"):
        load_run(path.parent)
    path.unlink()
    with pytest.raises(CorruptFile, match=r"inputs\.json"):
        load_run(path.parent)


def test_a_score_that_the_predictions_contradict_is_told(pictures: Own, mmzoo: Command, tmp_path: Path) -> None:
    out = Path(shutil.copytree(pictures.out, tmp_path / "r"))
    path = out / "runs" / pictures.row["run_id"] / "result.json"
    row = json.loads(path.read_text())
    row["metrics"]["acc"] = 0.999
    write_sealed(path, row)
    fault = "the row says 99.9 %"
    with pytest.raises(CorruptFile, match=fault):
        load_run(path.parent)
    told = mmzoo("report", out, "--details", "--stats")
    assert told.code == 2 and told.err.count(fault) == 1
    page = mmzoo("report", out, "-o", tmp_path / "r.html")
    assert page.code == 2 and fault in page.err
    (path.parent / "predictions.npz").unlink()
    assert mmzoo("report", out, "--details").code == 0  # what was removed to save room is no fault
    load_run(path.parent)


def test_predictions_go_to_a_file_and_a_spoiled_one_costs_itself(pictures: Own, mmzoo: Command, tmp_path: Path) -> None:
    out = Path(shutil.copytree(pictures.out, tmp_path / "r"))
    told = mmzoo("predictions", out, "--csv", tmp_path / "p.csv")
    lines = table_of((tmp_path / "p.csv").read_text())
    assert told.code == 0 and lines[0]["method"] and {t["true"] for t in lines} == {"'=cat", "dog"}
    (out / "runs" / pictures.row["run_id"] / "predictions.npz").write_bytes(b"no zip")
    spoiled = mmzoo("predictions", out)
    assert spoiled.code == 2 and "predictions.npz cannot be used" in spoiled.err
    assert pictures.row["run_id"] not in {t["run"] for t in table_of(spoiled.out)}
    assert mmzoo("predictions", tmp_path).code == 2


def test_details_have_scores_and_confusions_of_each_class(pictures: Own, mmzoo: Command) -> None:
    said = mmzoo("report", pictures.out, "--details", "--format", "md")
    assert said.code == 0 and "own: F1 of each class in %" in said.out
    block = said.out.partition("own: concat, test samples of 1 run by true and predicted class")[2]
    rows = {c[0]: c[1:] for line in block.splitlines() if (c := [x.strip(" *") for x in line.split("|")[1:-1]])}
    assert rows["true class"] == ["=cat", "dog", "recall"]
    n = sum(int(v) for name in ("=cat", "dog") for v in rows[name][:2])
    assert n == pictures.row["metrics"]["n_scored"]
    assert float(rows["precision"][-1]) == pytest.approx(100 * pictures.row["metrics"]["acc"], abs=0.06)
