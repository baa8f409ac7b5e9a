"""mmzoo bench: compare methods on data sets, all under one protocol."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.config import GRAMMAR, BenchSpec, parse_seeds, parse_setting, read_suite
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.bench.plan import Plan
    from mmzoo.bench.store import Store

DEFAULT_OUT = "mmzoo-results"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench", help="train and compare methods",
        description="Trains every method on every data set with every seed, all on the same splits, budget and order "
        "of batches, chooses the epoch on holdout, scores test once, and prints the tables. What is in the output "
        "folder already is not run again.",
    )  # fmt: skip
    add = parser.add_argument
    add("--method", metavar="SPEC", help=f"the method that the bench is about: {GRAMMAR}")
    add("--baselines", metavar="SPEC,...", help="methods to compare it with")
    add("--datasets", metavar="NAME[:PRESET],...", help="data sets (default: mfeat)")
    add("--seeds", metavar="N|LIST", help="how many (3), a list (0,4 or 7,) or a range (5-14); default: 3")
    add("--epochs", metavar="N", type=int, help="epochs of every run (default: the data set's)")
    add("--preset", metavar="NAME", help="training protocol of the data set: default, paper, release ...")
    add("--set", metavar="WHAT.KEY=VALUE", action="append", default=[], dest="settings",
        help="a parameter of a method, head, encoder or data set, or of training: ogm.alpha=0.3, train.lr=0.01"
        )  # fmt: skip
    add("--suite", metavar="FILE", help="a YAML file with these options; options given here win")
    add("--no-references", action="store_true",
        help="leave out the reference rows: each modality alone (unless a method learns from it), plain joint, and the "
             "control joint_unimodal"
        )  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add("--out", metavar="DIR", default=DEFAULT_OUT, help=f"folder of the results (default: {DEFAULT_OUT})")
    add("--launcher", metavar="NAME", default="local", help="local, ray, slurm (default: local)")
    add("--workers", metavar="N", help="how many runs at once (default: MMZOO_WORKERS, else what the launcher finds "
        "right: locally the cores for small models, one for all others)")  # fmt: skip
    add("--launcher-arg", metavar="KEY=VALUE", action="append", default=[],
        help="an option of the launcher: address=auto for ray, slurm_partition=gpu for slurm ...")
    add("--checkpoint-every", metavar="SECONDS", type=float, default=30.0,
        help="how often a run is saved, between its epochs, to go on from there after a kill (default: 30)"
        )  # fmt: skip
    add("--plan", action="store_true", help="print the plan and stop")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.bench.plan import make_plan, to_do
    from mmzoo.bench.store import Store
    from mmzoo.plugins import catalogue

    if not arguments.out:
        raise BadValue("--out is empty: name the folder of the results.")
    _check_work(arguments)
    plan = make_plan(spec_of(arguments), catalogue())
    store = Store(Path(arguments.out))
    if not arguments.plan:
        store.prepare()
    missing = to_do(plan, store)
    _print_plan(plan, len(missing), store)
    if arguments.plan:
        return 0
    store.note_bench(plan.methods(), [vars(r) for r in plan.refused])
    failed = _work(missing, store, arguments) if missing else {}
    return _print_report(plan, store, failed)


def _check_work(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is planned."""
    from mmzoo.bench.launchers import check

    if not 0 <= arguments.checkpoint_every < math.inf:
        raise BadValue(f"--checkpoint-every must be a number of seconds from 0, not {arguments.checkpoint_every}.")
    _workers(arguments)
    check(arguments.launcher, dict(map(parse_setting, arguments.launcher_arg)))


def spec_of(arguments: argparse.Namespace) -> BenchSpec:
    """The bench that the suite and the flags describe together. Raises MmzooError for what is faulty."""
    from mmzoo.plugins import catalogue

    fields: dict[str, Any] = {}
    if arguments.suite is not None:
        fields = read_suite(Path(arguments.suite), catalogue())
    if arguments.method is not None:
        fields["method"] = arguments.method
    if arguments.baselines is not None:
        fields["baselines"] = _names(arguments.baselines)
    if arguments.datasets is not None:
        fields["datasets"] = _names(arguments.datasets)
    if arguments.seeds is not None:
        fields["seeds"] = parse_seeds(arguments.seeds)
    if arguments.epochs is not None:
        if arguments.epochs < 1:
            raise BadValue(f"--epochs must be at least 1, not {arguments.epochs}.")
        fields["epochs"] = arguments.epochs
    if arguments.preset is not None:
        fields["preset"] = arguments.preset
    if arguments.no_references:
        fields["references"] = False
    fields["settings"] = (*fields.get("settings", ()), *map(parse_setting, arguments.settings))
    if "method" not in fields:
        raise BadValue("name the method that the bench is about, e.g. --method dynamic_gap_lb. See: mmzoo list methods")
    return BenchSpec(**fields)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(","))
    if not all(names):
        raise BadValue(f"{text!r} has an empty name: write NAME or NAME,NAME.")
    return names


