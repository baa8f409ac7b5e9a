"""How a bench reads and trains on a user's own data, in words: encoders, sizes, steps, and why. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping

from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.spec import plain
from mmzoo.data.own.defaults import LEAST_STEPS, steps_for


def choice_lines(plan: Plan, dataset: str, sizes: Mapping[str, int] | None = None) -> list[str]:
    """One line for training and one for each modality; nothing for a data set that is not a user's own.

    Args:
        plan: Of a bench.
        dataset: A label of it.
        sizes: modality -> parameters of its encoder, as far as they are known.
    """
    entry = plan.entries.get(dataset)
    runs = [p for p in plan.runs if p.dataset == dataset and p.spec.floor is None]
    if entry is None or "why" not in entry.extra or not runs:
        return []
    spec = max((p.spec for p in runs), key=lambda s: len(s.encoders))
    each = steps_for(entry.extra["samples"], spec.training.batch_size)
    total = each * spec.training.epochs
    enough = "" if total >= LEAST_STEPS else f": FEWER THAN {LEAST_STEPS:,}, train longer with --epochs"
    lines = [
        f"about {entry.extra['samples']:,} training samples in batches of {spec.training.batch_size}: {each:,} "
        f"steps an epoch, {total:,} in all{enough}"
    ]
    for m, (name, params) in spec.encoders.items():
        usual = entry.extra["encoders"][m]
        asked = name != usual["name"] or any(plain(params.get(k)) != v for k, v in usual.get("params", {}).items())
        why = "as you asked" if asked else entry.extra["why"][m]
        size = f", {sizes[m]:,} parameters" if sizes and m in sizes else ""
        lines.append(f"{m}: encoder {name}{size} ({why})")
    return lines
