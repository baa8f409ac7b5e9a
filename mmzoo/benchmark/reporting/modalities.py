"""Tables about each modality: every measure and its source, contributions, sizes. No torch at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.groups import METRICS, Group, Row, alone_of, at, main_metric, main_score
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, number, percent
from mmzoo.benchmark.results.forms import ABLATIONS

WORDS = {key: key.replace("_", "-") for key in ABLATIONS}


def modality_tables(rows: Sequence[Row], bench: Mapping[str, Any]) -> list[Table]:
    """For each data set: the scores of each modality by every measure, what it contributes, and the size of the parts."""
    tables = []
    for dataset, groups in by_dataset(rows, bench).items():
        inside = [g for g in groups if not g.alone and g.by_seed(main_score)]
        tables.append(_measures(dataset, inside, groups))
        if inside:
            tables += [_contributions(dataset, inside), _imbalance(dataset, inside), _sizes(dataset, inside)]
    return tables


def _lines(inside: Sequence[Group]) -> Iterator[tuple[Group, str]]:
    """Each method with each modality that it was scored on."""
    for group in inside:
        scored = (r["metrics"]["modalities"] for r in group.rows if r["status"] == "ok")
        for m in dict.fromkeys(m for modalities in scored for m in modalities):
            yield group, m


def _measures(dataset: str, inside: Sequence[Group], groups: Sequence[Group]) -> Table:
    main = main_metric(groups)
    measures = {"own": "branch", **WORDS, "probe": "probe"}
    table = Table(
        f"{dataset}: each modality's {METRICS[main]} in % by every measure, mean ± std over seeds",
        ["method", "modality", *measures.values(), "unimodal", "branch logits"],
    )
    for group, m in _lines(inside):
        cells = [Cell(group.label), Cell(m)]
        cells += [Cell(percent(group.spread(at("metrics", "modalities", m, key, main)))) for key in measures]
        by_itself = alone_of(m, group, groups)
        cells.append(
            Cell(percent(by_itself.spread(at("metrics", "modalities", m, "own", main))) if by_itself else DASH)
        )
        table.body.append([*cells, Cell(", ".join(dict.fromkeys(_own_words(group, m))))])
    table.notes.append(
        "Over the test samples that have the modality. branch: its logits inside the joint model; the last column gives "
        "their source (exact: computed by the head; slice: its part of the joint classifier; ablated: as zero-feature). "
        "zero-feature, zero-input, mean-feature: the prediction of the joint model, decision rule included, with the "
        "features of the other modalities set to zero, their inputs set to zero, or their features set to the training "
        "mean. probe: a linear classifier on the frozen encoder. unimodal: the modality trained by itself."
    )
    table.notes += _absent(inside, groups)
    return table


def _own_words(group: Group, m: str) -> Iterator[str]:
    for row in group.rows:
        if row["status"] == "ok":
            yield row["metrics"]["modalities"].get(m, {}).get("own", {}).get("word", row["metrics"]["own_logits"])


def _absent(inside: Sequence[Group], groups: Sequence[Group]) -> list[str]:
    """Why a number or a method is not there."""
    notes = []
    for group in inside:
        for row in group.rows:
            reasons = row["metrics"].get("undefined", {}) if row["status"] == "ok" else {}
            notes += [f"{group.label}: no {WORDS.get(k, k)}: {why}" for k, why in reasons.items()]
    if any(r["status"] == "ok" and "shapley" not in r["metrics"] for g in inside for r in g.rows):
        notes.append("Rows of an earlier version have no ablations, contributions and FLOPs.")
    if missing := [g.label for g in groups if not g.alone and g not in inside]:
        notes.append(f"not listed, since none of their runs has scores: {', '.join(missing)}")
    return list(dict.fromkeys(notes))


def _contributions(dataset: str, inside: Sequence[Group]) -> Table:
    table = Table(
        f"{dataset}: contribution of each modality to the joint ACC",
        ["method", "modality", *(f"φ {w}" for w in WORDS.values()), *(f"u {w}" for w in WORDS.values())],
    )
    for group, m in _lines(inside):
        cells = [
            Cell(percent(group.spread(at("metrics", "modalities", m, what, key, "value"))))
            for what in ("shapley", "utilisation")
            for key in ABLATIONS
        ]
        table.body.append([Cell(group.label), Cell(m), *cells])
    table.notes.append(
        "φ: Shapley value in points of ACC over all test samples; the values add up to ACC minus the ACC with every "
        "modality removed. u: conditional utilization in %, the fraction of ACC that is lost when this modality is "
        "removed. The suffix says how modalities are removed."
    )
    return table


def _imbalance(dataset: str, inside: Sequence[Group]) -> Table:
    table = Table(
        f"{dataset}: imbalance of the contributions",
        ["method", "ACC", *(f"none {w}" for w in WORDS.values()), *(f"imbalance {w}" for w in WORDS.values()), "φ"],
    )
    for group in inside:
        kept = [("metrics", "acc"), *(("metrics", "shapley", key, "none") for key in ABLATIONS)]
        cells = [Cell(percent(group.spread(at(*path)))) for path in kept]
        cells += [Cell(number(group.spread(at("metrics", "shapley", key, "imbalance")), 3)) for key in ABLATIONS]
        words = (w for r in group.rows if r["status"] == "ok" for w in _how(r))
        table.body.append([Cell(group.label), *cells, Cell(", ".join(dict.fromkeys(words)) or DASH)])
    table.notes.append(
        "imbalance: (largest - smallest) / sum of |φ|: 0 where all modalities contribute equally, 1 where one contributes "
        "everything. none: the ACC in % with every modality removed. The last column: whether φ is exact or from sampled "
        "permutations."
    )
    return table


def _how(row: Row) -> Iterator[str]:
    """`exact`, or how many orders were sampled: the word of a contribution without that of the ablation."""
    for facts in row["metrics"].get("shapley", {}).values():
        yield facts["word"].partition(", ")[2]


def _place(part: str) -> tuple[int, bool, str]:
    """Encoders, then the head's parts, of which the shared one last, then the rest."""
    kind, _, name = part.partition(":")
    return ("encoder", "head").index(kind) if kind in ("encoder", "head") else 2, name == "shared", name


def _sizes(dataset: str, inside: Sequence[Group]) -> Table:
    """Methods whose models have the same parts share the lines of these."""
    table = Table(
        f"{dataset}: parameters, and FLOPs of one sample's forward pass, by part",
        ["model of", "part", "parameters", "FLOPs"],
    )
    models: dict[tuple[tuple[str, int, int], ...], list[str]] = {}
    for group in inside:
        for row in group.rows:
            parts = row["cost"].get("groups", {}) if row["status"] == "ok" else {}
            sizes = tuple((name, parts[name]["parameters"], parts[name]["flops"]) for name in sorted(parts, key=_place))
            if sizes and group.label not in models.setdefault(sizes, []):
                models[sizes].append(group.label)
    for sizes, labels in models.items():
        total = ("all", sum(p for _, p, _ in sizes), sum(f for _, _, f in sizes))
        for name, parameters, operations in (*sizes, total):
            cells = [Cell(", ".join(labels)), Cell(name), Cell(f"{parameters:,}"), Cell(f"{operations:,}")]
            table.body.append(cells)
    table.notes.append(
        "FLOPs: matrix products, convolutions and attention in the forward pass of one sample; a multiply-add counts as "
        "two. head:NAME: operations with parameters of that modality only; head:shared: everything else after the "
        "encoders, coupling between their stages included."
    )
    return table
