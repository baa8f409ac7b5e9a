"""Tables from rows: Markdown, LaTeX, HTML, CSV, JSON. No torch at import."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.bench.stats import Spread, detectable, paired, smallest_p, spread
from mmzoo.bench.store import SCHEMA
from mmzoo.errors import MmzooError
from mmzoo.training import TUNED as TUNED_TRAINING

Row = Mapping[str, Any]
FORMATS = ("md", "csv", "json", "latex", "html")
DASH = "–"  # noqa: RUF001
#: the columns of `--protocol peers`
PEERS = ("peers' protocol: epoch chosen on test", "flatters by")
TUNED = ("tuned: trials", "tuning seconds", "tuning backwards")
METRICS = {"acc": "ACC", "macro_f1": "macro-F1", "map": "MAP"}


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclass
class Table:
    """A titled table of cells, with notes below it."""

    title: str
    header: list[str]
    body: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """All seeds of one configuration on one data set."""

    label: str
    role: str
    rows: tuple[Row, ...]

    @property
    def alone(self) -> bool:
        return self.rows[0]["modality"] is not None

    def by_seed(self, get: Callable[[Row], float]) -> dict[int, float]:
        return {r["seed"]: get(r) for r in self.rows if r["status"] == "ok"}

    def spread(self, get: Callable[[Row], float]) -> Spread:
        return spread(list(self.by_seed(get).values()))


def render(
    rows: Sequence[Row], bench: Mapping[str, Any], fmt: str,
    tables: Callable[[Sequence[Row], Mapping[str, Any]], Sequence[Table]] | None = None,
) -> str:  # fmt: skip
    """The report in one of FORMATS. bench: order and roles of the methods, as Store.bench gives them. tables: what is
    shown in md, latex and html (default: make_tables)."""
    if fmt == "json":
        return json.dumps({"schema": SCHEMA, "rows": list(rows)}, indent=1, sort_keys=True) + "\n"
    if fmt == "csv":
        return to_csv(rows)
    shown = (tables or make_tables)(rows, bench)
    if fmt == "html":
        return to_html(shown)
    return "\n".join((markdown if fmt == "md" else latex)(table) for table in shown)


# ---------------------------------------------------------------------------------------------- content
def make_tables(rows: Sequence[Row], bench: Mapping[str, Any]) -> list[Table]:
    """For each data set: scores and cost, each modality inside and alone, and paired differences."""
    tables = []
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        groups = grouped([r for r in rows if r["dataset"] == dataset], bench["methods"])
        refused = [r for r in bench["refused"] if r["dataset"] == dataset]
        tables.append(_scores(dataset, groups, refused))
        if any(g.by_seed(main_score) for g in groups if not g.alone):
            tables.append(_modalities(dataset, groups))
        if difference := _differences(dataset, groups):
            tables.append(difference)
    return tables


def grouped(rows: Sequence[Row], roles: Mapping[str, str]) -> list[Group]:
    """The configurations of one data set in the order of `roles`, each with its seeds."""
    by_config: dict[str, list[Row]] = {}
    for row in rows:
        by_config.setdefault(row["config_id"], []).append(row)
    order = {label: i for i, label in enumerate(roles)}
    # The same method under two protocols is two configurations; tell them apart by what differs.
    labels = [g[0]["label"] for g in by_config.values()]
    groups = []
    for config, members in by_config.items():
        label = members[0]["label"]
        shown = label if labels.count(label) == 1 else f"{label} ({_protocol(members[0], config)})"
        groups.append(Group(shown, roles.get(label, "other"), tuple(sorted(members, key=lambda r: r["seed"]))))
    return sorted(groups, key=lambda g: (order.get(g.rows[0]["label"], len(order)), g.label))


def _protocol(row: Row, config: str) -> str:
    t = row["spec"]["training"]
    shared = f"{t['processes']} processes, " if t.get("processes", 1) != 1 else ""
    return f"{t['optimizer']} lr {t['lr']:g}, {t['epochs']} epochs, {shared}{config[:6]}"


def at(*path: str) -> Callable[[Row], float]:
    """A number of a row by its path; NaN where there is none."""

    def get(row: Row) -> float:
        value: Any = row
        for key in path:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        return math.nan if isinstance(value, Mapping) else value

    return get


def main_score(row: Row) -> float:
    """The score that a run is known by."""
    return row["metrics"][row["metrics"]["main_metric"]]


def _scores(dataset: str, groups: Sequence[Group], refused: Sequence[Mapping[str, str]]) -> Table:
    main = main_metric(groups)
    metrics = [main, *(m for m in METRICS if m != main)]
    tuned = any("tuning" in r for g in groups for r in g.rows)
    watched = any("peers" in r["metrics"] for g in groups for r in g.rows)
    planted = any("bayes" in r for g in groups for r in g.rows)
    table = Table(
        f"{dataset}: test scores in %, mean ± deviation over seeds",
        ["method", *(METRICS[m] for m in metrics), f"last-epoch {METRICS[main]}", f"Δ {METRICS[main]} to plain",
         *(("Bayes", "closed") if planted else ()), *(PEERS if watched else ()), *(TUNED if tuned else ()),
         "items", "seconds", "forwards", "backwards", "seeds"],
    )  # fmt: skip
    columns: list[list[Spread]] = []
    deltas: list[Spread | None] = []
    for group in groups:
        paths = [*(("metrics", m) for m in metrics), ("metrics", "last", main)]
        columns.append([group.spread(at(*path)) for path in paths])
    joint = [i for i, g in enumerate(groups) if not g.alone]
    best = [_best([columns[i][c] for i in joint]) for c in range(len(metrics) + 1)]
    for i, group in enumerate(groups):
        cells = [Cell(percent(s), i in joint and s.n > 0 and s.mean == best[c]) for c, s in enumerate(columns[i])]
        plain = _plain_of(group, groups)
        delta = paired(group.by_seed(main_score), plain.by_seed(main_score)) if plain and not group.alone else None
        delta = None if plain is group else delta
        deltas.append(delta)
        cells.append(Cell(percent(delta, sign=True) if delta else DASH))
        if planted:
            cells += [Cell(percent(spread(list(group.by_seed(at("bayes")).values())[:1]))), Cell(_closed(group, plain))]
        if watched:
            cells += [Cell(percent(group.spread(at("metrics", "peers", main)))),
                      Cell(percent(group.spread(at("metrics", "peers", "flatters")), sign=True))]  # fmt: skip
        if tuned:
            cells += [Cell(number(group.spread(at("tuning", k)), 0)) for k in ("trials", "seconds", "backward")]
        cells += [Cell(number(group.spread(at("cost", "train_items")), 0))]
        cells += [Cell(number(group.spread(at("timing", "seconds"))))]
        cells += [Cell(number(group.spread(at("cost", k)), 0)) for k in ("forward", "backward")]
        table.body.append([Cell(group.label), *cells, Cell(str(len(group.by_seed(main_score))))])
        table.notes += _excuses(group)
        table.notes += _blind(group)
    for r in refused:
        table.body.append([Cell(r["method"])] + [Cell(DASH)] * (len(table.header) - 1))
        table.notes.append(f"{r['method']}: {r['reason']}")
    table.notes += _together(groups)
    table.notes += _reading(groups)
    table.notes += _detectable([d for d in deltas if d])
    return table


def _closed(group: Group, plain: Group | None) -> str:
    """How much of the way from plain training to the Bayes accuracy a method goes, over the seeds of both."""
    if plain is None or plain is group or group.alone:
        return DASH
    scores, plain_scores = group.by_seed(main_score), plain.by_seed(main_score)
    best = group.by_seed(at("bayes"))
    common = sorted(set(scores) & set(plain_scores))
    way = sum(best[s] - plain_scores[s] for s in common)
    if not common or not way > 0:
        return DASH
    return f"{100 * sum(scores[s] - plain_scores[s] for s in common) / way:.0f} %"


def _excuses(group: Group) -> list[str]:
    notes = [
        f"{group.label}, seed {r['seed']}: {r['status']}, {r['reason']}" for r in group.rows if r["status"] != "ok"
    ]
    for message in dict.fromkeys(m for r in group.rows for m in r.get("warnings", {})):
        counts = ", ".join(f"{r['warnings'][message]} (seed {r['seed']})" for r in group.rows
                           if message in r.get("warnings", {}))  # fmt: skip
        notes.append(f"{group.label}: {message}; times: {counts}")
    return notes


def _together(groups: Sequence[Group]) -> list[str]:
    """What is otherwise in rows that several processes have trained."""
    said: dict[str, list[str]] = {}
    for group in groups:
        for row in group.rows:
            for text in row.get("per_process", []):
                said.setdefault(f"trained by {row['processes']} processes together: {text}", []).append(group.label)
    return [f"{', '.join(dict.fromkeys(labels))}: {text}" for text, labels in said.items()]


def _blind(group: Group) -> list[str]:
    """How many test items a row scores without seeing anything of them."""
    counts = {(m["n_scored"] - m["n_seen"], m["n_scored"]) for r in group.rows if r["status"] == "ok"
              for m in [r["metrics"]] if "n_seen" in m}  # fmt: skip
    return [
        f"{group.label}: {blind} of {scored} test items lack what it sees, get its bias for an answer, and count; training, "
        "the choice of the epoch and `alone` leave such items out"
        for blind, scored in sorted(counts) if blind
    ]  # fmt: skip


def _reading(groups: Sequence[Group]) -> list[str]:
    counts = [len(g.by_seed(main_score)) for g in groups]
    notes = ["The epoch is chosen on holdout (ties: lower holdout loss); test is scored on every item. "
             "items: training items. seconds: training, evaluation on holdout included. Forwards and backwards count "
             "whole-model passes over a batch. Δ is to plain training with the same head, budget and items; "
             f"{DASH} where there is none, or nothing to compare."]  # fmt: skip
    if any("peers" in r["metrics"] for g in groups for r in g.rows):
        notes.append(
            "peers' protocol: the epoch of the same runs chosen on test, as much of the field does. It is no estimate of "
            "anything: it flatters by as much as the last of its two columns says. No other number here knows of it."
        )
    if any("bayes" in r for g in groups for r in g.rows):
        notes.append("Generated data. Bayes: the accuracy that nothing can exceed in the long run on the modalities of the row, known "
                     "exactly from how the data is made. closed: the share of the way from plain training to it, (ACC - plain) / "
                     "(Bayes - plain).")  # fmt: skip
    if any("tuning" in r for g in groups for r in g.rows):
        notes.append(
            "tuned: settings chosen on holdout over so many trials, the same number of them and of epochs for every method, "
            "under a seed that is not reported; what that cost is not in the other columns. `mmzoo tune` and the rows name "
            "the settings."
        )
    if taught := [g.label for g in groups if any(r.get("teachers") for r in g.rows)]:
        notes.append(f"{', '.join(taught)}: seconds, forwards and backwards include the training of the teachers, which "
                     "is counted in each row that learns from them and done once.")  # fmt: skip
    items = {r["metrics"]["n_scored"] for g in groups for r in g.rows if r["status"] == "ok"}
    if items:
        notes.append(
            f"{max(items)} test items: a score near 90 % has a sampling error of about "
            f"{100 * math.sqrt(0.09 / max(items)):.1f} points by itself, whatever the seeds say."
        )
    n = min((c for c in counts if c), default=0)
    if n and smallest_p(n) > 0.05:
        notes.append(
            f"With {n} seed{'s' if n > 1 else ''} no sign or permutation test over them can give p below {smallest_p(n):g}: "
            "differences here are a description, not evidence."
        )
    return notes


def _modalities(dataset: str, groups: Sequence[Group]) -> Table:
    main = main_metric(groups)
    alone = list(dict.fromkeys(g.rows[0]["modality"] for g in groups if g.alone))
    inside = [g for g in groups if not g.alone and g.by_seed(main_score)]
    modalities = list(dict.fromkeys(m for g in inside for r in g.rows if r["status"] == "ok"
                                    for m in r["spec"]["encoders"]))  # fmt: skip
    modalities += [m for m in alone if m not in modalities]
    table = Table(
        f"{dataset}: each modality's {METRICS[main]} in %, inside the joint model and alone",
        ["method", *(f"{m} {what}" for m in modalities for what in ("own", "probe", "alone")), "gap own", "gap probe",
         "own logits"],
    )  # fmt: skip
    for group in inside:
        cells = [Cell(group.label)]
        for m in modalities:
            for what in ("own", "probe"):
                cells.append(Cell(percent(group.spread(at("metrics", "modalities", m, what, main)))))
            by_itself = alone_of(m, group, groups)
            own = at("metrics", "modalities", m, "own", main)
            cells.append(Cell(percent(by_itself.spread(own)) if by_itself else DASH))
        cells += [Cell(percent(group.spread(at("metrics", "gap", k)))) for k in ("own", "probe")]
        how = next(r["metrics"]["own_logits"] for r in group.rows if r["status"] == "ok")
        table.body.append([*cells, Cell(how)])
    if inside:
        table.notes.append(
            "own: the modality's own logits inside the joint model; the last column says how they arise (exact: the head "
            "computes them; slice: a part of the joint classifier; ablated: the other features set to zero). probe: a "
            "linear classifier fitted on the frozen encoder. alone: the modality trained by itself, on all items. A low own with a "
            "high probe means that the head neglects the branch; a low probe means that the encoder starves."
        )
        missing = [g.label for g in groups if not g.alone and g not in inside]
        if missing:
            table.notes.append(f"not here, for the reasons above: {', '.join(missing)}")
    return table


def compared(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each method that the bench is about with every other joint one of the same budget and a common seed."""
    joint = [g for g in groups if not g.alone and g.by_seed(main_score)]
    return [
        (a, b) for a in joint for b in joint
        if a.role == "method" and a is not b and _budget(a) == _budget(b)
        and set(a.by_seed(main_score)) & set(b.by_seed(main_score))
    ]  # fmt: skip


