"""mmzoo bench: compare methods on data sets, all under one protocol."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.execution.torchrun import processes
from mmzoo.config.grammar import METHOD_GRAMMAR, dataset_names, parse_override, parse_seeds, parse_setting
from mmzoo.config.spec import SELECTIONS, BenchSpec, check_selection
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.benchmark.planning.planned import Plan, Planned
    from mmzoo.benchmark.results.store import Store

DEFAULT_OUT = "mmzoo-results"
#: seconds that a bench on data sets of our choice may take without being confirmed
ASK_AFTER = 900.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="train and compare methods",
        description="Trains every method on every data set with every seed, all on the same splits, budget and order "
        "of batches, chooses the epoch on holdout, scores test once, and prints the tables. What is in the output "
        "folder already is not run again.",
    )
    add_spec_options(parser)
    add = parser.add_argument
    add(
        "--selection",
        "--protocol",
        metavar="NAME",
        help=f"how the epoch is chosen: {', '.join(SELECTIONS)}. last: no holdout is cut off, and the last epoch is scored; test "
        "(or peers): also, in a column of its own, the epoch chosen on test, to measure how much that flatters (default: "
        "holdout)",
    )
    add("--keep-weights", action="store_true", help="keep the weights of every run, for mmzoo.load_run")
    add(
        "--tune",
        metavar="N",
        type=int,
        help="choose the settings of every method on holdout first, each with N trials (pip install 'mmzoo[tune]')",
    )
    add(
        "--track",
        metavar="NAME[:TARGET]",
        action="append",
        default=[],
        help="a tracker that is told of every epoch, e.g. tensorboard or tensorboard:DIR; may be given several times",
    )
    add("--launcher", metavar="NAME", default="local", help="local, ray, slurm (default: local)")
    add(
        "--workers",
        metavar="N",
        help="how many runs at once (default: MMZOO_WORKERS, else what the launcher finds "
        "right: locally the cores for small models, one for all others, and on a GPU what its memory holds)",
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
        help="how often a run is saved, between its epochs, to go on from there after a kill (default: 30)",
    )
    add("--plan", action="store_true", help="print the plan and stop")
    add("--yes", action="store_true", help="do not ask before a bench without --datasets that takes long")
    parser.set_defaults(command=run)


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """What says which runs, for the bench and for tuning alike; and where."""
    add = parser.add_argument
    add("--method", metavar="SPEC", help=f"the method that the bench is about: {METHOD_GRAMMAR}")
    add("--baselines", metavar="SPEC,...", help="methods to compare it with")
    add(
        "--datasets",
        metavar="NAME[:PRESET][,KEY=VALUE],...",
        help="data sets, and FILE.yaml for data of your own (default: real data that is prepared, else generated twins of the "
        "published data sets, and mfeat; MMZOO_DATASETS names others)",
    )
    add("--seeds", metavar="N|LIST", help="how many (3), a list (0,4 or 7,) or a range (5-14); default: 3")
    add("--epochs", metavar="N", type=int, help="epochs of every run (default: the data set's)")
    add("--preset", metavar="NAME", help="training protocol of the data set: default, paper, release ...")
    add(
        "--set",
        metavar="WHAT.KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="a parameter of a method, head, encoder or data set, or of training: ogm.alpha=0.3, train.lr=0.01",
    )
    add(
        "--encoders",
        metavar="MODALITY=NAME,...",
        help="read a modality with another encoder than usual, e.g. audio=resnet18; the same as --set encoder.audio=resnet18",
    )
    add("--heads", metavar="NAME,...", help="run each method that names no head of its own with each of these")
    add(
        "--override",
        metavar="'WHAT.KEY=VALUE ...'",
        action="append",
        default=[],
        dest="overrides",
        help="settings that hold together, over those of --set; given several times, the whole bench is run under each",
    )
    add("--suite", metavar="FILE", help="a YAML file with these options; options given here win")
    add(
        "--no-references",
        action="store_true",
        help="leave out the reference rows: each modality alone (unless a method learns from it), plain joint, and the "
        "control joint_unimodal",
    )
    add(
        "--floor",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="linear baselines of the same samples, each modality and all joined: TF-IDF, pixels or statistics and logistic "
        "regression (default: on data of your own, with the references)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add("--out", metavar="DIR", default=DEFAULT_OUT, help=f"folder of the results (default: {DEFAULT_OUT})")


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.planning.data_defaults import to_make
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.benchmark.planning.planned import to_do
    from mmzoo.benchmark.results.store import Store
    from mmzoo.registry.plugins import catalogue
    from mmzoo.trackers.base import check_trackers

    if not arguments.out:
        raise BadValue("--out is empty: name the folder of the results.")
    _check_work(arguments)
    spec = spec_of(arguments)
    ours = arguments.datasets is None and arguments.suite is None
    store = Store(Path(arguments.out))
    device = device_of(arguments.device, arguments.launcher)
    if arguments.plan:
        unmade = to_make(spec.datasets, catalogue(), spec.settings)
        plan = make_plan(spec, catalogue(), stores=not unmade, device=device)
    else:
        unmade = []
        plan = prepared_plan(spec, store, device)
    check_trackers(catalogue(), plan.bench.track)
    if spec.tune is not None:
        plan = tune(plan, store, spec.tune, arguments.device, dry=arguments.plan)
    missing = to_do(plan, store)
    if arguments.plan:
        _print_plan(plan, len(missing), store)
    else:
        _print_plan(plan, len(missing), store, partial(_sizes, plan))
    if unmade:
        print(f"  made, or checked for changes, first: {', '.join(unmade)}")
    seconds = _print_times(missing, store, arguments)
    if arguments.plan:
        return 0
    if ours and not arguments.yes:
        _ask(seconds)
    store.note_bench(plan.methods(), [vars(r) for r in plan.refused])
    failed = _work(missing, store, arguments) if missing else {}
    return _print_report(plan, store, failed)


def _check_work(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is planned."""
    from mmzoo.benchmark.scheduling.launchers import check

    if not 0 <= arguments.checkpoint_every < math.inf:
        raise BadValue(f"--checkpoint-every must be a number of seconds from 0, not {arguments.checkpoint_every}.")
    if processes() > 1:
        _check_together(arguments)
    _workers(arguments)
    check(arguments.launcher, dict(map(parse_setting, arguments.launcher_arg)))


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse what is not for processes that torchrun has started."""
    n = processes()
    if arguments.launcher != "local":
        raise BadValue(
            f"--launcher {arguments.launcher} under torchrun: its {n} processes share one run after the other. "
            "Leave --launcher out, or torchrun."
        )
    if (_workers(arguments) or 1) > 1:
        raise BadValue(
            f"{_workers(arguments)} workers under torchrun: its {n} processes share one run after the other. Leave "
            "--workers (MMZOO_WORKERS) out, or torchrun."
        )


def tune(plan: Plan, store: Store, trials: int, device: str, *, dry: bool = False) -> Plan:
    """The plan with tuned settings; dry: as it is, with what tuning would do told."""
    from mmzoo.benchmark.execution.device import check_device
    from mmzoo.benchmark.tune import check_tuning, tuned_plan
    from mmzoo.registry.plugins import catalogue

    configs = {p.spec.config_id for p in plan.runs if p.role not in ("teacher", "floor")}
    print(
        f"Tuning on holdout: {_count(trials, 'trial')} for each of {_count(len(configs), 'configuration')}, under a seed "
        "that is not reported",
        flush=True,
    )
    if dry:
        return plan
    check_tuning()

    def told(planned: Planned, number: int, trial: Mapping[str, Any]) -> None:
        values = " ".join(f"{k}={v:.4g}" for k, v in trial["values"].items())
        said = f"{100 * trial['score']:.1f} %" if trial["status"] == "ok" else trial["status"]
        print(f"  {planned.dataset} {planned.label} [{number + 1}/{trials}] {values}: {said}", flush=True)

    return tuned_plan(plan, catalogue(), store, trials, device=check_device(device), on_trial=told)


def spec_of(arguments: argparse.Namespace) -> BenchSpec:
    """The bench that the suite and the flags describe together. Raises MmzooError for what is faulty."""
    from mmzoo.registry.plugins import catalogue

    fields: dict[str, Any] = {}
    if arguments.suite is not None:
        fields = read_suite(Path(arguments.suite), catalogue())
    if arguments.method is not None:
        fields["method"] = arguments.method
    if arguments.baselines is not None:
        fields["baselines"] = _names(arguments.baselines)
    if arguments.datasets is not None:
        fields["datasets"] = dataset_names(arguments.datasets)
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
    if arguments.floor is not None:
        fields["floor"] = arguments.floor
    if arguments.heads is not None:
        fields["heads"] = _names(arguments.heads)
    if arguments.overrides:
        fields["overrides"] = tuple(map(parse_override, arguments.overrides))
    given = vars(arguments)  # `mmzoo tune` has no say in what follows
    if given.get("selection") is not None:
        fields["selection"] = check_selection(given["selection"])
    if given.get("keep_weights"):
        fields["keep_weights"] = True
    if given.get("track"):
        fields["track"] = tuple(given["track"])
    if given.get("tune") is not None:
        if given["tune"] < 1:
            raise BadValue(f"tuning takes at least 1 trial, not {given['tune']}.")
        fields["tune"] = given["tune"]
    if "datasets" not in fields:
        from mmzoo.benchmark.planning.data_defaults import default_datasets

        fields["datasets"] = default_datasets(catalogue())
    chosen = [] if arguments.encoders is None else [f"encoder.{pair}" for pair in _names(arguments.encoders)]
    fields["settings"] = (
        *fields.get("settings", ()),
        *map(parse_setting, chosen),
        *map(parse_setting, arguments.settings),
    )
    if "method" not in fields:
        raise BadValue("name the method that the bench is about, e.g. --method dynamic_gap_lb. See: mmzoo list methods")
    if fields.get("tune") is not None and processes() > 1:
        raise BadValue(
            "tuning under torchrun: trials are trained in one process each. Tune without torchrun (mmzoo tune), and "
            "give what it has chosen with --set."
        )
    return BenchSpec(**fields, processes=processes())


def device_of(asked: str, launcher: str = "local") -> str:
    """Where runs will be trained, as far as is known without torch; "auto" where it is not."""
    from mmzoo.benchmark.scheduling.launchers.local import gpu_likely

    return "cpu" if asked == "auto" and launcher == "local" and not gpu_likely() else asked


def prepared_plan(spec: BenchSpec, store: Store, device: str) -> Plan:
    """The plan, and what it needs: a folder that takes results, and the data that can be made without asking."""
    from mmzoo.benchmark.planning.data_defaults import make_missing
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.cli.stores import Bar, tell
    from mmzoo.registry.plugins import catalogue

    make_plan(spec, catalogue(), stores=False, device=device)  # what is wrong with it is told before anything is made
    store.prepare()
    make_missing(spec, catalogue(), Bar, tell)
    return make_plan(spec, catalogue(), device=device)


def _print_times(missing: list[Any], store: Store, arguments: argparse.Namespace) -> float:
    """How long the plan will take, and how that is known. A plan alone only looks at rows. Returns the seconds."""
    from mmzoo.benchmark.scheduling.timing import probed, recorded, told
    from mmzoo.registry.plugins import catalogue

    found = recorded(missing, store)
    unknown = [p for p in missing if p.dataset not in found]
    how = "by the rows that are there" if found else ""
    if unknown and not arguments.plan:
        from mmzoo.benchmark.execution.device import check_device

        measured = probed(unknown, catalogue(), check_device(arguments.device))
        found |= measured
        how = " and ".join(x for x in (how, "by a few steps of plain training" if measured else "") if x)
    if found:
        each = ", ".join(f"{dataset} {told(s).removeprefix('about ')}" for dataset, s in found.items())
        print(f"  time: {told(sum(found.values()))} ({each}; {how})")
    if rest := sorted({p.dataset for p in missing} - set(found)):
        print(f"  time of {', '.join(rest)}: measured when the bench starts")
    sys.stdout.flush()
    return sum(found.values())


def _ask(seconds: float) -> None:
    """Have a long plan confirmed that nobody asked for data set by data set."""
    from mmzoo.benchmark.scheduling.timing import told

    if seconds <= ASK_AFTER:
        return
    if not sys.stdin.isatty():
        raise BadValue(
            f"this takes {told(seconds)}. Add --yes to go on, or name fewer with --datasets, --baselines or --seeds."
        )
    if input(f"This takes {told(seconds)}. Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise BadValue("not started. Name fewer data sets with --datasets, or fewer methods with --baselines.")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(","))
    if not all(names):
        raise BadValue(f"{text!r} has an empty name: write NAME or NAME,NAME.")
    return names


def _sizes(plan: Plan, runs: Sequence[Planned]) -> dict[str, int]:
    """Parameters of the encoders of a user's own data."""
    from mmzoo.benchmark.execution.building import encoder_sizes
    from mmzoo.registry.plugins import catalogue

    if "why" not in plan.entries[runs[0].dataset].extra:
        return {}
    return encoder_sizes(max(runs, key=lambda p: len(p.spec.encoders)), catalogue())


