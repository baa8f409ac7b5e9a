"""`bench --stress`: trained models are scored with modalities missing and corrupted, once, without training again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import contents, rows_by_label

from mmzoo.benchmark import stress
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.results.stress import NAME, read_stress
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import CorruptFile, UnknownName
from mmzoo.evaluation.corruptions import SHARES
from mmzoo.registry import plugins

BENCH = ("bench", "--method", "ogm", "--baselines", "mla", "--datasets", "mfeat", "--seeds", "1", "--epochs", "1")


@pytest.fixture(scope="module")
def stressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bench with both kinds of stress; tests must not change it."""
    out = tmp_path_factory.mktemp("stressed") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMZOO_PLUGINS", "")
        plugins.load.cache_clear()
        assert main([*BENCH, "--stress", "missing,noise", "--device", "cpu", "--out", str(out)]) == 0
    return out


@pytest.fixture
def mine(stressed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(stressed, tmp_path / "results"))


def curves(folder: Path, label: str) -> list[dict[str, Any]]:
    return read_stress(rows_by_label(folder)[label], Store(folder))


def points(found: list[dict[str, Any]], kind: str, modality: str) -> list[dict[str, Any]]:
    return [r for r in found if (r["stress"], r["modality"]) == (kind, modality)]


# ---------------------------------------------------------------------------------------------- scores
@pytest.mark.parametrize("label", ["ogm", "mla", "concat"])
def test_curves_begin_at_the_row_s_score_and_fall(stressed: Path, label: str) -> None:
    row, found = rows_by_label(stressed)[label], curves(stressed, label)
    for kind, n in (("missing", len(SHARES)), ("noise", 6)):
        for modality in ("fou", "zer"):
            mine = points(found, kind, modality)
            assert [r["strength"] for r in mine] == list(range(n))
            assert {k: mine[0][k] for k in ("acc", "macro_f1", "map")} == {
                k: row["metrics"][k] for k in ("acc", "macro_f1", "map")
            }
            assert mine[-1]["acc"] < mine[0]["acc"]


def test_a_modality_alone_says_one_class_without_its_input(stressed: Path) -> None:
    last = points(curves(stressed, "unimodal: fou"), "missing", "fou")[-1]
    assert last["level"] == 1.0 and last["acc"] == pytest.approx(0.1)


def test_a_modality_that_is_missing_everywhere_is_as_one_that_is_not_fed(stressed: Path) -> None:
    """Against the model itself, fed with the other modality alone."""
    import mmzoo
    from mmzoo.core.modes import evaluating
    from mmzoo.evaluation.metrics import accuracy

    trained = mmzoo.load_run(stressed / "runs" / rows_by_label(stressed)["ogm"]["run_id"])
    batch = next(trained.data().loader("test", batch_size=10_000).batches())
    with evaluating(trained.model):
        features = trained.model.encode({"zer": batch.inputs["zer"]}, mmzoo.api.Pass(present=frozenset({"zer"})))
        out = trained.strategy.predict(trained.model.outputs(features))
    last = points(curves(stressed, "ogm"), "missing", "fou")[-1]
    assert last["acc"] == pytest.approx(accuracy(out.scores, batch.target), abs=1e-9)


