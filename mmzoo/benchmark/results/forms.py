"""What the files of a results folder hold, and what is wrong with one that was read. No torch at import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmzoo.config.spec import digest, hashed
from mmzoo.io.schema import (
    FLAG,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
    WHOLE,
    Form,
    Kind,
    each,
    items,
    misfit,
    number,
    optional,
    or_null,
    whole,
)

SCHEMA = 1
#: ok: scored. diverged, refused: final as well, with a reason; what one version of mmzoo has refused another may take, and is
#: asked again. failed: run again by the next bench.
STATUSES = ("ok", "diverged", "refused", "failed")
FINAL = ("ok", "diverged", "refused")
#: how modalities are taken away, as keys of a row; see mmzoo.evaluation.scores
ABLATIONS = ("zero_feature", "zero_input", "mean_feature")
ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")

_RUN_ID = Kind(
    "the id of a run (letters and digits)", lambda value: isinstance(value, str) and bool(ID.fullmatch(value))
)
#: what a score, a difference of scores, and a loss, cost or time can be at all (a loss is a number of float32)
_SHARE, _DIFFERENCE, _AMOUNT = number(0, 1), number(-1, 1), number(0, 1e39)
_SCORES: dict[str, Form] = {"acc": _SHARE, "macro_f1": _SHARE, "map": _SHARE, "loss": _AMOUNT}
_ROW: Form = {
    "schema": WHOLE,
    "run_id": TEXT,
    "config_id": TEXT,
    "dataset": TEXT,
    "method": TEXT,
    "label": TEXT,
    "modality": or_null(TEXT),
    "seed": WHOLE,
    "status": TEXT,
    "reason": TEXT,
    "metrics": OBJECT,
    "cost": OBJECT,
    "timing": {"seconds": _AMOUNT},
    "environment": OBJECT,
    "warnings": optional(each(WHOLE)),
    "still_improving": optional(TEXTS),
    "bayes": optional(_SHARE),
    "processes": optional(WHOLE),
    "per_process": optional(TEXTS),
    "micro_batch": optional(or_null(whole(1))),
    "teachers": optional(OBJECT),
    "tuning": optional(
        {
            "trials": WHOLE,
            "seconds": NUMBER,
            "forward": NUMBER,
            "backward": NUMBER,
            "chosen": each(NUMBER),
            "holdout": optional({"first": NUMBER, "best": NUMBER}),
        },
    ),
    "spec": {
        "modalities": or_null(LIST),
        "parts": items({"strategy": TEXT, "params": OBJECT}),
        "head": TEXT,
        "head_params": OBJECT,
        "data_params": OBJECT,
        "encoders": OBJECT,
        "training": {"optimizer": TEXT, "lr": NUMBER, "epochs": WHOLE, "batch_size": WHOLE},
        "floor": optional(OBJECT),
    },
}
#: of one modality alone; `word` says how it was measured, and rows of earlier versions lack it
_ALONE: Form = {**_SCORES, "word": optional(TEXT)}
_SHARES: Form = each({"value": NUMBER, "word": TEXT})
_MODALITY: Form = {
    "own": _ALONE,
    "probe": _ALONE,
    **{key: optional({**_SCORES, "word": TEXT}) for key in ABLATIONS},
    "shapley": optional(_SHARES),
    "utilisation": optional(_SHARES),
}
#: the numbers of a run that was scored
_SCORED: Form = {
    "metrics": {
        **_SCORES,
        "last": _SCORES,
        "main_metric": TEXT,
        "modalities": each(_MODALITY),
        "own_logits": TEXT,
        "gap": {"own": _AMOUNT, "probe": _AMOUNT},
        "n_scored": whole(1),
        "n_total": optional(whole(1)),
        "n_seen": optional(whole(0)),
        "n_test_classes": optional(whole(0)),
        "selected_epoch": optional(whole(-1)),  # -1: nothing was trained
        "epochs": optional(whole(0)),
        "peers": optional({**_SCORES, "selected_epoch": WHOLE, "flatters": _DIFFERENCE}),
        "shapley": optional(each({"none": NUMBER, "all": NUMBER, "imbalance": NUMBER, "word": TEXT})),
        "undefined": optional(each(TEXT)),
    },
    "cost": {
        "forward": _AMOUNT,
        "backward": _AMOUNT,
        "train_items": _AMOUNT,
        "parameters": optional(or_null(whole(0))),
        "flops": optional(or_null(_AMOUNT)),
        "teachers": optional(OBJECT),
        "groups": optional(each({"parameters": whole(0), "flops": whole(0)})),
    },
    "hashes": {
        "split": TEXT,
        "recipe": TEXT,
        **{
            key: optional(TEXT)
            for key in ("batch_order", "initial_weights", "weights", "predictions", "inputs", "strategy")
        },
    },
}
#: the numbers of a linear floor, which no network has
_FLOOR: Form = {
    "metrics": {**_SCORES, "holdout": _SCORES, "main_metric": TEXT, "n_scored": WHOLE},
    "cost": {"train_items": NUMBER},
    "floor": {"strength": NUMBER, "width": WHOLE, "features": each(TEXT)},
}
_PLANNED: Form = {
    "spec": OBJECT,
    "dataset": TEXT,
    "method": TEXT,
    "role": TEXT,
    "modality": or_null(TEXT),
    "title": optional(TEXT),
    "teachers": items(_RUN_ID),
    "keep": FLAG,
    "peers": FLAG,
    "track": TEXTS,
}
_RECORD: Form = {"label": TEXT, "dataset": TEXT, "space": OBJECT, "seed": WHOLE, "trials": LIST}


def row_fault(row: Any, run_id: str) -> str | None:
    """What is wrong with a result.json in the folder of a run; None for a row that can be used."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if "schema" in row and row["schema"] != SCHEMA:
        return f"schema {row['schema']!r}, while this version reads {SCHEMA}"
    if fault := misfit(row, _ROW):
        return fault
    if row["run_id"] != run_id:
        return f"it says run_id {row['run_id']!r}, but is in the folder of {run_id}"
    if hashed(row["spec"]) != run_id or row["spec"].get("seed") != row["seed"]:
        return "its spec is not that of the run: it was changed after it was written"
    if row["status"] not in STATUSES:
        return f"status {row['status']!r} is none of {', '.join(STATUSES)}"
    if row.get("per_process") and "processes" not in row:
        return "per_process is there without processes"
    return _scores_fault(row) if row["status"] == "ok" else None


