"""The charts of a report as Vega-Lite specifications: the page shows them, and `--figures` writes them as PDF and SVG.

Each function takes records that `collect` makes and returns a specification, or None where there is nothing to draw.
Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ in dash as well, so that a
greyscale print is readable. No numpy or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.overview import Overview

Spec = dict[str, Any]
Records = Sequence[Mapping[str, Any]]
#: the methods of a chart in their order, each with the number of its colour and dash in the whole report
Methods = Mapping[str, int]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#8C6D31", "#7B4FB5", "#6BAF45")
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [1, 2], [10, 3], [3, 1], [6, 2, 1, 2], [12, 2])
#: the width of a column of a two-column page, in points
COLUMN = 240
MEASURES = ("branch", "probe", "unimodal")

CONFIG: Spec = {
    "font": "Helvetica, Arial, sans-serif",
    "axis": {
        "labelFontSize": 9,
        "titleFontSize": 10,
        "titleFontWeight": "normal",
        "gridOpacity": 0.4,
        "labelLimit": 240,
    },
    "legend": {
        "labelFontSize": 9,
        "titleFontSize": 10,
        "titleFontWeight": "normal",
        "labelLimit": 240,
        "symbolLimit": 60,
    },
    "header": {"labelFontSize": 10, "titleFontSize": 10},
    "title": {"fontSize": 11, "anchor": "start", "fontWeight": "bold"},
    "view": {"strokeOpacity": 0.2},
    "range": {"category": list(COLOURS)},
}


def palette(overview: Overview) -> dict[str, int]:
    """The number of each method's colour: joint methods first, in the order of the benchmark."""
    ordered = sorted(overview.lines, key=lambda line: line.unimodal)
    return {line.label: i for i, line in enumerate(ordered)}


def chart(title: str, description: str, values: Records, body: Spec) -> Spec:
    """A whole specification. description: what a reader who cannot see the chart is told."""
    return {
        "$schema": SCHEMA,
        "title": title,
        "description": description,
        "data": {"values": [dict(v) for v in values]},
        **body,
    }


def colour(methods: Methods, **legend: Any) -> Spec:
    """The encoding of methods by colour; the same method has the same colour in every chart of a report."""
    scale = {"domain": list(methods), "range": [COLOURS[i % len(COLOURS)] for i in methods.values()]}
    return {"field": "method", "type": "nominal", "scale": scale, "title": "method", **legend}


def dash(methods: Methods) -> Spec:
    """The encoding of methods by dash; beyond the number of colours a colour comes again with another dash."""
    numbers = [(i + i // len(COLOURS)) % len(DASHES) for i in methods.values()]
    scale = {"domain": list(methods), "range": [DASHES[i] for i in numbers]}
    return {"field": "method", "type": "nominal", "scale": scale, "title": "method"}


def below(n: int) -> Spec:
    """A legend below a wide chart."""
    return {"legend": {"orient": "bottom", "columns": min(n, 3)}}


def scores(values: Records, methods: Methods, metric: str) -> Spec | None:
    """Each seed as a dot, the mean as a tick. values: method, seed, score in %."""
    if not values:
        return None
    y = {"field": "method", "type": "nominal", "sort": list(methods), "title": None}
    x = {"field": "score", "type": "quantitative", "title": f"test {metric} (%)", "scale": {"zero": False}}
    tooltip = [{"field": k, "type": "nominal"} for k in ("method", "seed")] + [
        {"field": "score", "type": "quantitative", "format": ".1f"}
    ]
    layers = [
        {
            "mark": {"type": "circle", "size": 40, "opacity": 0.75},
            "encoding": {"x": x, "y": y, "color": colour(methods, legend=None), "tooltip": tooltip},
        },
        {
            "mark": {"type": "tick", "thickness": 2, "size": 14},
            "encoding": {"x": {**x, "aggregate": "mean"}, "y": y},
        },
    ]
    text = f"Test {metric} of each seed by method, with the mean over seeds."
    return chart(
        f"Test {metric}, one dot per seed", text, values, {"width": COLUMN, "height": {"step": 16}, "layer": layers}
    )


def branches(values: Records, methods: Methods, metric: str) -> Spec | None:
    """Each branch inside the joint model, its probe, and its unimodal baseline. values: method, modality, measure, score."""
    if not values:
        return None
    scale = {"domain": list(MEASURES), "range": ["#0072B2", "#56B4E9", "#E69F00"]}
    body = {
        "facet": {"row": {"field": "modality", "type": "nominal", "title": None, "header": {"labelAngle": 0}}},
        "spec": {
            "width": COLUMN,
            "height": {"step": 7, "for": "offset"},
            "mark": {"type": "bar", "stroke": "#333", "strokeWidth": 0.3},
            "encoding": {
                "y": {"field": "method", "type": "nominal", "sort": list(methods), "title": None},
                "yOffset": {"field": "measure", "type": "nominal", "sort": list(MEASURES)},
                "x": {"field": "score", "type": "quantitative", "title": f"test {metric} (%)"},
                "color": {"field": "measure", "type": "nominal", "scale": scale, "title": None},
                "tooltip": [
                    *({"field": k, "type": "nominal"} for k in ("method", "modality", "measure")),
                    {"field": "score", "type": "quantitative", "format": ".1f"},
                ],
            },
        },
    }
    text = f"Test {metric} of each branch inside the joint model, of a linear probe of its encoder, and of the unimodal baseline."
    return chart("Branches inside the joint model, and unimodal models", text, values, body)


def curves(values: Records, methods: Methods, metric: str) -> Spec | None:
    """Validation scores by epoch, mean and range over seeds. values: method, output, epoch, mean, low, high in %."""
    if not values:
        return None
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1}}
    y = {"field": "mean", "type": "quantitative", "title": f"validation {metric} (%)", "scale": {"zero": False}}
    outputs = ["joint", *sorted({v["output"] for v in values} - {"joint"})]
    band = {
        "mark": {"type": "area", "opacity": 0.15},
        "encoding": {
            "x": x,
            "y": {**y, "field": "low"},
            "y2": {"field": "high"},
            "color": colour(methods, **below(len(methods))),
        },
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 1.4},
        "encoding": {
            "x": x,
            "y": y,
            "color": colour(methods, **below(len(methods))),
            "strokeDash": dash(methods) | below(len(methods)),
        },
    }
    body = {
        "facet": {"field": "output", "type": "nominal", "title": None, "sort": outputs},
        "columns": 2,
        "spec": {"width": COLUMN, "height": 150, "layer": [band, line]},
    }
    text = f"Validation {metric} of the joint output and of each branch by epoch; the band is the range over seeds."
    return chart("Learning curves", text, values, body)


