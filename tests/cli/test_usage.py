"""What the command line answers to options and values that it does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Command = Callable[..., Any]
METHOD = ("--method", "ogm")


def test_usage_errors_are_argparse_s_own(mmzoo: Command) -> None:
    for arguments in (
        [],
        ["bench", *METHOD, "--zzz"],
        ["show"],
    ):
        done = mmzoo(*arguments)
        assert done.code == 2 and done.err.startswith("usage: mmzoo") and "Traceback" not in done.err
    done = mmzoo("data", "init", "t.csv", "--label", "emotion", "x")
    assert done.err.startswith("usage: mmzoo data init") and "unrecognized arguments: --label emotion x" in done.err


def test_a_wrong_value_of_an_option_is_answered_in_a_line(mmzoo: Command) -> None:
    for arguments, said in (
        (["bench", *METHOD, "--epochs", "abc"], "mmzoo bench: --epochs: takes a whole number, not 'abc'."),
        (
            ["data", "prepare", "cremad", "--jobs", "1.5"],
            "mmzoo data prepare: --jobs: takes a whole number, not '1.5'.",
        ),
        (["bench", "--epochs"], "mmzoo bench: --epochs: expected one argument."),
        (["bench", "--quiet", "--json"], "mmzoo bench: --json: not allowed with argument --quiet."),
        (["bogus"], "mmzoo: COMMAND: invalid choice: 'bogus' (choose from 'bench',"),
        (["report", "d", "--format", "docx"], "mmzoo report: --format: invalid choice: 'docx'"),
    ):
        done = mmzoo(*arguments)
        command = said.partition(":")[0]
        assert done.code == 2 and done.out == "" and done.err.startswith(said)
        assert done.err.count("\n") == 1 and done.err.endswith(f" See: {command} --help\n")


def test_what_is_misspelt_is_answered_in_a_line_with_the_nearest_word(mmzoo: Command) -> None:
    for arguments, said in (
        (["benhc"], "mmzoo: no command 'benhc'. Did you mean 'bench'? List all: mmzoo --help"),
        (
            ["bench", *METHOD, "--dataset", "mfeat"],
            "mmzoo bench: no option --dataset. Did you mean '--datasets'? List all",
        ),
        (
            ["bench", *METHOD, "--dataset=mfeat"],
            "mmzoo bench: no option --dataset. Did you mean '--datasets'? List all",
        ),
        (["bench", "--meth", "ogm"], "mmzoo bench: no option --meth. Did you mean '--method'?"),
        (["data", "chekc", "x.yaml"], "mmzoo data: no action 'chekc'. Did you mean 'check'?"),
        (["report", "d", "--format", "latx"], "mmzoo report: no --format 'latx'. Did you mean 'latex'?"),
    ):
        done = mmzoo(*arguments)
        assert done.code == 2 and done.err.startswith(said) and done.err.count("\n") == 1
