"""Tables from rows: numbers by hand, four forms, and names that try to be more than names."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.report import json_pieces, render
from mmzoo.benchmark.reporting.details import detail_tables
from mmzoo.benchmark.reporting.statistics import paired, smallest_p, spread
from mmzoo.benchmark.reporting.tables import DASH, Table, labels, latex, markdown, to_csv
from mmzoo.benchmark.results.store import Store

Command = Callable[..., Any]
Row = dict[str, Any]
ROLES = {"methods": {"new": "method", "concat": "reference"}, "refused": []}


@pytest.fixture(scope="module")
def template(results: Path) -> Row:
    rows, _ = Store(results).rows()
    return next(r for r in rows if r["label"] == "concat")


@pytest.fixture
def row(template: Row) -> Callable[..., Row]:
    def make(label: str, seed: int, acc: float, **changes: Any) -> Row:
        made = copy.deepcopy(template)
        made |= {"label": label, "seed": seed, "config_id": f"config of {label}", "run_id": f"{label}{seed}"}
        made["metrics"] |= {"acc": acc, "last": {**made["metrics"]["last"], "acc": acc - 0.1}}
        made["spec"]["parts"][0]["strategy"] = "plain" if label == "concat" else label
        return made | changes

    return make


def cells(table: Table, name: str) -> list[str]:
    return next([c.text for c in line] for line in table.body if line[0].text == name)


# ---------------------------------------------------------------------- numbers
def test_means_deviations_and_differences_by_hand(row: Callable[..., Row]) -> None:
    new, plain = [0.5, 0.7, 0.9], [0.6, 0.5, 0.7]
    rows = [row("new", s, a) for s, a in enumerate(new)] + [row("concat", s, a) for s, a in enumerate(plain)]
    scores, _, differences = detail_tables(rows, ROLES)
    line = cells(scores, "new")
    assert line[1] == f"70.0 ± {100 * statistics.stdev(new):.1f}" == "70.0 ± 20.0"
    assert line[scores.header.index("last-epoch ACC")] == "60.0 ± 20.0"
    gaps = [a - b for a, b in zip(new, plain)]
    wanted = f"+10.0 ± {100 * statistics.stdev(gaps):.1f}"
    assert line[scores.header.index("Δ ACC to plain")] == wanted
    assert cells(scores, "concat")[scores.header.index("Δ ACC to plain")] == DASH
    assert cells(differences, "new minus concat")[1:] == [wanted, "2/3", "3"]
    assert line[-1] == "3" and any("below 0.25" in n for n in scores.notes)
    assert any("500 (2.0 points)" in n for n in scores.notes)


def test_seeds_are_paired_and_never_mixed(row: Callable[..., Row]) -> None:
    rows = [row("new", 0, 0.9), row("new", 1, 0.5), row("concat", 1, 0.4), row("concat", 2, 0.1)]
    differences = detail_tables(rows, ROLES)[2]
    assert cells(differences, "new minus concat")[1:] == ["+10.0", "1/1", "1"]
    assert paired({0: 1.0}, {1: 1.0}).n == 0


def test_only_the_best_joint_method_is_bold(row: Callable[..., Row]) -> None:
    rows = [row("new", 0, 0.9), row("concat", 0, 0.4), row("alone", 0, 0.99, modality="fou")]
    text = markdown(detail_tables(rows, ROLES)[0])
    assert "**90.0**" in text and "**99.0**" not in text and "**40.0**" not in text


def test_runs_without_scores_leave_a_dash_and_a_reason(row: Callable[..., Row]) -> None:
    lost = row("new", 0, 0.5, status="diverged", reason="epoch 3: loss is nan", metrics={}, cost={})
    scores, _ = detail_tables([lost, row("concat", 0, 0.4)], ROLES)
    assert set(cells(scores, "new")[1:-3]) <= {DASH} | set(cells(scores, "new")[6:7])
    assert cells(scores, "new")[-1] == "0"
    assert "new, seed 0: diverged, epoch 3: loss is nan" in scores.notes
    assert detail_tables([lost], ROLES)[0].body


def test_what_was_refused_is_shown_with_its_reason(row: Callable[..., Row]) -> None:
    refused = [{"dataset": "mfeat", "method": "odd", "role": "baseline", "reason": "it needs three."}]
    scores = detail_tables([row("concat", 0, 0.4)], {**ROLES, "refused": refused})[0]
    assert set(cells(scores, "odd")[1:]) == {DASH} and "odd: it needs three." in scores.notes


def test_one_method_under_two_protocols_is_two_lines(row: Callable[..., Row]) -> None:
    other = row("new", 0, 0.5, config_id="abcdefgh")
    lines = [line[0].text for line in detail_tables([row("new", 0, 0.4), other], ROLES)[0].body]
    assert len(set(lines)) == 2 and any("abcdef" in name and "sgd lr" in name for name in lines)


def test_spreads_and_the_smallest_p() -> None:
    assert spread([]).n == 0 and math.isnan(spread([]).mean)
    assert spread([1.0, math.nan]) == spread([1.0]) and spread([1.0]).deviation is None
    assert [smallest_p(n) for n in (1, 2, 3, 5, 6)] == [1.0, 0.5, 0.25, 0.0625, 0.03125]


# ---------------------------------------------------------------------- forms
def test_json_is_one_object_a_run(results: Path, mmzoo: Command) -> None:
    read = json.loads(mmzoo("report", results, "--format", "json").out)
    assert set(read) == {"schema", "rows"} and read["schema"] == 1 and len(read["rows"]) == 9
    for found in read["rows"]:
        assert {"dataset", "method", "seed", "status", "metrics", "run_id", "timing", "environment"} <= set(found)
        written = json.loads((results / "runs" / found["run_id"] / "result.json").read_text())
        assert written.pop("checksum") and found == written
    assert mmzoo("report", results, "--format", "json").out == mmzoo("report", results, "--format", "json").out


def test_csv_is_one_line_a_run(results: Path, mmzoo: Command) -> None:
    read = list(csv.DictReader(io.StringIO(mmzoo("report", results, "--format", "csv").out)))
    rows, _ = Store(results).rows()
    assert [r["run_id"] for r in read] == [r["run_id"] for r in rows]
    for found, stored in zip(read, rows):
        assert float(found["metrics.acc"]) == stored["metrics"]["acc"] and found["label"] == stored["label"]
        assert json.loads(found["spec.parts"]) == stored["spec"]["parts"]


def test_details_are_five_tables_with_every_method(results: Path, mmzoo: Command) -> None:
    text = mmzoo("report", results, "--details").out
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert len(titles) == 5 and all(line.startswith("### mfeat: ") for line in titles)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    first = [line.split("|")[1].strip() for line in lines[2:9]]
    assert first == ["dynamic_gap_lb", "ogm", "pmr", "concat", "joint_unimodal", "unimodal: fou", "unimodal: zer"]
    assert "dynamic_gap_lb minus joint_unimodal" in text and "fou probe" in text


def test_latex_is_a_tabular_a_table(results: Path, mmzoo: Command) -> None:
    text = mmzoo("report", results, "--format", "latex", "--details").out
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 5
    assert r"dynamic\_gap\_lb" in text and r"\textbf{" in text
    assert not any("±" in line or "Δ" in line for line in text.splitlines() if not line.startswith("%"))
    for line in text.splitlines():
        assert line.startswith(("%", "\\", "}")) or line.endswith(r" \\") or not line


def test_latex_has_the_captions_and_labels_of_a_paper(results: Path, mmzoo: Command) -> None:
    text = (
        mmzoo("report", results, "--format", "latex").out
        + mmzoo("report", results, "--format", "latex", "--details").out
    )
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert captions[0] == (
        r"Test accuracy in \%, mean $\pm$ std over 1 seed, on mfeat. Best joint method in bold, second underlined."
    )
    assert r"Test scores in \%, mean $\pm$ std over seeds, on mfeat. Best in bold." in captions
    assert (
        r"Test samples by true and predicted class, of dynamic\_gap\_lb on mfeat. Correct predictions in bold."
        in captions
    )
    assert all(c.endswith(".") and not c.startswith(("overview", "mfeat")) and "ACC" not in c for c in captions)
    found = re.findall(r"\\label\{(.*)\}", text)
    assert len(found) == len(captions) and found[0] == "tab:overview" and "tab:mfeat-test-scores" in found
    assert labels([Table("a: b, c", []), Table("a: b", []), Table("A: B", [])]) == [
        "tab:a-b",
        "tab:a-b-again1",
        "tab:a-b-again2",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex to compile with")
def test_latex_compiles_and_fits_a_page_of_two_columns(
    row: Callable[..., Row], results: Path, mmzoo: Command, tmp_path: Path
) -> None:
    texts = [mmzoo("report", results, "--format", "latex", *more).out for more in ((), ("--details", "--modalities"))]
    strange = row(f"{NASTY} é 中 😀", 0, 0.5, dataset=NASTY, status="ok", run_id="a")
    nasty = [strange, row("concat", 0, 0.4, dataset=NASTY)]
    texts.append(render(nasty, {"methods": {}, "refused": []}, Store(results), "latex", ["overview", "details"]))
    packages = r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}"
    (tmp_path / "page.tex").write_text(
        rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}" + "\n".join(texts) + r"\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300)
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0 and (tmp_path / "page.pdf").is_file(), log[-2000:]
    assert "Overfull \\hbox" not in log, log


NASTY = "a|b <script>alert(1)</script> `x` *y* [z](javascript:1) \\ & \x1b[31m \u202e \u2028 \r\n## title % $ # ~ ^ {}"


def test_names_are_no_markup(row: Callable[..., Row], results: Path) -> None:
    rows = [row(NASTY, 0, 0.5, dataset=NASTY, status="ok", run_id="a"), row("concat", 0, 0.4, dataset=NASTY)]
    bench = {"methods": {NASTY: "method"}, "refused": []}
    store = Store(results)
    text = render(rows, bench, store, "md", ["overview", "details"])
    for forbidden in ("<script", "\x1b", "\u202e", "\u2028", "\r", "](javascript", " `x`", " *y*", "\n##  ", "\n## t"):
        assert forbidden not in text, forbidden
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\\\", "").replace("\\|", "").count("|") for line in table[:4]}) == 1
    tex = render(rows, bench, store, "latex", ["overview", "details"])
    assert "\x1b" not in tex and "\n## title" not in tex and "\u202e" not in tex
    assert r"a\textbar{}b" in tex and r"\textbackslash{}" in tex and r"\& " in tex
    for line in tex.splitlines():
        assert line.startswith(("%", "\\", "}")) or line.endswith(r" \\") or not line, line


def test_nasty_names_come_back_from_json_and_csv(row: Callable[..., Row], results: Path) -> None:
    rows = [row(NASTY, 0, 0.5)]
    assert json.loads(render(rows, ROLES, Store(results), "json"))["rows"] == rows
    (read,) = csv.DictReader(io.StringIO(to_csv(rows), newline=""))
    assert read["label"] == NASTY.replace("\x1b", "\\x1b")  # CSV is printed too: a terminal must not obey it


def test_an_empty_table_is_still_a_table() -> None:
    empty = Table("none", ["method", "x"])
    assert markdown(empty).splitlines()[2:] == ["| method | x |", "|--------|--:|", ""][:2]
    assert latex(empty).count(r"\toprule") == 1


def test_json_comes_row_by_row_and_is_the_rows(results: Path) -> None:
    rows, _ = Store(results).rows()
    pieces = json_pieces(iter(rows))
    assert next(pieces).startswith("{") and json.loads(next(pieces)) == rows[0]
    assert json.loads("".join(json_pieces(rows))) == {"schema": 1, "rows": rows}
    lines = "".join(json_pieces(rows)).splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[2:-3]] == rows  # a row a line, which C writes
    assert json.loads("".join(json_pieces([]))) == {"schema": 1, "rows": []}
