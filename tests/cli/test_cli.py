"""The command line: what it promises, and how it answers what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmzoo.cli import main
from mmzoo.cli import plugins as plugins_command
from mmzoo.registry import KINDS

Refused = Callable[..., str]
Command = Callable[..., Any]


# ---------------------------------------------------------------------- what it promises
def test_list_as_json_is_an_object_of_kinds(mmzoo: Command) -> None:
    listed = json.loads(mmzoo("list", "--json").out)
    assert list(listed) == list(KINDS)
    for kind, entries in listed.items():
        assert entries
        for entry in entries:
            assert {"name", "kind", "summary", "paper", "requires", "cost", "status"} <= set(entry)
            assert entry["kind"] == kind and isinstance(entry["requires"], list)
    assert {"dynamic_gap_lb", "ogm", "pmr"} <= {e["name"] for e in listed["methods"]}


@pytest.mark.parametrize("kind", ["heads", "head", "datasets", "data set", "dataset"])
def test_list_takes_a_kind_in_either_number(mmzoo: Command, kind: str) -> None:
    done = mmzoo("list", kind, "--json")
    assert done.code == 0 and len(json.loads(done.out)) == 1
    assert mmzoo("list", kind).out.splitlines()[0] in ("heads:", "datasets:")


def test_a_list_fits_the_terminal_and_is_one_line_an_entry_elsewhere(
    mmzoo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = [line for line in mmzoo("list").out.splitlines() if line.startswith("  ")]
    assert len(piped) == sum(map(len, json.loads(mmzoo("list", "--json").out).values()))
    assert max(map(len, piped)) > 90
    monkeypatch.setattr("mmzoo.io.streams.sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    lines = [line for line in mmzoo("list").out.splitlines() if line.startswith("  ")]
    assert max(map(len, lines)) <= 90 and " ".join(lines).split() == " ".join(piped).split()


def test_show_tells_all_of_a_name(mmzoo: Command) -> None:
    shown = mmzoo("show", "dynamic_gap_lb").out
    for part in (
        "method dynamic_gap_lb",
        "NeurIPS 2024",
        "strategy dynamic_gap",
        "schedule",
        "equation:",
        "lfm_lb",
        "needs: slice",
        "replaces: task",
        "fidelity:",
    ):
        assert part in shown, part
    assert mmzoo("show", "heads/concat").out.startswith("head concat\n")
    assert "preset low_label" in mmzoo("show", "mfeat").out


def test_what_is_ours_after_a_paper_says_so_before_the_paper_s_address(mmzoo: Command) -> None:
    shown = mmzoo("show", "methods/dynamic_gap").out
    assert "ours, not the paper's: a constant weight" in shown and "\n  paper" not in shown
    assert shown.index("ours, not the paper's") < shown.index("that paper at: https://")
    (row,) = (line for line in mmzoo("list", "--markdown").out.splitlines() if line.startswith("| `dynamic_gap` "))
    assert "| ours, after NeurIPS 2024 |" in row and "baseline" not in row
    assert "\n  paper at: https://" in mmzoo("show", "methods/dynamic_gap_lb").out


def test_every_entry_can_be_shown(mmzoo: Command) -> None:
    for kind, entries in json.loads(mmzoo("list", "--json").out).items():
        for entry in entries:
            assert mmzoo("show", f"{kind}/{entry['name']}").code == 0


def test_plugins_names_the_built_in_package(mmzoo: Command) -> None:
    assert mmzoo("plugins").out.startswith("mmzoo ")
    (found, *_) = json.loads(mmzoo("plugins", "--json").out)
    assert found["name"] == "mmzoo" and found["status"] == "loaded" and found["entries"] > 10


def test_the_plan_counts_and_names_all_runs(mmzoo: Command, tmp_path: Path) -> None:
    done = mmzoo(
        "bench",
        "--method",
        "dynamic_gap_lb",
        "--baselines",
        "ogm,pmr",
        "--datasets",
        "mfeat,mfeat:six",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--plan",
        "--out",
        tmp_path / "out",
    )
    lines = done.out.splitlines()
    assert lines[0] == "Plan: 22 runs (13 methods, 1 seed), by data set:"
    assert lines[1].startswith("  mfeat: 9 runs of 1 epoch (sgd, ")
    assert lines[2].startswith("  mfeat:six: 13 runs of 1 epoch (sgd, ")
    assert lines[3:5] == ["  method: dynamic_gap_lb", "  baselines: ogm, pmr"]
    assert lines[5].startswith("  references: concat, joint_unimodal, unimodal: fou, unimodal: zer")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- bad input
BENCH = ("bench", "--seeds", "1", "--epochs", "1", "--plan")
METHOD = ("--method", "ogm")
BAD = [
    ((), ["name the method", "--method dynamic_gap_lb", "mmzoo list methods"]),
    (("--method", ""), ["'' is not a method", "NAME[:FIRST-LAST]"]),
    (("--method", "ogn"), ["no method 'ogn'", "Did you mean 'ogm'?", "mmzoo list methods"]),
    (("--method", "ogm@"), ["'ogm@' is not a method"]),
    (("--method", "ogm@nope"), ["no head 'nope'", "mmzoo list heads"]),
    (("--method", "ogm+"), ["'' in 'ogm+'", "NAME[:FIRST-LAST]"]),
    (("--method", "ogm:5-2"), ["'ogm:5-2'", "ends before it starts"]),
    (("--method", "ogm:0-101%"), ["at most 100%"]),
    (("--method", "ogm:0-" + "9" * 5000), ["is not NAME or NAME:FIRST-LAST"]),
    (("--method", "ogm\x1b[31m<script>"), [r"'ogm\x1b[31m<script>'"]),
    (("--method", "ogm\udcff"), [r"'ogm\udcff'"]),
    (("--method", "модель"), ["is not NAME or NAME:FIRST-LAST"]),
    (("--method", "dynamic_gap_h+dynamic_gap_lb"), ["dynamic_gap_h and dynamic_gap_lb cannot be combined", "'task'"]),
    (("--method", "shared+ogm"), ["different heads", "shared wants shared", "shared+ogm@HEAD"]),
    (("--method", "unimodal+ogm"), ["unimodal trains one modality at a time"]),
    ((*METHOD, "--baselines", "pmr,,concat"), ["'pmr,,concat' has an empty name"]),
    ((*METHOD, "--baselines", ""), ["'' has an empty name"]),
    ((*METHOD, "--baselines", "prm"), ["no method 'prm'", "Did you mean 'pmr'?"]),
    ((*METHOD, "--datasets", "mfaet"), ["no data set 'mfaet'", "Did you mean 'mfeat'?", "mmzoo list datasets"]),
    ((*METHOD, "--datasets", "mfeat:sixx"), ["no preset of mfeat 'sixx'", "Did you mean 'six'?"]),
    ((*METHOD, "--preset", "papr"), ["'papr'", "Did you mean 'paper'?", "mmzoo show mfeat"]),
    ((*METHOD, "--set", "mfeat.views=[fou]"), ["ogm needs at least 2 modalities; there is 1", "mfeat[views=[fou]]"]),
    ((*METHOD, "--set", "mfeat.views=[]"), ["mfeat.views must name one or more", "none"]),
    ((*METHOD, "--set", "mfeat.views=[fou,fou]"), ["one or more different modalities", "[fou,fou]"]),
    ((*METHOD, "--set", "mfeat.views=[fou,zero]"), ["no modality of mfeat 'zero'", "Did you mean 'zer'?"]),
    ((*METHOD, "--set", "mfeat.views=fou"), ["views must be a list of names, not 'fou'"]),
    ((*METHOD, "--set", "mfeat.labels=101"), ["labels must be a whole number from 5 to 100 or null, not 101"]),
    ((*METHOD, "--set", "ogm.alpha"), ["'ogm.alpha'", "write WHAT.KEY=VALUE"]),
    ((*METHOD, "--set", "ogm=1"), ["--set ogm=1", "write WHAT.KEY=VALUE"]),
    ((*METHOD, "--set", ".alpha=1"), ["--set .alpha=1", "write WHAT.KEY=VALUE"]),
    ((*METHOD, "--set", "=1"), ["'=1'", "write WHAT.KEY=VALUE"]),
    ((*METHOD, "--set", "ogn.alpha=1"), ["--set ogn.alpha: no method", "Did you mean 'ogm'?", "mmzoo list"]),
    ((*METHOD, "--set", "ogm.alhpa=1"), ["'alhpa'", "Did you mean 'alpha'?", "mmzoo show ogm"]),
    ((*METHOD, "--set", "pmr.alpha=1"), ["--set pmr.alpha: nothing in this bench uses 'pmr'"]),
    ((*METHOD, "--set", "sum.reduce=mean"), ["nothing in this bench uses 'sum'"]),
    ((*METHOD, "--set", "ogm.alpha=x"), ["ogm: alpha must be a number from 0 to 100, not 'x'", "mmzoo show ogm"]),
    ((*METHOD, "--set", "ogm.alpha="), ["alpha must be a number from 0 to 100, not None"]),
    ((*METHOD, "--set", "ogm.alpha=true"), ["not True"]),
    ((*METHOD, "--set", "ogm.alpha=[1]"), ["not [1]"]),
    ((*METHOD, "--set", "ogm.alpha={a: 1}"), ["not {'a': 1}"]),
    ((*METHOD, "--set", "ogm.alpha=.nan"), ["not nan"]),
    ((*METHOD, "--set", "ogm.alpha=-.inf"), ["not -inf"]),
    ((*METHOD, "--set", "ogm.alpha=1" + "0" * 300), ["alpha must be a number from 0 to 100"]),
    ((*METHOD, "--set", "ogm.alpha=2020-13-45"), ["'ogm.alpha=2020-13-45'", "not plain YAML"]),
    ((*METHOD, "--set", "ogm.alpha=!!python/name:os.system"), ["not plain YAML", "Write a number"]),
    ((*METHOD, "--set", "ogm.alpha=" + "[" * 5000), ["not plain YAML"]),
    ((*METHOD, "--set", "ogm.form=juornal"), ["one of conference, journal", "Did you mean 'journal'?"]),
    ((*METHOD, "--set", "mlp.hidden=3"), ["hidden must be a list of whole numbers", "not 3"]),
    ((*METHOD, "--set", "mlp.hidden=[0]"), ["from 1 to 1000000, not [0]"]),
    ((*METHOD, "--set", "train.lrr=1"), ["no training option 'lrr'", "Did you mean 'lr'?"]),
    ((*METHOD, "--set", "train.lr=fast"), ["lr must be a number, not 'fast'"]),
    ((*METHOD, "--set", "train.lr=.inf"), ["lr must be a finite number"]),
    ((*METHOD, "--set", "train.lr=1" + "0" * 400), ["a number of 401 digits, and at most 400 are read"]),
    ((*METHOD, "--set", "train.batch_size=1.5"), ["batch_size must be a whole number, not 1.5"]),
    ((*METHOD, "--set", "train.clip=0"), ["clip must be positive"]),
    (
        (*METHOD, "--set", "train.gamma=0.5"),
        ["train.gamma: it means nothing with train.schedule=cosine", "only with step or plateau"],
    ),
    (
        (*METHOD, "--set", "train.gamma=0.5", "--override", "train.schedule=constant", "--override", "train.lr=0.1"),
        ["train.gamma: it means nothing"],
    ),
    (
        (*METHOD, "--set", "train.momentum=0.5", "--set", "train.optimizer=adam"),
        ["train.momentum: it means nothing with train.optimizer=adam", "only with sgd"],
    ),
    ((*METHOD, "--set", "train.optimizer=sdg"), ["optimizer must be one of sgd, adam, adamw, ", "not 'sdg'"]),
    ((*METHOD, "--set", "train.epochs=2"), ["epochs are given twice", "--epochs 1", "train.epochs=2"]),
    ((*METHOD, "--epochs", "0"), ["--epochs must be at least 1, not 0"]),
    ((*METHOD, "--epochs", "9" * 30), ["epochs must be a finite number of at most 1000000000"]),
    ((*METHOD, "--out", ""), ["--out is empty"]),
    ((*METHOD, "--suite", ""), ["is a folder, not a plain file"]),
    ((*METHOD, "--suite", "/nowhere.yaml"), ["cannot read the file /nowhere.yaml: No such file"]),
]


@pytest.mark.parametrize(
    ("given", "parts"), BAD, ids=[" ".join(g)[:50].encode("unicode_escape").decode() for g, _ in BAD]
)
def test_bad_input_is_named_with_the_next_step(
    refused: Refused, tmp_path: Path, given: tuple[str, ...], parts: list[str]
) -> None:
    message = refused(*BENCH, "--out", tmp_path / "out", *given)
    for part in parts:
        assert part in message, message
    assert message.isprintable() and len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given", ["0", "-1", "a", "3-", "1,2,x", "1,,2", "5-2", "", ",", "1.5", "٣", "1e3", "9" * 5000]
)
def test_seeds_that_are_none(refused: Refused, given: str) -> None:
    message = refused("bench", *METHOD, "--plan", f"--seeds={given}")
    assert (
        message.startswith(f"seeds {given[:20]!r}"[:-1])
        and "write how many (3), a list (0,4 or 7,) or a range" in message
    )


@pytest.mark.parametrize("given", ["10001", "0-99999999999999", "123456789012"])
def test_more_seeds_than_anyone_means(refused: Refused, given: str) -> None:
    assert "more than 10,000" in refused("bench", *METHOD, "--plan", f"--seeds={given}")


@pytest.mark.parametrize("device", ["nope", "gpu", "meta", "cuda:9999", ""])
def test_a_device_that_is_not_there(refused: Refused, tmp_path: Path, device: str) -> None:
    message = refused("bench", *METHOD, "--seeds", "1", "--no-references", "--out", tmp_path, "--device", device)
    assert f"device {device!r} cannot be used here: " in message or f"device {device!r} is unknown." in message
    assert message.endswith(
        "Accepted are auto (a GPU where there is one), cpu, cuda, and cuda:N for the GPU of number N."
    )
    assert "mkldnn" not in message  # torch's own list of types
    assert not list(tmp_path.glob("runs/*"))


def test_an_output_that_cannot_be_a_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "sub"):
        assert f"cannot write results to {out}: Not a directory" in refused("bench", *METHOD, "--out", out)
        assert f"{tmp_path / 'file'} is a file" in refused(*BENCH, *METHOD, "--out", out)
    assert f"{tmp_path / 'file'} is a file" in refused("report", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_an_output_folder_that_takes_no_files(refused: Refused) -> None:
    message = refused("bench", *METHOD, "--out", "/proc/self/results")
    assert "cannot write results to /proc/self/results" in message and "--out DIR" in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("list", "methodz"), ["no kind 'methodz'", "Did you mean 'methods'?"]),
        (("show", "ogn"), ["nothing called 'ogn'", "Did you mean 'ogm'?", "mmzoo list"]),
        (("show", ""), ["nothing called ''"]),
        (("show", "methods/ogn"), ["no method 'ogn'"]),
        (("report", "/nowhere"), ["no results in the folder /nowhere", "mmzoo bench --method NAME --out /nowhere"]),
        (("report", ""), ["folder of the results is empty"]),
    ],
)
def test_other_commands_say_what_is_wrong(refused: Refused, arguments: tuple[str, ...], parts: list[str]) -> None:
    message = refused(*arguments)
    assert all(part in message for part in parts), message


# ---------------------------------------------------------------------- how a process ends
def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins_command, "run", interrupt)
    assert main(["plugins"]) == 130
    assert capsys.readouterr().err == "mmzoo: stopped.\n"


def python_mmzoo(*arguments: str, **env: str) -> subprocess.Popen[str]:
    root = str(Path(plugins_command.__file__).resolve().parents[2])
    full = {**os.environ, "PYTHONPATH": root, "MMZOO_PLUGINS": "", **env}
    return subprocess.Popen(
        [sys.executable, "-m", "mmzoo", *arguments], env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def closing() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_a_pipe_that_closes_early_is_no_error(closing: list[subprocess.Popen[str]]) -> None:
    process = python_mmzoo("list", "--json")
    closing.append(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 0 and process.stderr.read() == ""
    process.stdout = None


def test_a_terminal_without_our_characters_still_gets_its_tables(results: Path) -> None:
    out, err = python_mmzoo("report", str(results), PYTHONIOENCODING="ascii", PYTHONUTF8="0").communicate(timeout=60)
    assert err == "" and "mean ? std" in out and "dynamic_gap_lb" in out


def test_a_message_holds_no_control_characters_of_a_manifest(tmp_path: Path, mmzoo: Command) -> None:
    text = 'name: q\ntable: "t\\x1b[31m.csv"\nmodalities: {v: {kind: vector, columns: [x]}}\n'
    (tmp_path / "m.yaml").write_text(text)
    told = mmzoo("data", "check", tmp_path / "m.yaml")
    assert told.code == 2 and r"t\x1b[31m.csv" in told.err and "\x1b" not in told.err
