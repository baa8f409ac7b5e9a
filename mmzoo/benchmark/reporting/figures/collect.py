"""What the charts of a report show: records made from rows, histories and kept predictions. Needs numpy when called."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.groups import Group, Row, alone_of, at, main_metric, main_score
from mmzoo.benchmark.reporting.overview import Overview, passes
from mmzoo.benchmark.reporting.statistics import spread
from mmzoo.benchmark.results.comparable import is_floor
from mmzoo.benchmark.results.predictions import Kept, note, read_predictions
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile
from mmzoo.io.files import read_bytes

Record = dict[str, Any]
BINS = 10
#: confusion matrices larger than this are not drawn
MOST_CLASSES = 60


def joint_of(groups: Sequence[Group]) -> list[Group]:
    return [g for g in groups if not g.alone and g.by_seed(main_score)]


def seed_scores(groups: Sequence[Group]) -> list[Record]:
    """method, seed, score in %: joint methods and unimodal baselines."""
    return [
        {"method": g.label, "seed": seed, "score": round(100 * score, 3)}
        for g in groups
        for seed, score in g.by_seed(main_score).items()
    ]


def branch_scores(groups: Sequence[Group]) -> list[Record]:
    """method, modality, measure (branch, probe, unimodal), score: means over seeds in %."""
    metric, found = main_metric(groups), []
    for group in joint_of(groups):
        for m in group.rows[0]["spec"]["encoders"]:
            alone = alone_of(m, group, groups)
            own = at("metrics", "modalities", m, "own", metric)
            measured = {
                "branch": group.spread(own),
                "probe": group.spread(at("metrics", "modalities", m, "probe", metric)),
                "unimodal": alone.spread(own) if alone else spread([]),
            }
            found += [
                {"method": group.label, "modality": m, "measure": k, "score": round(100 * s.mean, 2)}
                for k, s in measured.items()
                if s.n
            ]
    return found


def histories(groups: Sequence[Group], store: Store) -> dict[str, list[list[Mapping[str, Any]]]]:
    """method -> the history of each seed; runs without one are left out."""
    return {g.label: [h for r in g.rows if r["status"] == "ok" and (h := _history(r, store))] for g in joint_of(groups)}


def _history(row: Row, store: Store) -> list[Mapping[str, Any]]:
    path = store.folder(row["run_id"]) / "history.jsonl"
    try:
        return [json.loads(line) for line in read_bytes(path).decode("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return []  # a chart less, not a report less


def learning_curves(found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], metric: str) -> list[Record]:
    """method, output (joint or a modality), epoch, mean, low, high over seeds, in %."""
    records = []
    for method, seeds in found.items():
        values: dict[tuple[str, int], list[float]] = {}
        for history in seeds:
            for record in history:
                scored = record.get("holdout", {})
                each = {"joint": scored, **scored.get("unimodal", {})}
                for output, scores in each.items():
                    if math.isfinite(score := scores.get(metric, math.nan)):
                        values.setdefault((output, record["epoch"]), []).append(100 * score)
        records += [
            {"method": method, "output": output, "epoch": epoch, **_band(scores)}
            for (output, epoch), scores in values.items()
        ]
    return records


def logged_values(found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> list[Record]:
    """name, method, epoch, mean over seeds of everything logged in training, losses last."""
    values: dict[tuple[str, str, int], list[float]] = {}
    for method, seeds in found.items():
        for history in seeds:
            for record in history:
                for name, value in record["train"].items():
                    if isinstance(value, (int, float)) and math.isfinite(value):
                        values.setdefault((name, method, record["epoch"]), []).append(value)
    ordered = sorted(values, key=lambda key: (key[0].startswith("loss/"), key))
    return [
        {"name": name, "method": method, "epoch": epoch, "mean": _short(statistics.fmean(values[name, method, epoch]))}
        for name, method, epoch in ordered
    ]


def _band(scores: Sequence[float]) -> Record:
    return {"mean": round(statistics.fmean(scores), 2), "low": round(min(scores), 2), "high": round(max(scores), 2)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def gaps(groups: Sequence[Group]) -> list[Record]:
    """method, seed, gap between branches in points, score in %."""
    found = []
    for group in joint_of(groups):
        gap = group.by_seed(at("metrics", "gap", "own"))
        for seed, score in group.by_seed(main_score).items():
            if math.isfinite(gap[seed]):
                row = {"method": group.label, "seed": seed}
                found.append({**row, "gap": round(100 * gap[seed], 2), "score": round(100 * score, 2)})
    return found


def costs(groups: Sequence[Group]) -> list[Record]:
    """method, cost against plain training, mean score in %, whether no other method is both cheaper and better."""
    joint = joint_of(groups)
    plain = next((g for g in joint if g.label == "concat"), None) or next(iter(joint), None)
    if plain is None:
        return []
    base = plain.spread(passes).mean
    found: list[Record] = [
        {
            "method": g.label,
            "cost": round(g.spread(passes).mean / base, 3),
            "score": round(100 * g.spread(main_score).mean, 2),
        }
        for g in joint
    ]
    for record in found:
        record["front"] = not any(
            other["cost"] <= record["cost"] and other["score"] >= record["score"] and other != record for other in found
        )
    return found


def predicted(groups: Sequence[Group], store: Store, faults: list[CorruptFile] | None = None) -> dict[str, list[Kept]]:
    """Label of each joint method -> the test predictions of its runs; those that cannot be used are left out. faults: takes an
    error for each file that is there and cannot be used."""
    found = {}
    for group in joint_of(groups):
        kept = []
        for row in group.rows:
            if row["status"] == "ok":
                try:  # a chart less, not a report less
                    kept.append(read_predictions(row, store))
                except CorruptFile as error:
                    note(error, row, store, faults)
        if kept and len({each.scores.shape[1] for each in kept}) == 1:
            found[group.label] = kept
    return found


def class_records(predictions: Mapping[str, Sequence[Kept]]) -> tuple[list[Record], Record]:
    """Confusion matrices of each method, summed over seeds, and what `charts.confusion` needs beside them."""
    import numpy as np

    records: list[Record] = []
    classes: list[str] = []
    for label, kept in predictions.items():
        n = kept[0].scores.shape[1]
        if n > MOST_CLASSES:
            return [], {}
        classes = list(kept[0].classes)
        counts = sum((each.confusion() for each in kept), np.zeros((n, n), dtype=int))
        total = counts.sum(1)
        for i, j in zip(*counts.nonzero(), strict=True):
            share = round(100 * counts[i, j] / total[i], 1)
            pair = {"true": classes[i], "predicted": classes[j]}
            records.append({"method": label, **pair, "count": int(counts[i, j]), "share": share})
    return records, {"classes": classes, "methods": list(dict.fromkeys(r["method"] for r in records))}


def reliability(predictions: Mapping[str, Sequence[Kept]]) -> tuple[list[Record], dict[str, float]]:
    """Accuracy and mean confidence in BINS bins of equal width for each method; and its expected calibration error.

    ECE = sum over bins of (share of the samples) |accuracy - confidence| (Guo et al., ICML 2017, eq. 3), in %, all seeds
    together. Methods whose scores are no probabilities are left out.
    """
    import numpy as np

    records: list[Record] = []
    errors: dict[str, float] = {}
    for label, kept in predictions.items():
        right = np.concatenate([each.right for each in kept])
        every = np.concatenate([each.scores.astype(float) for each in kept])
        if (every < -1e-6).any() or not np.allclose(every.sum(1), 1, atol=1e-3):
            continue
        confidence = every.max(1)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        error = 0.0
        for b in range(BINS):
            inside = bins == b
            if n := int(inside.sum()):
                accuracy, mean = float(right[inside].mean()), float(confidence[inside].mean())
                error += n / len(bins) * abs(accuracy - mean)
                point = {"confidence": round(100 * mean, 2), "accuracy": round(100 * accuracy, 2), "samples": n}
                records.append({"method": label, **point})
        errors[label] = 100 * error
    return records, errors


def rank_records(overview: Overview) -> tuple[list[Record], list[Record]]:
    """The methods by mean rank, and a bar for each largest set of them that is not told apart."""
    ranked = sorted((line.rank, line.label) for line in overview.joint if line.rank is not None)
    points = [{"method": label, "rank": round(rank, 3), "row": i + 1} for i, (rank, label) in enumerate(ranked)]
    bars: list[Record] = []
    end = -1
    for i, (rank, label) in enumerate(ranked):
        last = max(j for j, (other, _) in enumerate(ranked) if other - rank < (overview.critical or 0.0))
        if last > max(i, end):
            bars.append({"method": label, "low": rank, "high": ranked[last][0]})
            end = last
    return points, bars


# ---------------------------------------------------------------------------------------------- what was held equal
_SELECTED = {"holdout": "best epoch on the validation set", "last": "last epoch, without a validation set"}


def held_equal(rows: Sequence[Row]) -> list[Record]:
    """For each data set what all of its runs share and what they do not: name, value or number of values, equal."""
    ok = [r for r in rows if r["status"] == "ok" and not is_floor(r)]
    facts: Mapping[str, Callable[[Row], str]] = {
        "test split": lambda r: r["hashes"]["split"],
        "data recipe": lambda r: r["hashes"]["recipe"],
        "epochs": lambda r: str(r["spec"]["training"]["epochs"]),
        "selection": lambda r: _SELECTED[r["spec"].get("selection", "holdout")],
        "optimizer": lambda r: r["spec"]["training"]["optimizer"],
        "learning rate": lambda r: f"{r['spec']['training']['lr']:g}",
        "batch size": lambda r: str(r["spec"]["training"]["batch_size"]),
        "training samples": lambda r: str(r["cost"]["train_items"]),
        "threads": lambda r: str(r["environment"].get("threads", "-")),
    }
    found = []
    for name in dict.fromkeys(r["dataset"] for r in ok):
        here = [r for r in ok if r["dataset"] == name]
        joint = [r for r in here if r["modality"] is None]
        for fact, get in facts.items():
            values = list(dict.fromkeys(get(r) for r in here))
            found.append({"dataset": name, "fact": fact, "values": values, "equal": len(values) == 1})
        for fact in ("initial_weights", "batch_order"):
            per_seed: dict[int, set[str]] = {}
            for r in joint:
                per_seed.setdefault(r["seed"], set()).add(r["hashes"].get(fact))
            equal = all(len(values) == 1 for values in per_seed.values())
            shown = "the same for all joint methods of a seed" if equal else "differs between methods of a seed"
            found.append({"dataset": name, "fact": fact.replace("_", " "), "values": [shown], "equal": equal})
    return found


def environments(rows: Sequence[Row]) -> list[str]:
    """Each environment that runs were made in, once."""
    shown = (", ".join(f"{k} {v}" for k, v in sorted(r["environment"].items())) for r in rows if r.get("environment"))
    return list(dict.fromkeys(shown))
