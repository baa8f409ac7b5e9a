"""mmzoo bench: compare methods on data sets, all under one protocol. No torch at import."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmzoo.benchmark.bench import Execution, Finished, dry_plan, run_bench
from mmzoo.benchmark.execution.torchrun import processes
from mmzoo.benchmark.planning.planned import to_do
from mmzoo.benchmark.results.store import Store
from mmzoo.cli.bench.listeners import Lines, Silent, Text, emit_end, emit_plan, tuning_line
from mmzoo.cli.bench.options import add_spec_options, spec_of
from mmzoo.cli.bench.plan import count, encoder_sizes_of, plan_lines, time_lines
from mmzoo.config.grammar import parse_setting
from mmzoo.config.spec import SELECTIONS, STRESSES, BenchSpec
from mmzoo.errors import BadValue
from mmzoo.io.streams import wrapped


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="train and compare methods",
        description="Trains every method on every data set with every seed, on the same splits, budget and order of "
        "batches. Selects the epoch on validation, scores the test set once, and prints the tables. Runs that are in the "
        "results folder are not trained again.",
    )
    add_spec_options(parser)
    add_run_options(parser.add_argument)
    _add_execution_options(parser.add_argument)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--quiet", action="store_true", help="print the tables at the end and nothing before them")
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line for the plan, each run and the end, and no table",
    )
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a bench without --datasets that takes long"
    )
    parser.set_defaults(command=run)


def add_run_options(add: Callable[..., Any]) -> None:
    add(
        "--selection",
        "--protocol",
        metavar="NAME",
        help=f"how the epoch is selected: {', '.join(SELECTIONS)}. last: trained on all of training, scored after the last epoch; "
        "test (or peers): also test-set (oracle) selection, in a column of its own, to measure how optimistic it is (default: "
        "holdout)",
    )
    add(
        "--stress",
        metavar="NAME,...",
        help=f"{' or '.join(STRESSES)}: score the trained models once more with each modality missing from a share of the test "
        "samples, or corrupted at five strengths, without training again; keeps the weights. On this machine, after all runs",
    )
    add("--keep-weights", action="store_true", help="keep the weights of every run, for mmzoo.load_run")
    add(
        "--tune",
        metavar="N",
        type=int,
        help="tune the settings of every method on validation first, with N trials each (pip install 'mmzoo[tune]')",
    )
    add(
        "--track",
        metavar="NAME[:TARGET]",
        action="append",
        default=[],
        help="a tracker that receives every epoch, e.g. tensorboard or tensorboard:DIR; may be given several times",
    )


def _add_execution_options(add: Callable[..., Any]) -> None:
    add("--launcher", metavar="NAME", default="local", help="local, ray, slurm (default: local)")
    add(
        "--workers",
        metavar="N",
        help="number of runs at a time (default: MMZOO_WORKERS, else chosen by the launcher: locally one per core for small "
        "models, one for larger models, and on a GPU as many as its memory holds)",
    )
    add(
        "--launcher-arg",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the launcher: address=auto for ray, slurm_partition=gpu for slurm ...",
    )
    add(
        "--checkpoint-every",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="least time between two checkpoints of a run, which are taken between epochs (default: 30)",
    )


def run(arguments: argparse.Namespace) -> int:
    if not arguments.out:
        raise BadValue("--out is empty: name the results folder.")
    execution = _execution(arguments)
    execution.check()
    spec, store = spec_of(arguments), Store(Path(arguments.out))
    if arguments.plan:
        return _print_plan(spec, store, execution, as_json=arguments.json)
    confirm = arguments.datasets is None and arguments.suite is None and not arguments.yes
    listener = (Lines if arguments.json else Silent if arguments.quiet else Text)(arguments.device, confirm)
    try:
        done = run_bench(spec, store, listener, execution)
    except KeyboardInterrupt:
        if listener.started or spec.tune:
            what = "rows and trials" if spec.tune else "rows"
            print(
                f"\nStopped. All finished {what} are kept in {store.root}; the same command does the rest.",
                file=sys.stderr,
            )
        raise
    if arguments.json:
        emit_end(done)
    else:
        _print_report(done, store)
    return _print_failures(done, store)


def _execution(arguments: argparse.Namespace) -> Execution:
    """How the benchmark is to be carried out. Raises BadValue for what does not go together."""
    workers = _workers(arguments)
    if (n := processes()) > 1:
        if arguments.launcher != "local":
            raise BadValue(
                f"--launcher {arguments.launcher} under torchrun: its {n} processes share one run after the other. "
                "Leave --launcher out, or torchrun."
            )
        if (workers or 1) > 1:
            raise BadValue(
                f"{workers} workers under torchrun: its {n} processes share one run after the other. Leave "
                "--workers (MMZOO_WORKERS) out, or torchrun."
            )
        workers = 1
    return Execution(
        arguments.device,
        arguments.launcher,
        dict(map(parse_setting, arguments.launcher_arg)),
        workers,
        arguments.checkpoint_every,
        apart=n == 1,
        command=shlex.join(["mmzoo", *arguments.argv]),
    )


def _workers(arguments: argparse.Namespace) -> int | None:
    """The number of runs at a time that was asked for; None for the launcher's choice. Raises BadValue."""
    given, name = arguments.workers, "--workers"
    if given is None:
        given, name = os.environ.get("MMZOO_WORKERS") or None, "MMZOO_WORKERS"
    if given is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,3}", given):
        raise BadValue(f"{name} must be a whole number from 1, not {given!r}.")
    return int(given)


def _print_plan(spec: BenchSpec, store: Store, execution: Execution, *, as_json: bool) -> int:
    """Print what the benchmark would do. Imports torch only to count the parameters of encoders of a user's own data."""
    plan, unmade = dry_plan(spec, execution)
    missing = to_do(plan, store)
    if as_json:
        emit_plan(plan, len(missing), store)
        return 0
    if spec.tune is not None:
        print(tuning_line(plan, spec.tune))
    lines = list(plan_lines(plan, len(missing), store, encoder_sizes_of(plan)))
    if unmade:
        lines.append(f"  prepared or re-checked first: {', '.join(unmade)}")
    print("\n".join(map(wrapped, [*lines, *time_lines(missing, store, None)[1]])))
    return 0


def _print_report(done: Finished, store: Store) -> None:
    """The tables of this benchmark's runs."""
    from mmzoo.benchmark.report import tables
    from mmzoo.benchmark.reporting.terminal import show
    from mmzoo.benchmark.results.index import reading

    with reading(store, "tables" if done.plan.bench.stress else "scores") as read:
        rows = done.plan.rows(store, read)
    if rows:
        views = ["overview", "stress"] if done.plan.bench.stress else []
        show(tables(rows, done.plan.asked(), store, views), sys.stdout)
    print(f"A page with charts and every run: mmzoo report {store.root} -o report.html")
    print(f"More tables: mmzoo report {store.root} --details --modalities --stats")


def _print_failures(done: Finished, store: Store) -> int:
    """Why runs failed, on standard error. Returns the exit code."""
    failed = {**done.failed, **done.unsaved}
    if not failed:
        return 0
    for reason, n in Counter(failed.values()).most_common(5):
        print(f"mmzoo: {count(n, 'run')}: {reason}", file=sys.stderr)
    print(
        f"mmzoo: {count(len(failed), 'run')} failed; log.txt in the run's folder below {store.root / 'runs'} "
        "says why. The same command tries again.",
        file=sys.stderr,
    )
    return 1
