"""The figures of the paper, from our runs. Needs numpy, and torch for Figures 2 and 4, when drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.paper.cells import Found, name, value
from mmzoo.benchmark.paper.documents import Document
from mmzoo.benchmark.paper.runs import Budget, run_suite
from mmzoo.benchmark.reporting.figures import charts
from mmzoo.benchmark.reporting.figures.drawing import FORMS, convert
from mmzoo.benchmark.results.paper_figures import paper_folder
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue
from mmzoo.io.files import read_bytes, write_bytes
from mmzoo.registry import Catalogue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = dict[str, Any]
LABELS = {1.0: "one-hot", 0.7: "0.7 one-hot + 0.3 uniform", 0.0: "uniform"}
#: labels of the methods of the figures, as the paper calls them
CALLED = {"concat": "Concat", "gblend": "G-Blend", "mla": "MLA", "dynamic_gap_lb": "Ours"}
#: test samples of a panel of Figure 2
MOST_SAMPLES = 300


def figure_document(figure: str, catalogue: Catalogue, budget: Budget) -> Document:
    """Figure 1, 2, 3 or 4, as SVG in the document and as PDF and SVG beside it."""
    if figure == "fig4":
        from mmzoo.benchmark.paper.heat import heat_document

        return heat_document(catalogue, budget)
    found = run_suite(figure, catalogue, budget)
    draw = {"fig1": label_figure, "fig2": feature_figure, "fig3": alpha_figure}[figure]
    title, notes = f"Figure {figure[-1]}", [m for d, f in found.items() for m in _marks(d, f)]
    records, specs = draw(found, Store(budget.out))
    pictures = {}
    for number, (caption, spec) in enumerate(specs.items()):
        drawn = {form: convert(spec, form) for form in FORMS}
        pictures[caption] = drawn["svg"].decode()
        stem = figure if number == 0 else f"{figure}-{number}"
        for form, data in drawn.items():
            _write(budget, f"{stem}.{form}", data)
    return Document(figure, title, records=records, pictures=pictures, notes=notes)


def _write(budget: Budget, file: str, data: bytes) -> None:
    try:
        write_bytes(paper_folder(budget.out) / file, data)
    except OSError as error:
        raise BadValue(
            f"figures cannot be written to {paper_folder(budget.out)}: {error}. Name another folder."
        ) from None


def _marks(dataset: str, found: Found) -> list[str]:
    said = [f"{dataset}: {method} was not run: {reason}" for method, reason in found.refused.items()]
    if found.synthetic:
        said.append(f"{dataset} is not prepared here: a synthetic set replaces it (* in a legend).")
    if found.fast:
        said.append("(fast): one seed and a few epochs.")
    return said


def _ok(found: Found) -> list[Mapping[str, Any]]:
    return [row for row in found.rows if row["status"] == "ok"]


# ---------------------------------------------------------------------------------------------- Figure 1
def label_figure(found: Mapping[str, Found], store: Store) -> tuple[list[Record], dict[str, charts.Spec]]:
    """Accuracy of joint and each branch under one-hot, mixed and uniform labels."""
    records, specs = [], {}
    for dataset, each in found.items():
        mine: list[Record] = []
        for row in _ok(each):
            share = float(row["spec"]["parts"][0]["params"]["one_hot"])
            for output in ("joint", *row["metrics"]["modalities"]):
                score = 100 * value(row, "acc" if output == "joint" else f"acc {output}", "")
                record = {"dataset": dataset, "labels": LABELS.get(share, f"{share:g}"), "seed": row["seed"]}
                mine.append({**record, "output": output, "score": round(score, 3)})
        records += mine
        outputs = list(dict.fromkeys(r["output"] for r in mine))
        x: dict[str, Any] = {
            "field": "labels",
            "type": "nominal",
            "sort": list(LABELS.values()),
            "title": "labels that are fitted",
        }
        colours = {"domain": outputs, "range": ["#222222", "#0072B2", "#E69F00", "#009E73"][: len(outputs)]}
        body = {
            "width": 300,
            "height": 150,
            "mark": {"type": "bar", "stroke": "#222", "strokeWidth": 0.5},
            "encoding": {
                "x": {**x, "axis": {"labelAngle": 0, "labelLimit": 90, "labelExpr": "split(datum.label, ' + ')"}},
                "xOffset": {"field": "output", "sort": outputs},
                "y": {"field": "score", "aggregate": "mean", "type": "quantitative", "title": "test ACC (%)"},
                "color": {"field": "output", "type": "nominal", "scale": colours, "sort": outputs, "title": None},
            },
        }
        title = name(dataset, each)
        specs[title] = charts.chart(
            title, "Accuracy of the joint answer and of each branch, by what labels are fitted.", mine, body
        )
    return records, specs


# ---------------------------------------------------------------------------------------------- Figure 3
def alpha_figure(found: Mapping[str, Found], store: Store) -> tuple[list[Record], dict[str, charts.Spec]]:
    """Alpha over epoch / epochs on every data set, with 1 - exp(-1/t) beside it."""
    records: list[Record] = []
    epochs = 2
    for dataset, each in found.items():
        values: dict[int, list[float]] = {}
        for row in _ok(each):
            for record in _history(store, row["run_id"]):
                values.setdefault(record["epoch"] + 1, []).append(record["train"]["dynamic_gap/alpha"])
            epochs = max(epochs, row["spec"]["training"]["epochs"])
        n = max(values, default=1)
        records += [
            {
                "curve": f"{dataset}{'*' if each.synthetic else ''}",
                "progress": round(t / n, 5),
                "alpha": round(sum(v) / len(v), 6),
            }
            for t, v in sorted(values.items())
        ]
    heuristic = "1 - exp(-1/t)"
    records += [
        {"curve": heuristic, "progress": round(t / epochs, 5), "alpha": round(1 - math.exp(-1 / t), 6)}
        for t in range(1, epochs + 1)
    ]
    order = list(dict.fromkeys(r["curve"] for r in records))
    colours = {c: i for i, c in enumerate(order)}
    colour, dash = charts.colour(colours), charts.dash(colours)
    body = {
        "width": 300,
        "height": 160,
        "mark": {"type": "line", "point": {"size": 14}},
        "encoding": {
            "x": {"field": "progress", "type": "quantitative", "title": "epoch / epochs", "scale": {"domain": [0, 1]}},
            "y": {
                "field": "alpha",
                "type": "quantitative",
                "title": "alpha (share of matching)",
                "scale": {"domain": [0, 1]},
            },
            "color": {**colour, "field": "curve", "title": None},
            "strokeDash": {**dash, "field": "curve", "title": None},
        },
    }
    title = "alpha as it is learned, and the heuristic"
    return records, {title: charts.chart(title, "Alpha over the share of epochs, a line a data set.", records, body)}


def _history(store: Store, run_id: str) -> list[Mapping[str, Any]]:
    try:
        text = read_bytes(store.folder(run_id) / "history.jsonl").decode()
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.strip()]


# ---------------------------------------------------------------------------------------------- Figure 2
def feature_figure(found: Mapping[str, Found], store: Store) -> tuple[list[Record], dict[str, charts.Spec]]:
    """Features of two modalities in the plane, one projection for all panels, with accuracy and modality gap of each."""
    records, specs = [], {}
    for dataset, each in found.items():
        panels = {row["method"]: _features(store, row) for row in _ok(each)}
        order = [m for m in CALLED if m in panels]
        shown = {m: f"{CALLED[m]}: ACC {panels[m][1]:.1f} %, gap {panels[m][2]:.2f}" for m in order}
        for way, points in projections([panels[m][0] for m in order]).items():
            mine = [
                {
                    "dataset": dataset,
                    "projection": way,
                    "panel": shown[m],
                    "modality": u,
                    "x": round(float(x), 4),
                    "y": round(float(y), 4),
                }
                for m, panel in zip(order, points)
                for u, plane in panel.items()
                for x, y in plane
            ]
            records += mine
            title = f"{name(dataset, each)}: features by {way}"
            specs[title] = charts.chart(
                title, "Features of two modalities in the plane, a panel a method.", mine, _panels(list(shown.values()))
            )
    return records, specs


def _panels(order: Sequence[str]) -> charts.Spec:
    axis = {"type": "quantitative", "axis": {"labels": False, "ticks": False}}
    return {
        "facet": {
            "field": "panel",
            "type": "nominal",
            "title": None,
            "sort": list(order),
            "header": {"labelFontSize": 8, "labelLimit": 130},
        },
        "columns": 2,
        "spec": {
            "width": 130,
            "height": 110,
            "mark": {"type": "point", "size": 14, "opacity": 0.6, "filled": False, "strokeWidth": 0.8},
            "encoding": {
                "x": {"field": "x", "title": "first direction", **axis},
                "y": {"field": "y", "title": "second direction", **axis},
                "color": {
                    "field": "modality",
                    "type": "nominal",
                    "scale": {"range": ["#0072B2", "#E69F00", "#009E73"]},
                    "title": None,
                },
                "shape": {
                    "field": "modality",
                    "type": "nominal",
                    "scale": {"range": ["circle", "cross", "triangle-up"]},
                    "title": None,
                },
            },
        },
    }


def _features(store: Store, row: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float64]], float, float]:
    """Unit features of test samples by modality, ACC in %, and the modality gap over all of the test set."""
    import torch

    from mmzoo.benchmark.trained import load_run
    from mmzoo.evaluation.metrics import modality_gap

    trained = load_run(store.folder(row["run_id"]))
    loader = trained.data().loader("test", batch_size=64)
    found: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in loader.batches():
            for m, z in trained.model.encode(batch.inputs, present=batch.present).items():
                found.setdefault(m, []).append(z.double())
    whole = {m: torch.cat(parts) for m, parts in found.items()}
    first, second, *_ = whole.values()
    if first.shape[1] != second.shape[1]:
        raise BadValue(
            "the features of the two modalities have different widths: they have no plane and no gap in common."
        )
    unit = {m: torch.nn.functional.normalize(z, dim=1)[:MOST_SAMPLES].numpy() for m, z in whole.items()}
    return unit, 100 * row["metrics"]["acc"], modality_gap(first, second)


def projections(panels: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, list[dict[str, NDArray[np.float64]]]]:
    """way -> panel -> modality -> (N, 2). Each way sees the features of all panels at once: PCA, t-SNE, and UMAP where that is
    installed."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    stacked = np.concatenate([z for panel in panels for z in panel.values()])
    ways: dict[str, Any] = {"PCA": PCA(2, svd_solver="full")}
    perplexity = min(30.0, (len(stacked) - 1) / 3)
    ways["t-SNE"] = TSNE(2, random_state=0, init="pca", perplexity=perplexity)
    try:
        import umap
    except ImportError:
        pass
    else:
        ways["UMAP"] = umap.UMAP(n_components=2, random_state=0)
    found = {}
    for way, projection in ways.items():
        plane = projection.fit_transform(stacked)
        parts, at = [], 0
        for panel in panels:
            part = {}
            for m, z in panel.items():
                part[m] = plane[at : at + len(z)]
                at += len(z)
            parts.append(part)
        found[way] = parts
    return found