def _print_plan(
    plan: Plan, missing: int, store: Store, sizes: Callable[[Sequence[Planned]], dict[str, int]] = lambda runs: {}
) -> None:
    """The plan in words. sizes: tells the parameters of encoders by modality, which takes torch."""
    from mmzoo.benchmark.planning.choices import choice_lines

    methods = plan.methods()
    print(
        f"Plan: {_count(len(plan.runs), 'run')} ({_count(len(methods), 'method')}, "
        f"{_count(len(plan.bench.seeds), 'seed')}), by data set:"
    )
    for dataset in dict.fromkeys(p.dataset for p in plan.runs):
        here = [p for p in plan.runs if p.dataset == dataset and p.role != "floor"]
        t = here[0].spec.training
        lr, decay = (_span([getattr(p.spec.training, k) for p in here]) for k in ("lr", "weight_decay"))
        print(
            f"  {dataset}: {_count(len(here), 'run')} of {_count(t.epochs, 'epoch')} ({t.optimizer}, lr {lr}, "
            f"batch {t.batch_size}, schedule {t.schedule}, weight decay {decay})"
        )
        for line in choice_lines(plan, dataset, sizes(here)):
            print(f"    {line}")
    titles = {
        "method": "method",
        "baseline": "baselines",
        "reference": "references",
        "teacher": "teachers",
        "floor": "linear floors",
    }
    for role, text in titles.items():
        if named := [label for label, r in methods.items() if r == role]:
            print(f"  {text}: {', '.join(named)}")
    for note, labels in _inert(plan).items():
        print(f"  note: {', '.join(labels)}: {note}")
    reasons: dict[tuple[str, str], list[str]] = {}
    for refused in plan.refused:
        reasons.setdefault((refused.method, refused.reason), []).append(refused.dataset)
    for (method, reason), datasets in reasons.items():
        print(f"  not on {', '.join(datasets)}: {method}: {reason}")
    done = len(plan.runs) - missing
    print(f"  results: {store.root}" + (f" (there already: {done}, to do: {missing})" if done else ""))
    sys.stdout.flush()


