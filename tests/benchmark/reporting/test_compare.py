"""mmzoo compare, mmzoo runs and the live report: what differs is found, nothing else is."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.reporting import compare
from mmzoo.benchmark.reporting.html import server
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def rows(results: Path) -> list[dict[str, Any]]:
    return Store(results).rows()[0]


def test_a_store_equals_itself(rows: list[dict[str, Any]]) -> None:
    scores, differing = compare.compare_tables(*compare.stores(("a", rows), ("b", rows)))
    assert len(scores.body) == len({r["config_id"] for r in rows}) and not differing.body
    assert {line[4].text for line in scores.body} == {"+0.0"}
    assert {line[9].text for line in scores.body} == {"too few seeds"}


def test_what_differs_is_named_once(rows: list[dict[str, Any]]) -> None:
    other = json.loads(json.dumps(rows))
    for row in other:
        row["spec"]["training"]["lr"] = 0.5
        row["environment"]["threads"] = 7
    _, differing = compare.compare_tables(*compare.stores(("a", rows), ("b", other)))
    assert [[c.text for c in line] for line in differing.body] == [
        ["everywhere", "spec.training.lr", "0.02", "0.5"],
        ["everywhere", "environment.threads", "1", "7"],
    ]


def test_two_methods_of_one_folder(results: Path, mmzoo: Command, refused: Callable[..., str]) -> None:
    text = mmzoo("compare", "ogm", "concat", "--in", results).out
    assert "ogm minus concat" in text and "spec.parts.0.strategy" in text
    assert "There are: " in refused("compare", "ogm", "nobody", "--in", results)
    assert "--in DIR" in refused("compare", "ogm", "pmr")


def test_where_nothing_is_in_both_there_is_nothing_to_compare(
    copied: Path, results: Path, mmzoo: Command, refused: Callable[..., str]
) -> None:
    for run in (copied / "runs").iterdir():
        if Store(copied).row(run.name)["label"] != "concat":  # type: ignore[index]
            shutil.rmtree(run)
    other = copied.with_name("other")
    shutil.copytree(results, other)
    for run in (other / "runs").iterdir():
        if Store(other).row(run.name)["label"] != "ogm":  # type: ignore[index]
            shutil.rmtree(run)
    told = refused("compare", copied, other)
    assert "nothing to compare" in told and f"{copied} has: mfeat concat. {other} has: mfeat ogm." in told
    assert mmzoo("compare", copied, results).code == 0


def test_a_method_with_settings_is_found_by_its_name_where_it_is_the_only_one(rows: list[dict[str, Any]]) -> None:
    renamed = [{**r, "label": {"ogm": "ogm[alpha=0.8]"}.get(r["label"], r["label"])} for r in rows]
    assert [side.name for side in compare.methods("ogm", "pmr", renamed)] == ["ogm[alpha=0.8]", "pmr"]
    both = [*renamed, *({**r, "label": "ogm[alpha=0.1]"} for r in rows if r["label"] == "ogm")]
    with pytest.raises(BadValue, match=r"There are: .*ogm\[alpha=0.8\], .*ogm\[alpha=0.1\]"):
        compare.methods("ogm", "pmr", both)
    assert [side.name for side in compare.methods("ogm", "pmr", [*renamed, *rows])] == ["ogm", "pmr"]


def test_the_name_of_an_earlier_version_is_understood(results: Path, mmzoo: Command) -> None:
    now, before = (
        mmzoo("compare", f"concat ({name})", "ogm", "--in", results) for name in ("without meta set", "slice spared")
    )
    assert now.code == 0 and "concat (without meta set) minus ogm" in now.out and before == now


def test_the_verdict_needs_six_seeds_and_a_small_p() -> None:
    assert compare.verdict(0.03, 0.1, 5) == "too few seeds"
    assert [compare.verdict(p, m, 6) for p, m in ((0.03, 0.1), (0.03, -0.1), (0.2, 0.1))] == [
        "higher",
        "lower",
        "undecided",
    ]


def test_runs_are_listed_filtered_and_sorted(results: Path, mmzoo: Command, rows: list[dict[str, Any]]) -> None:
    every = [json.loads(line) for line in mmzoo("runs", results, "--json").out.splitlines()]
    assert {f["run"] for f in every} == {r["run_id"] for r in rows}
    some = [json.loads(line) for line in mmzoo("runs", results, "--json", "--method", "unimodal:").out.splitlines()]
    assert {f["method"] for f in some} == {"unimodal: fou", "unimodal: zer"}
    scores = [
        json.loads(line)["score"] for line in mmzoo("runs", results, "--json", "--sort", "score").out.splitlines()
    ]
    assert scores == sorted(scores, reverse=True)
    assert "### 0 runs" in mmzoo("runs", results, "--seed", "77").out


@pytest.fixture
def live(results: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of the results that is served, and where."""
    pytest.importorskip("vl_convert")
    root = tmp_path / "copy"
    shutil.copytree(results, root)
    found: list[str] = []
    ready = threading.Event()

    def tell(url: str) -> None:
        found.append(url)
        ready.set()

    threading.Thread(target=server.serve, args=(root, 0, tell), daemon=True).start()
    assert ready.wait(10)
    yield root, found[0]


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_live_report_is_renewed_and_answers_for_this_machine_only(live: tuple[Path, str]) -> None:
    root, url = live
    status, page = ask(url, "/")
    _, stamp = ask(url, "/stamp")
    assert status == 200 and f'data-live="{stamp}"' in page and "connect-src 'self'" in page
    shutil.rmtree(next((root / "runs").iterdir()))
    assert ask(url, "/stamp")[1] != stamp and ask(url, "/")[1] != page
    assert ask(url, "/", Host="example.org:80")[0] == 403
    assert ask(url, "/../bench.json")[0] == 404 and ask(url, "/", "POST")[0] == 501
