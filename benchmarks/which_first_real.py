"""The tables of which_first.py on real data: `dynamic_gap` beside methods of others, with the same seeds and the same refit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from mmzoo.benchmark.reporting.significance import holm, sign_flip, t_interval

#: column -> where it comes from; three of the five are settings of the same 2,000 numerals
SOURCES = {
    "mfeat": "mfeat",
    "mfeat:fou_mor": "mfeat",
    "mfeat:low_label": "mfeat",
    "openmoji": "openmoji",
    "avdigits": "avdigits",
}
OURS, CONTROL = "class", "control"
TRAINED, REFIT = "as trained", "keep better"
FORMS = (TRAINED, REFIT)
TITLES = {
    "plain": "plain training",
    "control": "control",
    "class": "`dynamic_gap_class`",
    "pmr, alpha=3.0": "`pmr`, alpha 3",
    "mla, projection=none": "`mla_none`",
}
Line = Mapping[str, str]
Key = tuple[str, str]
#: (method, form) -> data set -> seed -> test accuracy in %
Scores = dict[Key, dict[str, dict[str, float]]]


def real(lines: Sequence[Line]) -> str:
    """Test accuracy of every method that has all seeds on all real data sets, and paired differences."""
    scores = _scores(lines)
    methods = list(dict.fromkeys(m for m, _ in scores))
    others = [m for m in methods if m not in (OURS, CONTROL, "plain")]
    beside = [(m, f) for m in ("plain", CONTROL, *others) for f in FORMS]
    seeds = sorted({int(s) for by in scores.values() for d in by.values() for s in d})
    text = [
        f"# Real data: test accuracy, seeds {seeds[0]} to {seeds[-1]}",
        "",
        "Made by `which_first.py tables` from `confirm.csv`. *Refit*: the ridge refit of `dynamic_gap`, kept only where it improves validation",
        "accuracy; every row named so had the same chance. `dynamic_gap` is `dynamic_gap_class` with this refit. `pmr`, alpha 3, and `mla_none`, MLA",
        "without its projection, are what PMR and MLA chose on validation, seeds 0 to 4, and `ogm` has what it chose (`others.md`); `pmr`,",
        "`mla` and `ogm_ge` are at their defaults. Three sources: the first three columns are settings of the same 2,000 numerals. *Sources* is the mean over the three sources, *rank* the mean rank over the five columns.",
        "",
        *_table(scores),
        "",
        "## `dynamic_gap` minus each",
        "",
        *NOTE,
        "",
        *_differences(scores, [((OURS, REFIT), key) for key in beside], 1),
        "",
        "## Each minus the control of the same form",
        "",
        *_differences(scores, [((m, f), (CONTROL, f)) for m in (OURS, *others, "plain") for f in FORMS], 0),
        "",
    ]
    return "\n".join(text)


NOTE = (
    "Points, paired over seeds, with a 95 % interval (Student's t), and p of the exact paired permutation test in brackets, corrected by",
    "Holm over the five columns of a row, not over rows.",
)


def choice(lines: Sequence[Line]) -> str:
    """Validation accuracy of every setting that methods of others could choose, and what each chose."""
    sets = list(dict.fromkeys(line["dataset"] for line in lines))
    names = list(dict.fromkeys(line["method"] for line in lines))
    mean = {
        n: [
            100
            * statistics.fmean(
                float(k["validation"]) for k in lines if (k["method"], k["form"], k["dataset"]) == (n, REFIT, d)
            )
            for d in sets
        ]
        for n in names
    }
    best = {
        m: max((n for n in names if n.startswith(f"{m},")), key=lambda n: statistics.fmean(mean[n]))
        for m in _bare(names)
    }
    text = [
        "# One setting for each method of others, chosen on validation, seeds 0 to 4",
        "",
        "Validation accuracy with the refit of `dynamic_gap`, mean over seeds; the highest mean over the data sets is chosen (bold). OGM chose among",
        "six values of alpha in `../dynamic_gap/choose.csv`, on these seeds and data sets, without refit: its default, 0.3, and 0.8 have the highest means, level to 0.01 points.",
        "`dynamic_gap` had more to choose from: its temperature and weights among twelve settings on these seeds and data sets, and its form among eight",
        "candidates, for which openmoji and three cells of `map` were read too (`choose.md`).",
        "",
        "| setting | " + " | ".join(sets) + " | mean |",
        "|---|" + "---:|" * (len(sets) + 1),
    ]
    for n in names:
        bold = "**" if n in best.values() else ""
        text.append(
            f"| {bold}{n}{bold} | " + " | ".join(f"{v:.1f}" for v in (*mean[n], statistics.fmean(mean[n]))) + " |"
        )
    return "\n".join(text) + "\n"


def _bare(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(n.partition(",")[0] for n in names))


def _scores(lines: Sequence[Line]) -> Scores:
    found: Scores = {}
    for line in lines:
        if line["dataset"] in SOURCES and line["form"] in FORMS:
            by = found.setdefault((line["method"], line["form"]), {})
            by.setdefault(line["dataset"], {})[line["seed"]] = 100 * float(line["test"])
    plain = found["plain", TRAINED]
    return {k: by for k, by in found.items() if all(set(by.get(d, ())) == set(plain[d]) for d in SOURCES)}


def _title(key: Key) -> str:
    method, form = key
    if key == (OURS, REFIT):
        return "`dynamic_gap`"
    return TITLES.get(method, f"`{method}`") + (", refit" if form == REFIT else "")


def _table(scores: Scores) -> list[str]:
    mean = {key: {d: statistics.fmean(by[d].values()) for d in SOURCES} for key, by in scores.items()}
    rank = {key: statistics.fmean(_rank(mean, key, d) for d in SOURCES) for key in scores}
    text = ["| | " + " | ".join(SOURCES) + " | sources | rank |", "|---|" + "---:|" * (len(SOURCES) + 2)]
    for key in sorted(scores, key=lambda k: rank[k]):
        cells = [f"{mean[key][d]:.1f} ± {statistics.stdev(scores[key][d].values()):.1f}" for d in SOURCES]
        text.append(
            f"| {_title(key)} | " + " | ".join([*cells, f"{_of_sources(mean[key]):.1f}", f"{rank[key]:.2f}"]) + " |"
        )
    return text


def _rank(mean: Mapping[Key, Mapping[str, float]], key: Key, dataset: str) -> float:
    rest = [round(m[dataset] - mean[key][dataset], 9) for k, m in mean.items() if k != key]
    return 1 + sum(r > 0 for r in rest) + sum(r == 0 for r in rest) / 2


def _of_sources(mean: Mapping[str, float]) -> float:
    of: dict[str, list[float]] = {}
    for d, source in SOURCES.items():
        of.setdefault(source, []).append(mean[d])
    return statistics.fmean(statistics.fmean(v) for v in of.values())


def _differences(scores: Scores, pairs: Sequence[tuple[Key, Key]], named: int) -> list[str]:
    """A line a pair, under the name of its first or second."""
    text = ["| | " + " | ".join(SOURCES) + " | sources |", "|---|" + "---:|" * (len(SOURCES) + 1)]
    for one, other in pairs:
        if one == other or one not in scores or other not in scores:
            continue
        d = {k: [scores[one][k][s] - scores[other][k][s] for s in scores[one][k]] for k in SOURCES}
        p = holm([sign_flip(v) for v in d.values()])
        cells = [_cell(v, q) for v, q in zip(d.values(), p)]
        over = _of_sources({k: statistics.fmean(v) for k, v in d.items()})
        text.append(f"| {_title((one, other)[named])} | " + " | ".join([*cells, f"{over:+.1f}"]) + " |")
    return text


def _cell(differences: Sequence[float], p: float) -> str:
    low, high = t_interval(differences)
    return f"{statistics.fmean(differences):+.1f} [{low:+.1f}, {high:+.1f}] ({p:.3f})"
