"""The curves under stress as a Vega-Lite chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmzoo.benchmark.reporting.figures.charts import COLUMN, Methods, Records, Spec, below, chart, colour, dash
from mmzoo.benchmark.reporting.robustness.curves import Stressed

_AXES = {"missing": "share of the samples that lack it (%)", "noise": "strength of the corruption"}
_TITLES = {"missing": "A modality is missing", "noise": "A modality is corrupted"}


def stress_records(lines: Sequence[Stressed], kind: str) -> list[dict[str, Any]]:
    """method, modality, level, mean, low, high over seeds in %; of a corrupted modality the mean over its corruptions."""
    found = []
    for line in lines:
        values: dict[tuple[str, float, int], list[float]] = {}
        for seed, curves in line.curves.items():
            for (stress, modality, _), curve in curves.items():
                if stress == kind:
                    for i, score in enumerate(curve.scores):
                        level = 100 * curve.levels[i] if kind == "missing" else float(i)
                        values.setdefault((modality, level, seed), []).append(100 * score)
        by_level: dict[tuple[str, float], list[float]] = {}
        for (modality, level, _), scores in values.items():
            if math.isfinite(mean := sum(scores) / len(scores)):
                by_level.setdefault((modality, level), []).append(mean)
        for (modality, level), means in by_level.items():
            band = {
                "mean": round(sum(means) / len(means), 2),
                "low": round(min(means), 2),
                "high": round(max(means), 2),
            }
            found.append({"method": line.group.label, "modality": modality, "level": level, **band})
    return found


def stress_chart(values: Records, methods: Methods, metric: str, kind: str) -> Spec | None:
    """Test scores by level, one panel a modality, mean and range over seeds. values: as `stress_records` gives them."""
    if not values:
        return None
    methods = {m: i for m, i in methods.items() if any(v["method"] == m for v in values)}
    x = {"field": "level", "type": "quantitative", "title": _AXES[kind]}
    y = {"field": "mean", "type": "quantitative", "title": f"test {metric} (%)", "scale": {"zero": False}}
    coloured = colour(methods, **below(len(methods)))
    band = {
        "mark": {"type": "area", "opacity": 0.12},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": coloured},
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 1.4, "point": {"size": 14}},
        "encoding": {
            "x": x,
            "y": y,
            "color": coloured,
            "strokeDash": dash(methods) | below(len(methods)),
            "tooltip": [
                {"field": k, "type": "nominal"} for k in ("method", "modality", "level", "mean", "low", "high")
            ],
        },
    }
    body = {
        "facet": {"field": "modality", "type": "nominal", "title": None},
        "columns": 2,
        "spec": {"width": COLUMN, "height": 150, "layer": [band, line]},
    }
    text = f"Test {metric} by {_AXES[kind]}, one panel a modality; the band is the range over seeds."
    return chart(_TITLES[kind], text, values, body)