def _print_plan(plan: Plan, missing: int, store: Store) -> None:
    methods = plan.methods()
    print(f"Plan: {_count(len(plan.runs), 'run')} ({_count(len(methods), 'method')}, "
          f"{_count(len(plan.bench.seeds), 'seed')}), by data set:")  # fmt: skip
    for dataset in dict.fromkeys(p.dataset for p in plan.runs):
        here = [p for p in plan.runs if p.dataset == dataset]
        t = here[0].spec.training
        print(f"  {dataset}: {_count(len(here), 'run')} of {_count(t.epochs, 'epoch')} ({t.optimizer}, lr {t.lr:g}, "
              f"batch {t.batch_size}, schedule {t.schedule}, weight decay {t.weight_decay:g})")  # fmt: skip
    titles = {"method": "method", "baseline": "baselines", "reference": "references", "teacher": "teachers"}
    for role, text in titles.items():
        if named := [label for label, r in methods.items() if r == role]:
            print(f"  {text}: {', '.join(named)}")
    for refused in plan.refused:
        print(f"  not on {refused.dataset}: {refused.method}: {refused.reason}")
    done = len(plan.runs) - missing
    print(f"  results: {store.root}" + (f" (there already: {done}, to do: {missing})" if done else ""))
    sys.stdout.flush()


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _work(missing: list[Any], store: Store, arguments: argparse.Namespace) -> dict[str, str]:
    """Do the missing runs, one row in the store as soon as each ends. Returns, by run, why those failed that did."""
    from mmzoo.bench.launchers import launch
    from mmzoo.bench.progress import Shown
    from mmzoo.bench.work import Order

    if arguments.launcher == "local" and arguments.device not in ("auto", "cpu"):
        from mmzoo.bench.runner import check_device

        check_device(arguments.device)  # before anything is written
    order = Order.of(missing, store, device=arguments.device, checkpoint_every=arguments.checkpoint_every)
    options = dict(map(parse_setting, arguments.launcher_arg))
    started = time.monotonic()
    try:
        with Shown(runs=missing) as progress:
            launch(order, store, progress, launcher=arguments.launcher, workers=_workers(arguments), options=options)
    except KeyboardInterrupt:
        print(f"\nStopped. All finished rows are kept in {store.root}; the same command does the rest.",
              file=sys.stderr)  # fmt: skip
        raise
    print(f"Done in {time.monotonic() - started:.0f} s.\n")
    return progress.failed | progress.unsaved


def _workers(arguments: argparse.Namespace) -> int | None:
    """How many are asked for; None: as the launcher finds right. Raises BadValue."""
    given, name = arguments.workers, "--workers"
    if given is None:
        given, name = os.environ.get("MMZOO_WORKERS") or None, "MMZOO_WORKERS"
    if given is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,3}", given):
        raise BadValue(f"{name} must be a whole number from 1, not {given!r}.")
    return int(given)


def _print_report(plan: Plan, store: Store, failed: dict[str, str]) -> int:
    """The tables of this bench's runs."""
    from mmzoo.bench.report import render

    rows = [row for p in plan.runs if (row := store.row(p.spec.run_id)) is not None]
    labels = {p.spec.run_id: p for p in plan.runs}
    shown = [{**row, "label": labels[row["run_id"]].label, "dataset": labels[row["run_id"]].dataset} for row in rows]
    asked = {"methods": plan.methods(), "refused": [vars(r) for r in plan.refused]}
    print(render(shown, asked, "md"))
    print(f"Again, or in another form: mmzoo report {store.root} --format md|csv|json|latex")
    print(f"Each modality by every measure: mmzoo report {store.root} --modalities")
    if failed:
        for reason, n in Counter(failed.values()).most_common(5):
            print(f"mmzoo: {_count(n, 'run')}: {reason}", file=sys.stderr)
        print(f"mmzoo: {_count(len(failed), 'run')} failed; log.txt in the run's folder below {store.root / 'runs'} "
              "says why. The same command tries again.", file=sys.stderr)  # fmt: skip
        return 1
    return 0