def _differences(dataset: str, groups: Sequence[Group]) -> Table | None:
    main = main_metric(groups)
    table = Table(
        f"{dataset}: paired differences in {METRICS[main]}, points, mean ± deviation over common seeds",
        ["difference", METRICS[main], "wins", "seeds"],
    )
    found = []
    for group, other in compared(groups):
        a, b = group.by_seed(main_score), other.by_seed(main_score)
        found.append(paired(a, b))
        wins = sum(a[s] > b[s] for s in set(a) & set(b))
        table.body.append([Cell(f"{group.label} minus {other.label}"), Cell(percent(found[-1], sign=True)),
                           Cell(f"{wins}/{found[-1].n}"), Cell(str(found[-1].n))])  # fmt: skip
    table.notes += _detectable(found)
    return table if table.body else None


def _detectable(differences: Sequence[Spread]) -> list[str]:
    """What so many seeds can show at all, where the differences spread as they do here."""
    spreads = [(s.n, s.deviation) for s in differences if s.deviation is not None]
    if not spreads:
        return []
    n, deviation = min(n for n, _ in spreads), statistics.median(d for _, d in spreads)
    if not deviation:
        return []
    return [
        f"Detectable: with {n} seeds and the median deviation of these differences ({100 * deviation:.1f}), a paired "
        f"t-test at 5 % finds a true difference of {100 * detectable(n) * deviation:.1f} points in four of five tries."
    ]


