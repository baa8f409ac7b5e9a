"""Pages of the site that are made from the catalogue: one for each method, and one for each other kind of entry. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmzoo.registry import SINGULAR, Catalogue, Entry

#: what a fidelity note is about
LEDGER = {
    "paper": "beside the paper",
    "code": "beside the authors' code",
    "ours": "our own",
    "checked_against": "checked against",
}
_KINDS = {
    "heads": ("Fusion heads", "Each head turns the features of all modalities into logits: `--method NAME@HEAD`."),
    "encoders": (
        "Encoders",
        "`--encoders MODALITY=NAME` replaces the encoder of a modality. See [Encoders](../encoders.md).",
    ),
    "datasets": (
        "Data sets",
        "`--datasets NAME`; `mmzoo data show NAME` has layout and recipes. See [Data sets](../data.md).",
    ),
    "trackers": ("Trackers", "`--track NAME` sends every epoch to a tracker. See [Trackers](../protocol.md#trackers)."),
}


def pages(catalogue: Catalogue) -> dict[str, str]:
    """File name, below the folder of the sources -> Markdown."""
    methods = catalogue.entries("methods")
    made = {f"catalogue/method-{slug(catalogue, e)}.md": _method(catalogue, e) for e in methods}
    made |= {f"catalogue/{kind}.md": _kind(catalogue, kind, *words) for kind, words in _KINDS.items()}
    made["catalogue/methods.md"] = _methods(catalogue)
    made["catalogue/ledger.md"] = _ledger(catalogue)
    return made


def slug(catalogue: Catalogue, entry: Entry) -> str:
    return catalogue.name_of(entry).replace("/", "-")


# ---------------------------------------------------------------------- methods
def _methods(catalogue: Catalogue) -> str:
    """The table of all methods by family, and the order of their pages."""
    lines = [
        "# All methods",
        "",
        "Every installed method, from the catalogue. Forwards and backwards are passes of the whole model per batch; plain training",
        "takes one of each. [Choose a method](../choose.md) says when which one helps.",
    ]
    families: dict[str, list[Entry]] = {}
    for e in catalogue.entries("methods"):
        families.setdefault(catalogue.family(e) or "plain training", []).append(e)
    for family in sorted(families):
        lines += [
            "",
            f"## {family.capitalize()}",
            "",
            "| method | what it does | needs | forwards | backwards | beside | source |",
        ]
        lines.append("|---|---|---|---:|---:|---|---|")
        for e in families[family]:
            cost = [*(f"{e.cost.get(k, 1):g}" for k in ("forward", "backward")), "; ".join(e.cost_beside())]
            cells = [
                f"[{catalogue.name_of(e)}](method-{slug(catalogue, e)}.md)",
                e.summary,
                ", ".join(e.requires) or "nothing",
            ]
            lines.append(_row([*cells, *cost, e.source]))
    names = [f"method-{slug(catalogue, e)}" for e in catalogue.entries("methods")]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *names, "```", ""])


def _method(catalogue: Catalogue, e: Entry) -> str:
    """All that the catalogue knows of a method and its strategy."""
    name, strategy = catalogue.name_of(e), catalogue.get("strategies", e.extra["strategy"], e.package)
    lines = [f"# {name}", "", e.summary, ""]
    given = {**e.extra.get("args", {}), **{f"head.{k}": v for k, v in e.extra.get("head_args", {}).items()}}
    facts = {
        "package": e.package,
        "also called": ", ".join(e.aliases),
        "strategy": f"`{strategy.name}`" + (f" with {_pairs(given)}" if given else ""),
        "head": f"[`{e.extra['head']}`](heads.md#{_anchor(e.extra['head'])})",
        "after training": ", ".join(f"`{name}` {_pairs(p)}".strip() for name, p in e.extra.get("then", {}).items()),
        "family": catalogue.family(e) or "",
        "needs": ", ".join(e.requires),
        "cost per batch": _pairs({k: v for k, v in e.cost.items() if k in ("forward", "backward")}),
        "cost beside": "; ".join(e.cost_beside()),
        "replaces": ", ".join(strategy.extra.get("owns", ())),
        "status": f"{e.status}, version {e.version}",
    }
    lines += ["| | |", "|---|---|", *(_row([k, v]) for k, v in facts.items() if v), ""]
    lines += _sources(catalogue, e, strategy)
    for title, of in (("Formula", e), ("Formula of the strategy" if "equation" in e.extra else "Formula", strategy)):
        if "equation" in of.extra:
            lines += [f"## {title}", "", "```text", of.extra["equation"].rstrip(), "```", ""]
    lines += [
        "## Run it",
        "",
        "```bash",
        f"mmzoo bench --method {name} --baselines joint_unimodal",
        f"mmzoo show {name}",
        "```",
        "",
    ]
    lines += _params(f"{name}.", strategy, "## Parameters")
    if notes := [*_notes(e), *(_notes(strategy))]:
        lines += ["## Paper, code and ours", "", *notes, ""]
    return "\n".join(lines)


def _sources(catalogue: Catalogue, e: Entry, strategy: Entry) -> list[str]:
    """Paper and code, as far as the catalogue has them."""
    paper, links = e.paper or strategy.paper, catalogue.links(e)
    if paper is None and not links:
        return ["A baseline of mmzoo: it has no paper of its own.", ""]
    lines = ["## Sources", ""]
    if after := e.extra.get("after"):
        lines += [f"Ours, after a paper from which it differs: {after['differs']}.", ""]
    if paper is not None:
        title = f"{paper['title']} ({paper.get('venue', '?')} {paper.get('year', '?')})"
        lines.append(f"- Paper: {_link(title, links.get('paper'))}")
    elif "paper" in links:
        lines.append(f"- Paper: <{links['paper']}>")
    lines.append(f"- Code: <{links['code']}>" if "code" in links else "- Code: the catalogue has no address of it.")
    return [*lines, ""]


def _link(text: str, address: str | None) -> str:
    return f"[{text}]({address})" if address else text


def _notes(e: Entry) -> Iterator[str]:
    for key, note in e.fidelity.items():
        yield f"- {SINGULAR[e.kind].capitalize()}, {LEDGER.get(key, key)}: {note}"


def _ledger(catalogue: Catalogue) -> str:
    """Paper, code and ours of everything, in one table."""
    lines = [
        "# Paper, code and ours",
        "",
        "Where an implementation follows the paper, where it follows the authors' code, and what is specific to mmzoo.",
        "`mmzoo show NAME` prints the same.",
        "",
        "| entry | about | note |",
        "|---|---|---|",
    ]
    for e in catalogue:
        for key, note in e.fidelity.items():
            lines.append(_row([f"{SINGULAR[e.kind]} `{catalogue.name_of(e)}`", LEDGER.get(key, key), str(note)]))
    return "\n".join([*lines, ""])


# ---------------------------------------------------------------------- the other kinds
def _kind(catalogue: Catalogue, kind: str, title: str, words: str) -> str:
    lines = [f"# {title}", "", words, ""]
    for e in catalogue.entries(kind):
        lines += [f"## {catalogue.name_of(e)}", "", e.summary, ""]
        if e.paper:
            told = f"{e.paper['title']} ({e.paper.get('venue', '?')} {e.paper.get('year', '?')})"
            lines += [f"Paper: {_link(told, e.links.get('paper'))}", ""]
        if "code" in e.links:
            lines += [f"Code: <{e.links['code']}>", ""]
        if "equation" in e.extra:
            lines += ["```text", e.extra["equation"].rstrip(), "```", ""]
        for key in ("modalities", "input", "n_classes", "metric", "licence", "install"):
            if key in e.extra:
                value = e.extra[key]
                lines.append(f"- {key.replace('_', ' ')}: {_pairs(value) if isinstance(value, Mapping) else value}")
        lines += ["", *_params("", e, "### Parameters of " + catalogue.name_of(e))]
    return "\n".join(lines)


def _params(prefix: str, e: Entry, heading: str) -> list[str]:
    if not e.params:
        return []
    lines = [heading, "", "| parameter | default | accepted | meaning |", "|---|---|---|---|"]
    for p in e.params.values():
        lines.append(_row([f"`{prefix}{p.name}`", f"`{json.dumps(p.default)}`", p.accepts(), p.doc]))
    return [*lines, ""]


# ---------------------------------------------------------------------- Markdown
def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(' '.join(c.split()).replace('|', chr(92) + '|') for c in cells)} |"


def _anchor(name: str) -> str:
    return name.lower().replace("/", "")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{k}` {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
