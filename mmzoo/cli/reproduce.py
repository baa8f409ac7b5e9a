"""mmzoo reproduce: the tables and figures of the paper, ours beside the printed numbers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.paper.printed import TABLES
from mmzoo.benchmark.results.paper_figures import FIGURES
from mmzoo.errors import BadValue, unknown

if TYPE_CHECKING:
    from mmzoo.benchmark.paper.runs import Budget

DEFAULT_OUT = "mmzoo-paper"
TARGETS = (*TABLES, *FIGURES, "all")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="reproduce the tables and figures of the paper, next to those printed numbers that have a source here",
        description="Runs what a table or figure of 'Facilitating Multimodal Classification via Dynamically Learning Modality "
        "Gap' (NeurIPS 2024) needs, under its protocol, on prepared real data, else on synthetic sets in their format, and writes "
        "the results next to the printed numbers that have a source here: 16 of the 152 of Table 1, none of Tables 2 and 5. "
        "Runs that are already in the output folder are not repeated.",
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help=f"{', '.join(TARGETS)}")
    add("--datasets", metavar="NAME,...", help="only these data sets")
    add("--seeds", metavar="N", type=int, help="number of seeds (default: three, as in the paper)")
    add("--fast", action="store_true", help="one seed and two epochs, as a smoke test")
    add(
        "--weights",
        metavar="NAME",
        help="weights that encoders start from on real data; none: from scratch (default: the paper's)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add(
        "--workers",
        metavar="N",
        type=int,
        help="number of parallel runs (default: MMZOO_WORKERS, else the number of cores)",
    )
    add(
        "--out",
        metavar="DIR",
        default=DEFAULT_OUT,
        help=f"output folder for runs and documents (default: {DEFAULT_OUT})",
    )
    add("--plan", action="store_true", help="print how many runs there are, on which data, and stop")
    parser.set_defaults(command=run, resumes="Finished runs are kept: the same command does the rest.")


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.paper.documents import write_documents
    from mmzoo.benchmark.paper.reproduce import document
    from mmzoo.benchmark.paper.runs import Budget, check_datasets, check_weights
    from mmzoo.benchmark.reporting.terminal import show
    from mmzoo.benchmark.results.paper_figures import paper_folder
    from mmzoo.registry.plugins import catalogue

    names = _names(arguments)
    chosen = tuple(n.strip() for n in (arguments.datasets or "").split(",") if n.strip())
    check_datasets(chosen, names, catalogue())
    began = time.monotonic()
    budget = Budget(
        Path(arguments.out),
        chosen,
        arguments.seeds,
        arguments.fast,
        arguments.device,
        _workers(arguments),
        lambda row: _told(row, began),
        arguments.weights,
    )
    check_weights(budget, names, catalogue())
    if arguments.plan:
        return _print_plan(names, budget)
    folder = paper_folder(budget.out)
    documents = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        documents.append(document(name, catalogue(), budget))
        show(list(documents[-1].tables), sys.stdout)
    files = write_documents(documents, folder)
    print(f"{len(files)} files below {folder}: index.html has all of it. {time.monotonic() - began:.0f} s.")
    return 0


def _print_plan(names: list[str], budget: Budget) -> int:
    """Print the runs of each table and figure, and of all together: they share runs."""
    from mmzoo.benchmark.bench import Execution, dry_plan
    from mmzoo.benchmark.paper.runs import suite_specs
    from mmzoo.benchmark.planning.planned import Planned, to_do
    from mmzoo.benchmark.results.store import Store
    from mmzoo.benchmark.scheduling.timing import recorded, told
    from mmzoo.cli.bench.plan import count
    from mmzoo.registry.plugins import catalogue

    store, missing, unmade = Store(budget.out), dict[str, Planned](), dict[str, None]()
    for name in names:
        runs: dict[str, Planned] = {}
        for spec in suite_specs(name, catalogue(), budget):
            plan, first = dry_plan(spec, Execution(budget.device))
            runs |= {p.spec.run_id: p for p in plan.runs}
            missing |= {p.spec.run_id: p for p in to_do(plan, store)}
            unmade |= dict.fromkeys(first)
        by_data = {
            d: [p for p in runs.values() if p.dataset == d] for d in dict.fromkeys(p.dataset for p in runs.values())
        }
        said = [f"{d} {len(on)} of {count(on[0].spec.training.epochs, 'epoch')}" for d, on in by_data.items()]
        print(f"{name}: {count(len(runs), 'run')} ({', '.join(said)})" if runs else f"{name}: 2 runs, made each time")
    print(f"To do: {count(len(missing), 'run')}; those that tables share, or that are in {budget.out}, are done once.")
    if unmade:
        print(f"  prepared or re-checked first: {', '.join(unmade)}")
    if known := recorded([*missing.values()], store):
        print(f"  time: {told(sum(known.values()))} for {', '.join(known)}, by the rows that are there")
    if rest := dict.fromkeys(p.dataset for p in missing.values() if p.dataset not in known):
        print(f"  time of {', '.join(rest)}: not known before the first run; --fast takes one seed and two epochs")
    return 0


def _names(arguments: argparse.Namespace) -> list[str]:
    """The tables and figures that are asked for. Raises UnknownName or BadValue."""
    if arguments.target not in TARGETS:
        raise unknown("table or figure", arguments.target, TARGETS)
    if not arguments.out:
        raise BadValue("--out is empty: name a folder.")
    if arguments.seeds is not None and arguments.seeds < 1:
        raise BadValue(f"--seeds must be at least 1, not {arguments.seeds}.")
    if arguments.fast and arguments.seeds is not None:
        raise BadValue("--fast runs one seed: leave --seeds or --fast out.")
    return [*TABLES, *FIGURES] if arguments.target == "all" else [arguments.target]


def _workers(arguments: argparse.Namespace) -> int:
    given = (
        arguments.workers if arguments.workers is not None else os.environ.get("MMZOO_WORKERS") or os.cpu_count() or 1
    )
    if not str(given).isdigit() or int(given) < 1:
        raise BadValue(f"--workers (MMZOO_WORKERS) must be a whole number from 1, not {given}.")
    return int(given)


def _told(row: dict[str, Any], began: float) -> None:
    metrics = row["metrics"]
    said = (
        f"{100 * metrics[metrics['main_metric']]:.1f} %"
        if row["status"] == "ok"
        else f"{row['status']}: {row['reason']}"
    )
    print(
        f"  [{time.monotonic() - began:.0f} s] {row['dataset']} {row['label']} seed {row['seed']}: {said}",
        file=sys.stderr,
        flush=True,
    )