def main_metric(groups: Sequence[Group]) -> str:
    """The metric that the runs of a data set are known by."""
    return next((r["metrics"]["main_metric"] for g in groups for r in g.rows if r["status"] == "ok"), "acc")


def _plain_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """Plain training with the same head, encoders, budget and training items."""

    def key(of: Group) -> tuple[Any, ...]:
        spec = of.rows[0]["spec"]
        # Where every method was tuned, the head's numbers were too.
        same = ("head", "encoders", "data_params", "modalities", *(() if spec.get("tuning") else ("head_params",)))
        return (of.spread(at("cost", "train_items")).mean, _budget(of),
                *(json.dumps(spec[k], sort_keys=True) for k in same))  # fmt: skip

    for other in groups:
        parts = other.rows[0]["spec"]["parts"]
        if len(parts) == 1 and parts[0]["strategy"] == "plain" and key(other) == key(group):
            return other
    return None


def _budget(group: Group) -> str:
    """What two methods must share to be compared: all of training, or what of it is not tuned and the number of trials."""
    spec = group.rows[0]["spec"]
    if not spec.get("tuning"):
        return json.dumps(spec["training"], sort_keys=True)
    shared = {k: v for k, v in spec["training"].items() if k not in TUNED_TRAINING}
    return json.dumps([shared, spec["tuning"]["trials"]], sort_keys=True)


