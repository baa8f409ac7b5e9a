"""The replay of test vectors: our numbers against recorded ones, and the command's manners."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import ROOT, VECTORS

from mmzoo.testing import CheckFailed, check_vectors
from mmzoo.testing.replay import Case, Check, replay, replays, skip
from mmzoo.testing.replay.command import load_own, main, read
from mmzoo.testing.replay.registry import cases_of, difference

RECORDED = sorted(VECTORS.glob("*.json"))


load_own()


def write(path: Path, data: object) -> str:
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_every_value_of_a_vector_is_compared_or_skipped_for_a_reason(path: Path) -> None:
    results = [replay(case) for case in read(str(path))]
    assert all(r.known for r in results)
    assert [r.failed for r in results if r.failed] == []
    assert [r.missed for r in results if r.missed] == []
    assert sum(len(r.compared) for r in results) > 0
    assert max(r.error for r in results) < 1e-9


def test_a_vector_that_is_not_met_fails_the_check(tmp_path: Path) -> None:
    given = json.loads(RECORDED[0].read_text(encoding="utf-8"))
    path = Path(write(tmp_path / "same.json", given))
    check_vectors(path)
    case = given["cases"][0]
    case["expected"] = _nudged(case["expected"], [next(iter(case["expected"]))])
    with pytest.raises(CheckFailed, match=r"same\.json.*\n.*FAILED"):
        check_vectors(Path(write(path, given)))
    with pytest.raises(CheckFailed, match="no replay of"):
        check_vectors(Path(write(path, {**given, "method": "nothing", "cases": [case]})))


def _nudged(value: Any, path: list[str]) -> Any:
    """A copy in which the first number under `path` is a little larger, or the first text a little longer."""
    if isinstance(value, Mapping):
        return {k: _nudged(v, path[1:]) if k == path[0] else v for k, v in value.items()}
    if isinstance(value, list):
        at = int(path[0]) if path else 0
        return [_nudged(v, path[1:]) if i == at else v for i, v in enumerate(value)]
    return f"{value}?" if isinstance(value, str) else value + 1e-6 * (1 + abs(value))


def _compared() -> list[Any]:
    """Every value that is compared in the first case of each kind."""
    found, seen = [], set()
    for case in (case for path in RECORDED for case in read(str(path))):
        if (case.name, case.kind) not in seen:
            seen.add((case.name, case.kind))
            name = case.kind or case.name
            found += [pytest.param(case, p, id=f"{name}-{p}") for p in replay(case).compared]
    return found


@pytest.mark.parametrize(("case", "path"), _compared())
def test_a_perturbed_number_fails(case: Case, path: str) -> None:
    perturbed = dataclasses.replace(case, expected=_nudged(case.expected, path.split("/")))
    failed = replay(perturbed).failed
    assert failed and all(path == p or path.startswith(f"{p}/") for p in failed)


def test_exit_code_1_for_an_error_and_0_within_a_wider_tolerance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((RECORDED[0].parent / "ogm.json").read_text(encoding="utf-8"))
    data["cases"][0]["expected"]["coeff_v"] += 1e-6
    file = write(tmp_path / "ogm.json", data)
    assert main([file]) == 1
    out = capsys.readouterr().out
    assert "FAILED   ogm.json bimodal_coeff" in out and "beyond tolerance: coeff_v" in out
    assert main([file, "--tolerance", "1e-5"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "not a vector file"),
        ("null", "not a vector file"),
        ('{"a": 1}', "not a vector file"),
        ('{"name": "metrics"}', "not a vector file"),
        ('{"method": "ogm", "cases": {}}', "not a vector file"),
        ('{"method": "ogm", "cases": [1]}', "not a vector file"),
        ('{"method": "ogm", "cases": [{"kind": "bimodal_coeff", "inputs": 3}]}', "not a vector file"),
        ('{"method": "ogm", "cases": [{"kind": "bimodal_coeff", "expected": {"a": 1}}]}', "no input logits_"),
        (
            '{"method": "ogm", "cases": [{"kind": "tpami_m_modalities", "inputs": {"scores": "x"}}]}',
            "scores is not a block of numbers",
        ),
        ('{"name": "mcut_weight", "inputs": {"x": [[1.0]]}, "outputs": {}}', "no parameter 'fc_out.weight'"),
    ],
)
def test_bad_files_give_one_message_and_exit_code_2(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "v.json"
    file.write_text(content, encoding="utf-8")
    assert main([str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err and "v.json" in err and len(err.splitlines()) == 1


def test_a_missing_file_from_the_shell() -> None:
    command = [sys.executable, "-m", "mmzoo.testing.replay", "nowhere.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.json: cannot be read (No such file or directory)\n"


def test_bytes_that_are_no_text_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x81")
    assert main([str(tmp_path / "b.json")]) == 2
    assert main([str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_kinds_are_listed_and_fail_only_when_nothing_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = {"kind": "strange", "inputs": {}, "expected": {"x": 1.0}}
    alone = write(tmp_path / "alone.json", {"method": "ogm", "cases": [strange]})
    assert main([alone]) == 1
    both = capsys.readouterr()
    assert "unknown  alone.json strange" in both.out and "nothing was compared" in both.err
    known = {
        "kind": "tpami_m_modalities",
        "inputs": {"scores": [1.0, 1.0], "alpha": 0.5},
        "expected": {"ratios": [1.0, 1.0], "more": 2.0},
    }
    mixed = write(tmp_path / "mixed.json", {"method": "ogm", "cases": [strange, known]})
    assert main([mixed]) == 0
    out = capsys.readouterr().out
    assert "unknown: 1 cases (ogm strange)" in out
    assert "NOT COMPARED: more" in out and "not compared: 1 values" in out


def test_a_closed_pipe_ends_it_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path / "x.json", {"method": "ogm", "cases": [{"kind": "strange", "inputs": {}, "expected": {"x": 1.0}}]}
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        code = main([file])
    assert code == 0 and capsys.readouterr().err == ""


def test_a_case_that_cannot_be_computed_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((RECORDED[0].parent / "ogm.json").read_text(encoding="utf-8"))
    broken = copy.deepcopy(data["cases"][0])
    broken["inputs"]["label"][0] = 99
    file = write(tmp_path / "v.json", {**data, "cases": [broken, data["cases"][1]]})
    assert main([file]) == 1
    out = capsys.readouterr().out
    assert out.count("FAILED") == 1 and out.count("\nok ") == 1


def test_null_stands_for_nan_and_nothing_else_equals_it() -> None:
    assert difference(torch.tensor([1.0, math.nan]), [1.0, None]) == 0.0
    assert difference([1.0, 2.0], [1.0, None]) == math.inf
    assert difference([1.0, math.nan], [1.0, 2.0]) == math.inf
    assert difference(math.inf, math.inf) == 0.0
    assert difference(1.0, math.inf) == math.inf
    assert difference([1.0], 1.0) == math.inf
    assert difference({"a": 1.0}, {"b": 1.0}) == math.inf
    assert difference("left", "left") == 0.0
    assert difference("left", "right") == math.inf


def test_other_replays_join_by_a_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "replay_of_ours.py").write_text(
        "from mmzoo.testing.replay import replays, skip\n"
        "@replays('ours')\n"
        "def ours(case):\n"
        "    yield 'twice', 2 * case.number('x')\n"
        "    yield skip('not ours', 'rest/*')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    outputs = {"twice": 6.0, "rest": {"a": 1.0, "b": [1.0]}}
    file = write(tmp_path / "v.json", {"name": "ours", "inputs": {"x": 3}, "outputs": outputs})
    assert main([file, "--import", "replay_of_ours"]) == 0
    assert main([file, "--import", "no_such_module"]) == 2


def test_nothing_expected_goes_unmentioned() -> None:
    @replays("made_up")
    def made_up(case):  # type: ignore[no-untyped-def]
        yield "a", 1.0
        yield "elsewhere", 7.0
        yield Check("rough", 1.0, tolerance=0.2)
        yield "part", [1.0], [case["part"][0]]
        yield skip("for a reason", "table/*")

    table = {"x": 1, "y": 2}
    outputs = {"a": 1.0, "rough": 1.1, "part": [1.0, 5.0], "table": table, "b": [{"c": 3}], "note": "n"}
    result = replay(cases_of({"name": "made_up", "inputs": {}, "outputs": outputs})[0])
    assert set(result.compared) == {"a", "part"} and set(result.loose) == {"rough"}
    assert result.skipped == [("for a reason", "table/x, table/y", 2)]
    assert result.missed == ["b/0/c"] and not result.failed
