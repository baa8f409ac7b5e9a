"""`mmzoo tune`: tune the hyperparameters of each method on the validation set."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.benchmark.bench import Execution, prepared_plan, tune
from mmzoo.cli.bench.listeners import Text
from mmzoo.cli.bench.options import add_spec_options, spec_of
from mmzoo.errors import BadValue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "tune",
        help="tune hyperparameters on the validation set, with equal budgets for all methods",
        description="Gives every method of a bench, plain training included, the same number of trials and epochs over its "
        "declared search space, scores them on the validation set, and prints the best. `mmzoo bench --tune N` with the same options "
        "then runs them with the bench's seeds. Trials that are already in the output folder are not repeated. "
        "Requires Optuna: pip install 'mmzoo[tune]'.",
    )
    add_spec_options(parser)
    parser.add_argument(
        "--trials", metavar="N", type=int, required=True, dest="tune", help="number of trials per method"
    )
    parser.set_defaults(command=run, resumes="Finished trials are kept: the same command resumes with the rest.")


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.reporting.tables import Cell, Table, markdown
    from mmzoo.benchmark.results.store import Store

    if not arguments.out:
        raise BadValue("--out is empty: name the folder of the results.")
    spec = spec_of(arguments)
    store = Store(Path(arguments.out))
    execution, listener = Execution(arguments.device), Text()
    execution.check()
    plan = prepared_plan(spec, store, execution, listener)
    tuned = tune(plan, store, arguments.tune, arguments.device, listener)
    table = Table(
        f"settings chosen on validation over {arguments.tune} trials",
        ["data set", "method", "settings", "validation as asked", "validation chosen", "seconds", "backwards"],
        words=3,
    )
    from mmzoo.benchmark.results.records import as_settings, summary

    seen: set[str] = set()
    for planned in tuned.runs:
        if planned.spec.tuning is None or planned.spec.config_id in seen:
            continue
        seen.add(planned.spec.config_id)
        said = summary(store.tuning(planned.spec.tuning["study"]), arguments.tune)
        held = [f"{100 * said['holdout'][k]:.1f}" for k in ("first", "best")]
        values = as_settings(said["chosen"], planned.method, [part.strategy for part in planned.spec.parts])
        cells = [planned.dataset, planned.label, values, *held, f"{said['seconds']:.1f}", f"{said['backward']:.0f}"]
        table.body.append([Cell(c) for c in cells])
    table.notes.append(
        "validation as asked: the first trial, the method as it was asked for. The highest of many trials is too high: only "
        "the bench's test scores compare methods. Settings are written as --set takes them."
    )
    print(markdown(table))
    print(f"Run them with the bench's seeds: the same options with mmzoo bench --tune {arguments.tune}")
    return 0
