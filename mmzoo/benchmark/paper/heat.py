"""Figure 4: where the image branch looks, over training, in plain training and in ours."""

from __future__ import annotations

import base64
import contextlib
import html
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.benchmark.execution.building import Kit, answers_of, data_of
from mmzoo.benchmark.heat_maps import Maps, drawn_items, figure_png, heat_of
from mmzoo.benchmark.paper.documents import Document
from mmzoo.benchmark.paper.runs import FAST_EPOCHS, HEAT, Budget, is_prepared
from mmzoo.benchmark.planning.data_defaults import make_missing
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.paper_figures import paper_folder
from mmzoo.config.spec import BenchSpec
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.preparing.prepare import Progress
from mmzoo.io.files import write_bytes
from mmzoo.registry import Catalogue
from mmzoo.training.loop import fit

MODALITY, N_ITEMS = "image", 3
METHODS = {"concat": "Concat", "dynamic_gap_lb": "Ours-LB"}


def heat_document(catalogue: Catalogue, budget: Budget) -> Document:
    """Items are drawn from the test split by seed, before anything is trained: none is chosen by its result."""
    if budget.datasets and HEAT not in budget.datasets:
        return Document("fig4", "Figure 4", notes=[f"{HEAT} is not among the data sets that were asked for."])
    real = is_prepared(HEAT, "paper", catalogue)
    bench = BenchSpec(
        "dynamic_gap_lb",
        ("concat",),
        (HEAT if real else f"{HEAT}:mini",),
        (0,),
        FAST_EPOCHS if budget.fast else None,
        "paper" if real else "default",
        references=False,
        selection="last",
    )
    make_missing(bench, catalogue, lambda: contextlib.nullcontext(Progress()), lambda made: None)
    plan = make_plan(bench, catalogue)
    maps: list[Maps] = []
    for run in sorted(plan.runs, key=lambda r: list(METHODS).index(r.method)):
        kit = Kit(catalogue, run.spec, data_of(catalogue, run.spec), _device(budget))
        answers = answers_of(catalogue, run.spec)  # for the true class; training sees the data without
        items = drawn_items(answers, N_ITEMS, seed=0)
        maps += [
            Maps(f"{METHODS[run.method]}, epoch {epoch + 1}", pictures, heat)
            for epoch, (pictures, heat) in _followed(kit, answers, items).items()
        ]
    png = figure_png(maps)
    write_bytes(paper_folder(budget.out) / "fig4.png", png)
    names = ", ".join(map(str, items))
    svg = _as_svg(png, f"Grad-CAM of the {MODALITY} branch, test samples {names}")
    notes = [
        f"Test samples {names}, drawn by seed 0 before training; rows: methods and epochs, columns: samples. The class "
        "explained is the true one, by the fused logits.",
        *(
            [f"{HEAT} is not prepared here: a synthetic set with a small convolutional network replaces it."]
            if not real
            else []
        ),
    ]
    return Document("fig4", "Figure 4", pictures={f"Grad-CAM on {HEAT}": svg}, notes=notes)


def _device(budget: Budget) -> str:
    from mmzoo.benchmark.execution.device import check_device

    return check_device(budget.device)


def _followed(kit: Kit, answers: DataModule, items: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """epoch -> pictures and heat, after the first, a middle and the last epoch of one training."""
    run = kit.run()
    wanted = sorted({0, (run.n_epochs - 1) // 2, run.n_epochs - 1})
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def looked(record: Mapping[str, Any], _: Any) -> None:
        if record["epoch"] in wanted:
            with torch.random.fork_rng(devices=[]):
                found[record["epoch"]] = heat_of(run.model, answers, items, MODALITY)

    fit(run, None, choose=False, on_epoch=looked)
    return found


def _as_svg(png: bytes, title: str) -> str:
    data = base64.b64encode(png).decode()
    width, height = struct.unpack(">II", png[16:24])  # of the IHDR chunk
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img'>"
        f"<title>{html.escape(title)}</title><image href='data:image/png;base64,{data}' width='{width}' height='{height}'/></svg>"
    )