def alone_of(modality: str, group: Group, groups: Sequence[Group]) -> Group | None:
    """The runs of one modality by itself with the encoder and the budget of a joint run."""

    def key(of: Group) -> str:
        spec = of.rows[0]["spec"]
        return json.dumps([_budget(of), spec["data_params"], spec["encoders"].get(modality)], sort_keys=True)

    found = (g for g in groups if g.alone and g.rows[0]["modality"] == modality and key(g) == key(group))
    return next((g for g in found if not g.rows[0]["spec"].get("spare_slice")), None)


def _best(spreads: Iterable[Spread]) -> float:
    return max((s.mean for s in spreads if s.n), default=math.nan)


def percent(s: Spread, *, sign: bool = False) -> str:
    """Mean and deviation times 100; a dash where there is nothing."""
    if not s.n:
        return DASH
    mean = round(100 * s.mean, 1) + 0.0  # adding zero makes -0.0 a plain zero
    text = f"{mean:{'+' if sign else ''}.1f}"
    return text if s.deviation is None else f"{text} ± {100 * s.deviation:.1f}"


def number(s: Spread, digits: int = 1) -> str:
    """The mean; a dash where there is nothing."""
    return f"{s.mean:.{digits}f}" if s.n else DASH


# ---------------------------------------------------------------------------------------------- form
def markdown(table: Table) -> str:
    """A Markdown table with aligned columns, so that it reads well in a terminal too."""
    lines = [[_md(c) for c in table.header]]
    lines += [[f"**{_md(c.text)}**" if c.best else _md(c.text) for c in row] for row in table.body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]

    def row(line: Sequence[str]) -> str:
        first, *rest = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    parts = [f"### {_md(table.title)}", "", row(lines[0]), rule, *map(row, lines[1:]), ""]
    return "\n".join(parts + [f"- {_md(note)}" for note in table.notes] + [""] * bool(table.notes))