def logged(values: Records, methods: Methods, names: Sequence[str], *, choose: bool = True) -> Spec | None:
    """What a method logs by epoch, such as alpha. values: name, method, epoch, mean. choose: with a list to choose from."""
    if not values:
        return None
    methods = {m: i for m, i in methods.items() if any(v["method"] == m for v in values)}
    body: Spec = {
        "width": 1.5 * COLUMN,
        "height": 170,
        "mark": {"type": "line", "point": {"size": 12}},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1}},
            "y": {"field": "mean", "type": "quantitative", "title": "logged value", "scale": {"zero": False}},
            "color": colour(methods, **below(len(methods))),
            "strokeDash": dash(methods) | below(len(methods)),
            "tooltip": [{"field": k, "type": "nominal"} for k in ("name", "method", "epoch", "mean")],
        },
    }
    if choose:
        select = {"input": "select", "options": list(names), "name": "logged value "}
        body["params"] = [{"name": "shown", "value": names[0], "bind": select}]
        body["transform"] = [{"filter": "datum.name === shown"}]
    text = "The mean over seeds of a value that the method logs, by epoch: " + ", ".join(names)
    return chart("Logged values", text, values, body)


def gap(values: Records, methods: Methods, metric: str) -> Spec | None:
    """The gap between branches against the score. values: method, seed, gap, score in %."""
    if not values:
        return None
    body = {
        "width": COLUMN,
        "height": 170,
        "mark": {"type": "point", "filled": True, "size": 50, "opacity": 0.8},
        "encoding": {
            "x": {"field": "gap", "type": "quantitative", "title": "gap between branches (points)"},
            "y": {
                "field": "score",
                "type": "quantitative",
                "title": f"test {metric} (%)",
                "scale": {"zero": False},
            },
            "color": colour(methods),
            "shape": {"field": "method", "type": "nominal", "scale": {"domain": list(methods)}, "title": "method"},
            "tooltip": [{"field": k, "type": "nominal"} for k in ("method", "seed", "gap", "score")],
        },
    }
    text = f"Difference between the best and the worst branch against test {metric}, one point per seed."
    return chart("Gap between branches against the joint score", text, values, body)


