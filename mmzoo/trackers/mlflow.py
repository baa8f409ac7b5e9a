"""MLflow runs, in a database of the results folder or on a server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mmzoo.trackers.base import Tracker, scalars

#: MLflow cuts longer values, or refuses them
LONGEST = 6000


class MLflow(Tracker):
    """One run of MLflow for each run, in the experiment `mmzoo: DATA SET`.

    TARGET: the address of a server (`http://HOST:PORT`), or a folder, by default `mlflow` in the folder of the results, which
    gets a SQLite database: `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db`. Nothing leaves the machine otherwise.
    """

    def __init__(self, target: str | None, folder: Path, run: Mapping[str, Any]) -> None:
        artifacts: str | None = None
        if target and "://" in target:
            address = target
        else:
            root = (Path(target) if target else folder / "mlflow").absolute()
            root.mkdir(parents=True, exist_ok=True)
            address, artifacts = f"sqlite:///{root.as_posix()}/mlflow.db", (root / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=address)
        experiment = _experiment(self._client, f"mmzoo: {run['dataset']}", artifacts)
        name = f"{run['label']} seed{run['seed']}"
        self._id = self._client.create_run(experiment, run_name=name).info.run_id
        tags = {"run_id": run["run_id"], "label": run["label"], "seed": run["seed"]}
        self._client.log_batch(
            self._id,
            tags=[RunTag(f"mmzoo.{key}", str(value)) for key, value in tags.items()],
            params=[Param(_name(key), str(value)[:LONGEST]) for key, value in run["spec"].items()],
        )

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._log((pair for part in ("train", "holdout") for pair in scalars(record[part], part)), record["epoch"])

    def end(self, row: Mapping[str, Any]) -> None:
        self._log(scalars(row["metrics"], "test"), row["metrics"].get("selected_epoch", 0))
        self._client.set_tag(self._id, "mmzoo.status", f"{row['status']} {row['reason']}".strip())
        self._client.set_terminated(self._id, "FINISHED" if row["status"] == "ok" else "FAILED")

    def _log(self, values: Iterable[tuple[str, float]], epoch: int) -> None:
        metrics = [Metric(_name(name), value, 0, epoch) for name, value in values]
        for first in range(0, len(metrics), 1000):  # more at once are refused
            self._client.log_batch(self._id, metrics=metrics[first : first + 1000])


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment of this name, which another worker may make at the same time."""
    if (there := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            if (there := client.get_experiment_by_name(name)) is None:
                raise
    return str(there.experiment_id)


def _name(text: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", text)