def latex(table: Table) -> str:
    """A tabular with booktabs rules."""
    body = [" & ".join(rf"\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in row) + r" \\"
            for row in table.body]  # fmt: skip
    return "\n".join([
        f"% {_one_line(table.title)}", rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule",
        " & ".join(map(_tex, table.header)) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
        *(f"% {_one_line(note)}" for note in table.notes), "",
    ])  # fmt: skip


def to_html(tables: Sequence[Table]) -> str:
    """One page that loads nothing; every text in it is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise MmzooError(f"HTML needs jinja2 ({error}). Install it: pip install jinja2") from None
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["visible"] = _one_line
    return environment.get_template("report.html.j2").render(tables=tables) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """One line a run, nested values as dotted columns."""
    flat = [dict(_flat(r)) for r in rows]
    first = ["run_id", "dataset", "label", "seed", "status"]
    names = first + sorted({k for r in flat for k in r} - set(first))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, v in value.items():
        if isinstance(v, Mapping):
            yield from _flat(v, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(v) if isinstance(v, (list, tuple)) else v


def _md(text: str) -> str:
    """Names come from outside: nothing in them may act as markup or steer a terminal."""
    return "".join(_MARKUP.get(c, c) for c in _one_line(text)).replace("](", "]\\(")


_MARKUP = {"\\": "\\\\", "|": "\\|", "`": "\\`", "*": "\\*", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "φ": r"$\varphi$", DASH: "--",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in _one_line(text))


def _one_line(text: str) -> str:
    """The text without line breaks, and with a replacement mark for control and other invisible characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