def _scores_fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of a run that was scored."""
    if fault := misfit(row, _FLOOR if row["spec"].get("floor") else _SCORED):
        return fault
    metrics = row["metrics"]
    if metrics["main_metric"] not in _SCORES:
        return f"metrics.main_metric {metrics['main_metric']!r} is none of {', '.join(_SCORES)}"
    if not max(1, metrics.get("n_seen", 1)) <= metrics["n_scored"] == metrics.get("n_total", metrics["n_scored"]):
        return f"metrics.n_scored is {metrics['n_scored']} of {metrics.get('n_total', '?')} test samples"
    return None


def planned_fault(found: Any, run_id: str) -> str | None:
    """What is wrong with a planned.json in the folder of a run."""
    if fault := misfit(found, _PLANNED):
        return fault
    return None if digest(found["spec"]) == run_id else "it is of another run"


def record_fault(record: Any) -> str | None:
    """What is wrong with the record of a study of settings."""
    return misfit(record, _RECORD)


#: how tables call a method that is trained without the meta set; and how earlier versions did
WITHOUT_META_SET, _FORMERLY = " (without meta set)", " (slice spared)"


def present_name(method: str) -> str:
    """The name of a method that an earlier version wrote, as it is written now."""
    return method.replace(_FORMERLY, WITHOUT_META_SET)
