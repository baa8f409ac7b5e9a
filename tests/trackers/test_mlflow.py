"""The MLflow tracker, read back by MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow", reason="needs MLflow (pip install 'mmzoo[mlflow]')")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_mlflow_holds_what_it_was_told(
    tell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mmzoo.trackers.mlflow import MLflow

    monkeypatch.chdir(tmp_path)
    results = tell(MLflow)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("mmzoo: mfeat:six")
    assert experiment.artifact_location.startswith((results / "mlflow").as_uri())
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("ogm[alpha=0.5] seed3", "FINISHED")
    assert (run.data.params["head"], run.data.tags["mmzoo.run_id"]) == ("sum", "ab12")
    told = {(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "holdout/acc")}
    assert told == {(0, 0.5), (1, 0.75)} and run.data.metrics["test/acc"] == 0.75
    assert {"train/loss/task", "train/clip_x", "holdout/of/m"} <= set(run.data.metrics)
    failed: dict[str, Any] = {"metrics": {}, "status": "failed", "reason": "no room"}
    tell(MLflow, row=failed)
    statuses = {r.info.status: r.data.tags["mmzoo.status"] for r in client.search_runs([experiment.experiment_id])}
    assert statuses == {"FINISHED": "ok", "FAILED": "failed no room"}
    assert [p.name for p in tmp_path.iterdir()] == ["results"], "nothing is written elsewhere"