def cost(values: Records, methods: Methods, metric: str) -> Spec | None:
    """Cost against score with the Pareto front. values: method, cost, score in %, front."""
    if not values:
        return None
    x = {"field": "cost", "type": "quantitative", "title": "cost, relative to plain training", "scale": {"zero": False}}
    y = {"field": "score", "type": "quantitative", "title": f"test {metric} (%)", "scale": {"zero": False}}
    layers = [
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "line", "interpolate": "step-after", "color": "#888", "strokeDash": [4, 3]},
            "encoding": {"x": x, "y": y, "order": {"field": "cost", "type": "quantitative"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour(methods),
                "shape": {"field": "method", "type": "nominal", "scale": {"domain": list(methods)}, "title": "method"},
                "tooltip": [{"field": k, "type": "nominal"} for k in ("method", "cost", "score")],
            },
        },
    ]
    text = f"Training cost relative to plain training against test {metric}; the dashed line is the Pareto front."
    return chart("Cost against score", text, values, {"width": COLUMN, "height": 170, "layer": layers})


def confusion(values: Records, classes: Sequence[str], methods: Sequence[str]) -> Spec | None:
    """Confusion matrices, summed over seeds. values: method, true, predicted, share of the true class in %, count."""
    if not values:
        return None
    side = max(120, min(420, 14 * len(classes)))
    axis = {"labels": len(classes) <= 40, "labelLimit": 90, "ticks": False}
    select = {"input": "select", "options": list(methods), "name": "method "}
    body = {
        "width": side,
        "height": side,
        "params": [{"name": "confused", "value": methods[0], "bind": select}],
        "transform": [{"filter": "datum.method === confused"}],
        "mark": "rect",
        "encoding": {
            "x": {"field": "predicted", "type": "nominal", "sort": list(classes), "axis": {**axis, "labelAngle": -60}},
            "y": {"field": "true", "type": "nominal", "sort": list(classes), "axis": axis},
            "color": {
                "field": "share",
                "type": "quantitative",
                "title": "% of the true class",
                "scale": {"scheme": "blues", "domain": [0, 100]},
            },
            "tooltip": [{"field": k, "type": "nominal"} for k in ("true", "predicted", "count", "share")],
        },
    }
    return chart("Confusion matrix", "Predicted against true classes on the test set, summed over seeds.", values, body)


def calibration(values: Records, methods: Methods) -> Spec | None:
    """Reliability diagram. values: method, confidence, accuracy in %, samples."""
    if not values:
        return None
    scale = {"domain": [0, 100]}
    line: Records = [{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}]
    x = {"field": "confidence", "type": "quantitative", "title": "confidence (%)", "scale": scale}
    y = {"field": "accuracy", "type": "quantitative", "title": "accuracy (%)", "scale": scale}
    layers = [
        {
            "data": {"values": list(line)},
            "mark": {"type": "line", "color": "#888", "strokeDash": [4, 3], "strokeWidth": 1},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "line", "point": {"size": 16}, "strokeWidth": 1.2},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour(methods),
                "strokeDash": dash(methods),
                "tooltip": [{"field": k, "type": "nominal"} for k in ("method", "confidence", "accuracy", "samples")],
            },
        },
    ]
    text = "Accuracy against confidence in ten bins, all seeds together; the dashed diagonal is perfect calibration."
    return chart("Calibration", text, values, {"width": COLUMN, "height": COLUMN, "layer": layers})


def ranks(values: Records, groups: Records, critical: float, n_datasets: int) -> Spec | None:
    """The critical-difference diagram. values: method, rank, row. groups: low, high, row of methods not told apart."""
    if not values:
        return None
    low, high = 1, max(v["row"] for v in values) + 1
    x = {"field": "rank", "type": "quantitative", "title": "mean rank (1 is best)", "scale": {"domain": [low, high]}}
    sort = [v["method"] for v in values]
    points = {
        "mark": {"type": "point", "filled": True, "size": 60, "color": "#0072B2"},
        "encoding": {"x": x, "y": {"field": "method", "type": "nominal", "sort": sort, "title": None}},
    }
    bars = {
        "data": {"values": [dict(g) for g in groups]},
        "mark": {"type": "rule", "strokeWidth": 3, "color": "#D55E00", "opacity": 0.7},
        "encoding": {
            "x": {**x, "field": "low"},
            "x2": {"field": "high"},
            "y": {"field": "method", "type": "nominal", "sort": sort},
        },
    }
    title = f"Mean ranks over {n_datasets} data sets"
    text = (
        f"Mean ranks; methods joined by a bar differ by less than the critical difference of {critical:.2f} "
        "(Nemenyi, 5 %) and are not distinguished."
    )
    layer = [points, *([bars] if groups else [])]
    return chart(title, text, values, {"width": 2 * COLUMN, "height": {"step": 16}, "layer": layer})