# ---------------------------------------------------------------------------------------------- once, and nothing else
def test_the_same_command_scores_nothing_again(
    mine: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(mine)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("scored once more")

    monkeypatch.setattr(stress, "load_run", never)
    result = mmzoo(*BENCH, "--stress", "noise,missing", "--device", "cpu", "--out", mine)
    assert result.code == 0 and "under stress" in result.out
    after = contents(mine)
    assert {k: v for k, v in after.items() if "runs/" in k} == {k: v for k, v in before.items() if "runs/" in k}


def test_rows_are_those_of_a_bench_without_stress(stressed: Path, tmp_path: Path, mmzoo: Callable[..., Any]) -> None:
    mmzoo(*BENCH, "--device", "cpu", "--out", tmp_path / "plain")
    without, with_stress = rows_by_label(tmp_path / "plain"), rows_by_label(stressed)
    assert without.keys() == with_stress.keys()
    for label, row in without.items():
        assert row["run_id"] == with_stress[label]["run_id"] and row["metrics"] == with_stress[label]["metrics"]


def test_a_second_kind_joins_the_first(mine: Path, mmzoo: Callable[..., Any]) -> None:
    path = mine / "runs" / rows_by_label(mine)["ogm"]["run_id"] / NAME
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    assert mmzoo(*BENCH, "--stress", "noise", "--device", "cpu", "--out", mine).code == 0
    assert {r["stress"] for r in curves(mine, "ogm")} == {"noise"}
    assert mmzoo(*BENCH, "--stress", "missing", "--device", "cpu", "--out", mine).code == 0
    key = json.dumps
    assert sorted(map(key, curves(mine, "ogm"))) == sorted(map(key, kept["curves"]))


# ---------------------------------------------------------------------------------------------- faults
def test_a_model_that_is_not_the_row_s_is_refused(
    mine: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mine / "runs" / rows_by_label(mine)["ogm"]["run_id"] / NAME
    path.unlink()
    load = stress.load_run

    def other(folder: Path, *, trust: bool) -> Any:
        trained = load(folder, trust=trust)
        next(iter(trained.model.encoders["fou"].parameters())).data.neg_()
        return trained

    monkeypatch.setattr(stress, "load_run", other)
    result = mmzoo(*BENCH, "--stress", "noise", "--device", "cpu", "--out", mine)
    assert result.code == 1 and "it is not the model that was scored" in result.err and not path.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["curves"][0].update(acc=0.5), "checksum"),
        (lambda d: d["curves"][0].update(acc=2), "from 0 to 1"),
        (lambda d: d.update(weights="0123"), "checksum"),
        (lambda d: d.pop("curves"), "curves"),
    ],
)
def test_a_damaged_file_is_named_and_made_anew(
    mine: Path, mmzoo: Callable[..., Any], change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    row = rows_by_label(mine)["ogm"]
    path = mine / "runs" / row["run_id"] / NAME
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CorruptFile, match=said):
        read_stress(row, Store(mine))
    shown = mmzoo("report", mine, "--stress")
    assert shown.code == 2 and str(path) in shown.err and "| mla" in shown.out


def test_unknown_kinds_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused(*BENCH, "--stress", "mising", "--out", tmp_path)
    assert "no stress 'mising'" in said and "missing" in said
    with pytest.raises(UnknownName):
        BenchSpec("ogm", stress=("fog",))


# ---------------------------------------------------------------------------------------------- reports
def test_the_report_has_areas_and_curves(stressed: Path, mmzoo: Callable[..., Any]) -> None:
    text = mmzoo("report", stressed, "--stress").out
    assert "ACC in % under stress" in text and "share of the test samples" in text and "gaussian noise" in text
    found = points(curves(stressed, "ogm"), "missing", "fou")
    scores = [r["acc"] for r in found]
    area = 100 * sum(a + b for a, b in pairwise(scores)) / (2 * (len(scores) - 1))
    line = next(x for x in text.splitlines() if x.startswith("| ogm") and "| fou" in x)
    assert f"{area:.1f} |" in line and f" {100 * scores[0]:.1f} |" in line


def test_the_page_draws_the_curves(stressed: Path, mmzoo: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    assert mmzoo("report", stressed, "-o", tmp_path / "page.html").code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    start = text.index('id="specs">') + len('id="specs">')
    charts = json.loads(text[start : text.index("</script>", start)])["charts"]
    values = charts["d0-missing"]["data"]["values"]
    assert {v["level"] for v in values} == {0.0, 25.0, 50.0, 75.0, 100.0} and "d0-noise" in charts
    end = points(curves(stressed, "mla"), "missing", "zer")[-1]["acc"]
    assert any(
        v["method"] == "mla" and v["modality"] == "zer" and v["mean"] == pytest.approx(100 * end) for v in values
    )


def test_a_report_without_curves_says_how_to_make_them(results: Path, refused: Callable[..., str]) -> None:
    assert "--stress missing,noise" in refused("report", results, "--stress")
