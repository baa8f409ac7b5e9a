"""A model card: what a trained model is, what it was trained on, and its scores. No torch at import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: scores of the test set that a card shows, where a row has them
SHOWN = ("acc", "macro_f1", "map", "auroc", "nll", "loss", "ece")
#: columns of raw rows that a card names before the rest is only counted
COLUMNS = 50


def model_card(row: Mapping[str, Any], inputs: Mapping[str, Any], license: str = "") -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        row: The row of the run.
        inputs: `InputForm.as_dict` of the model.
        license: SPDX name of the licence of the weights; empty: to be filled in.
    """
    spec, metrics = row["spec"], row["metrics"]
    named = inputs["classes"] or [str(i) for i in range(inputs["n_classes"])]
    scores = [f"| {k} | {metrics[k]:.4f} |" for k in SHOWN if isinstance(metrics.get(k), (int, float))]
    shapes = [f"| {m} | {b['kind']} | {tuple(b['shape'])} |" for m, b in inputs["modalities"].items()]
    raw = "preparation" in inputs  # how the columns of a table become inputs
    columns = [c for of in inputs["preparation"]["columns"].values() for c in of] if raw else []
    named_columns = [*columns[:COLUMNS], *([f"and {len(columns) - COLUMNS} more"] if len(columns) > COLUMNS else [])]
    lines = [
        *_front_matter(row, license),
        "",
        f"# {row['label']} on {row['dataset']}",
        "",
        "```python",
        "model = mmzoo.from_pretrained(FOLDER)",
        *(["model.predict_rows([{column: cell}]).scores  # raw rows, or the path of a CSV table"] if raw else []),
        "model.predict({modality: array}).scores  # inputs as prepared for training: standardised, scaled, tokens",
        "```",
        "",
        *([f"Columns of a raw row: {', '.join(named_columns)}.", ""] if raw else []),
        "## Input",
        "",
        "| modality | kind | shape of a sample |",
        "|---|---|---|",
        *shapes,
        "",
        f"Classes ({len(named)}): {', '.join(named[:50])}{', ...' if len(named) > 50 else ''}",
        "",
        "## Training data and licences",
        "",
        f"- Data set: {row['dataset']}. Licence of the data: see the data set's own page; to be filled in.",
        f"- Licence of the weights: {license or 'to be filled in'}.",
        "",
        "## Protocol",
        "",
        f"- Method {row['label']}, head {spec['head']}, seed {row['seed']}, run {row['run_id']}.",
        "- The epoch was chosen on the validation set. Scores are those of the test set, which nothing was chosen on.",
        f"- Training: {json.dumps(spec['training'], sort_keys=True)}",
        "",
        "## Scores on the test set",
        "",
        "| score | value |",
        "|---|---|",
        *scores,
        "",
    ]
    return "\n".join(lines)


def _front_matter(row: Mapping[str, Any], license: str) -> list[str]:
    facts = {
        "library_name": "mmzoo",
        "license": license or "other",
        "license_name": license or "to be filled in",
        "datasets": [row["dataset"]],
        "tags": ["multimodal", row["label"]],
    }
    return ["---", *(f"{name}: {json.dumps(fact)}" for name, fact in facts.items()), "---"]