def _inert(plan: Plan) -> dict[str, list[str]]:
    """What the optimizer of a data set cancels, and the methods it is a part of."""
    from mmzoo.benchmark.planning.refusals import inert
    from mmzoo.registry.plugins import catalogue

    found: dict[str, dict[str, None]] = {}
    for run in plan.runs:
        for note in inert(catalogue(), run.spec.parts, run.spec.training):
            found.setdefault(note, {})[run.label] = None
    return {note: list(labels) for note, labels in found.items()}


def _span(values: Sequence[float]) -> str:
    """What all runs have, or from where to where: tuning may have chosen another one for each method."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _work(missing: list[Any], store: Store, arguments: argparse.Namespace) -> dict[str, str]:
    """Do the missing runs, one row in the store as soon as each ends. Returns, by run, why those failed that did."""
    from mmzoo.benchmark.scheduling.launchers import launch
    from mmzoo.benchmark.scheduling.progress import display
    from mmzoo.benchmark.scheduling.worker_loop import Order

    if arguments.launcher == "local" and arguments.device not in ("auto", "cpu"):
        from mmzoo.benchmark.execution.device import check_device

        check_device(arguments.device)  # before anything is written
    order = Order.of(missing, store, device=arguments.device, checkpoint_every=arguments.checkpoint_every)
    options = dict(map(parse_setting, arguments.launcher_arg))
    started = time.monotonic()
    try:
        with display(missing) as progress:
            workers = 1 if processes() > 1 else _workers(arguments)
            launch(
                order,
                store,
                progress,
                launcher=arguments.launcher,
                workers=workers,
                options=options,
                apart=processes() == 1,
            )
    except KeyboardInterrupt:
        print(
            f"\nStopped. All finished rows are kept in {store.root}; the same command does the rest.", file=sys.stderr
        )
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
    from mmzoo.benchmark.report import tables
    from mmzoo.benchmark.reporting.terminal import show

    if rows := plan.rows(store):
        show(tables(rows, plan.asked(), store), sys.stdout)
    print(f"A page with charts and every run: mmzoo report {store.root} -o report.html")
    print(f"More tables: mmzoo report {store.root} --details --modalities --stats")
    if failed:
        for reason, n in Counter(failed.values()).most_common(5):
            print(f"mmzoo: {_count(n, 'run')}: {reason}", file=sys.stderr)
        print(
            f"mmzoo: {_count(len(failed), 'run')} failed; log.txt in the run's folder below {store.root / 'runs'} "
            "says why. The same command tries again.",
            file=sys.stderr,
        )
        return 1
    return 0
