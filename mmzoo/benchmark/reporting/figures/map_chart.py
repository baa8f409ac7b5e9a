"""The phase diagram as a Vega-Lite specification. No numpy or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.figures.charts import COLOURS, Spec, chart
from mmzoo.benchmark.reporting.figures.map_cells import Map, Place

#: diagonal lines over an undecided cell, and the side of a cell in pixels
LINES, SIDE = 4, 46


def phase_diagram(found: Map, palette: Mapping[str, int]) -> Spec:
    """Cells coloured by the winner, opaque by its lead, hatched where the lead is not decided.

    Args:
        found: a grid of one to three knobs: the first is x, the second y, the third a panel each.
        palette: the number of each method's colour in the report.
    """
    values = {knob: sorted({p.knobs[knob] for p in found.places}) for knob in found.knobs}
    axes_of: list[str | None] = [*found.knobs, None, None]
    x, y, panel = axes_of[:3]
    cells = [_cell(p, values, x, y, panel) for p in found.places]
    hatches = [h for cell in cells if not cell["decided"] for h in _hatch(cell)]
    winners = sorted({p.winner for p in found.places}, key=lambda m: palette.get(m, len(palette)))
    colours = [COLOURS[palette.get(m, i) % len(COLOURS)] for i, m in enumerate(winners)]
    if len(set(colours)) < len(winners):  # a report of many methods repeats its colours; a map does not
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(winners))]
    axes = {"x": _axis(x, values), "y": _axis(y, values)}
    layer = _layers(axes, winners, colours)
    size = {"width": SIDE * len(values[found.knobs[0]]), "height": SIDE * (len(values[y]) if y else 1)}
    title = f"{found.name}: the best method by what the modalities share"
    text = (
        "Colour: the method with the highest mean; number and shade: its lead over the second in points; hatched: the 95 % "
        "interval of the lead holds zero."
    )
    if panel is None:
        return chart(title, text, [*cells, *hatches], {**size, "layer": layer})
    facet = {"field": "panel", "type": "nominal", "title": None, "sort": [f"{panel} = {v:g}" for v in values[panel]]}
    body = {"facet": facet, "columns": len(values[panel]), "spec": {**size, "layer": layer}}
    return chart(title, text, [*cells, *hatches], body)


def _layers(axes: Mapping[str, Any], winners: Sequence[str], colours: Sequence[str]) -> list[Spec]:
    """The cells, the hatches over them, and the numbers in them."""
    return [
        {
            "mark": {"type": "rect", "stroke": "white", "strokeWidth": 1.5},
            "encoding": {
                **_spans(axes),
                "color": {
                    "field": "method",
                    "type": "nominal",
                    "title": "winner",
                    "scale": {"domain": winners, "range": colours},
                    "legend": {"orient": "bottom", "columns": 2, "title": None, "labelLimit": 240},
                },
                "opacity": {
                    "field": "lead",
                    "type": "quantitative",
                    "scale": {"domain": [0, 3], "range": [0.3, 1], "clamp": True},
                    "legend": None,
                },
                "tooltip": [{"field": k, "type": "nominal"} for k in ("method", "second", "lead", "score", "decided")],
            },
            "transform": [{"filter": "!datum.hatch"}],
        },
        {
            "mark": {"type": "rule", "color": "white", "strokeWidth": 2},
            "encoding": _spans(axes),
            "transform": [{"filter": "datum.hatch"}],
        },
        {
            "mark": {"type": "text", "fontSize": 10, "fontWeight": "bold"},
            "encoding": {
                "x": {**axes["x"], "field": "middle_x"},
                "y": {**axes["y"], "field": "middle_y"},
                "text": {"field": "text", "type": "nominal"},
            },
            "transform": [{"filter": "!datum.hatch"}],
        },
    ]


def _cell(
    place: Place, values: Mapping[str, Sequence[float]], x: str | None, y: str | None, panel: str | None
) -> dict[str, Any]:
    left = values[x].index(place.knobs[x]) if x else 0
    low = values[y].index(place.knobs[y]) if y else 0
    return {
        "left": left,
        "right": left + 1,
        "low": low,
        "high": low + 1,
        "middle_x": left + 0.5,
        "middle_y": low + 0.5,
        "method": place.winner,
        "second": place.second,
        "lead": round(100 * place.margin, 2),
        "score": round(100 * place.score, 1),
        "decided": place.decided,
        "text": f"+{100 * place.margin:.1f}",
        "hatch": False,
        **({"panel": f"{panel} = {place.knobs[panel]:g}"} if panel else {}),
    }


def _hatch(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parallel lines at 45 degrees from border to border of a cell."""
    found = []
    for i in range(1, 2 * LINES):
        c = i / LINES  # the line u + v = c within the unit square
        u0, u1 = max(0.0, c - 1), min(1.0, c)
        left, low = cell["left"], cell["low"]
        ends = {"left": left + u0, "right": left + u1, "low": low + c - u0, "high": low + c - u1}
        found.append({**cell, **ends, "hatch": True})
    return found


def _spans(axes: Mapping[str, Spec]) -> Spec:
    return {
        "x": {**axes["x"], "field": "left"},
        "x2": {"field": "right"},
        "y": {**axes["y"], "field": "low"},
        "y2": {"field": "high"},
    }


def _axis(knob: str | None, values: Mapping[str, Sequence[float]]) -> Spec:
    """An axis of unit cells, each labelled in its middle with the value of the knob."""
    known = values[knob] if knob else [0.0]
    labels = "[" + ", ".join(f"'{v:g}'" for v in known) + "][floor(datum.value)]"
    axis: Spec = {"values": [i + 0.5 for i in range(len(known))], "labelExpr": labels, "grid": False, "ticks": False}
    if knob is None:
        axis = {"labels": False, "ticks": False, "grid": False}
    return {"type": "quantitative", "title": knob, "scale": {"domain": [0, len(known)], "nice": False}, "axis": axis}
