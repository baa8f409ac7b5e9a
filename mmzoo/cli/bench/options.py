"""The options that say which runs a benchmark has; `mmzoo bench` and `mmzoo tune` share them. No torch at import."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mmzoo.benchmark.execution.torchrun import processes
from mmzoo.benchmark.planning.data_defaults import default_datasets
from mmzoo.config.grammar import METHOD_GRAMMAR, dataset_names, parse_override, parse_seeds, parse_setting
from mmzoo.config.spec import BenchSpec, check_selection, check_stresses
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue
from mmzoo.registry.plugins import catalogue

DEFAULT_OUT = "mmzoo-results"


class Taker(Protocol):
    """What options are added to: a parser, or what notes them."""

    @property
    def add_argument(self) -> Callable[..., Any]: ...


def add_spec_options(parser: Taker) -> None:
    """Add the options that say which runs, on which device, and where the results go."""
    _add_method_options(parser.add_argument)
    _add_setting_options(parser.add_argument)
    add = parser.add_argument
    add("--suite", metavar="FILE", help="a YAML file with these options; options given here win")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add("--out", metavar="DIR", default=DEFAULT_OUT, help=f"results folder (default: {DEFAULT_OUT})")


def _add_method_options(add: Callable[..., Any]) -> None:
    add("--method", metavar="SPEC", help=f"the method that the bench is about: {METHOD_GRAMMAR}")
    add("--baselines", metavar="SPEC,...", help="methods to compare it with")
    add(
        "--datasets",
        metavar="NAME[:PRESET][,KEY=VALUE],...",
        help="data sets, and FILE.yaml for data of your own (default: prepared real data, else synthetic sets in the format "
        "of the published ones, and mfeat; MMZOO_DATASETS names others)",
    )
    add("--seeds", metavar="N|LIST", help="how many (3), a list (0,4 or 7,) or a range (5-14); default: 3")
    add("--heads", metavar="NAME,...", help="train each method that names no head with each of these heads")
    add(
        "--no-references",
        action="store_true",
        help="leave out the reference rows: the unimodal baselines (unless a method learns from them), plain joint training, "
        "and the control joint_unimodal",
    )
    add(
        "--floor",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="linear baselines on the same samples, of each modality and of all: TF-IDF, pixels or statistics with logistic "
        "regression (default: for data of your own, with the references)",
    )


def _add_setting_options(add: Callable[..., Any]) -> None:
    add("--epochs", metavar="N", type=int, help="epochs of every run (default: the data set's)")
    add("--preset", metavar="NAME", help="training protocol of the data set: default, paper, release ...")
    add(
        "--set",
        metavar="WHAT.KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="a parameter of a method, head, encoder or data set, or of training: ogm.alpha=0.3, train.lr=0.01, and for "
        "one data set alone mfeat.train.lr=0.01",
    )
    add(
        "--encoders",
        metavar="MODALITY=NAME,...",
        help="use another encoder for a modality, e.g. audio=resnet18; short for --set encoder.audio=resnet18",
    )
    add(
        "--weights",
        metavar="NAME",
        help="weights that encoders start from: none trains all of them from scratch; short for --set encoder.*.weights=NAME",
    )
    add(
        "--override",
        metavar="'WHAT.KEY=VALUE ...'",
        action="append",
        default=[],
        dest="overrides",
        help="a group of settings on top of --set; given several times, the whole bench is run under each group",
    )


def spec_of(arguments: argparse.Namespace) -> BenchSpec:
    """The benchmark that the suite and the options describe together. Raises MmzooError for what is faulty."""
    fields: dict[str, Any] = {}
    if arguments.suite is not None:
        fields = read_suite(Path(arguments.suite), catalogue())
    fields |= _given(arguments)
    if "datasets" not in fields:
        fields["datasets"] = default_datasets(catalogue())
    encoders = [] if arguments.encoders is None else [f"encoder.{pair}" for pair in _names(arguments.encoders)]
    weights = [] if arguments.weights is None else [f"encoder.*.weights={arguments.weights}"]
    added = map(parse_setting, [*encoders, *weights, *arguments.settings])
    fields["settings"] = (*fields.get("settings", ()), *added)
    if "method" not in fields:
        raise BadValue("name the method that the bench is about, e.g. --method dynamic_gap_lb. See: mmzoo list methods")
    return BenchSpec(**fields, processes=processes())


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the benchmark that options were given for."""
    read: dict[str, Callable[[Any], Any]] = {
        "method": str,
        "baselines": _names,
        "datasets": dataset_names,
        "seeds": parse_seeds,
        "epochs": lambda n: _at_least_one(n, "--epochs must be at least 1"),
        "preset": str,
        "floor": bool,
        "heads": _names,
        "selection": check_selection,
        "stress": lambda text: check_stresses(_names(text)),
        "tune": lambda n: _at_least_one(n, "tuning takes at least 1 trial"),
    }
    given = vars(arguments)  # `mmzoo tune` lacks some of them
    fields = {name: use(given[name]) for name, use in read.items() if given.get(name) is not None}
    if arguments.no_references:
        fields["references"] = False
    if arguments.overrides:
        fields["overrides"] = tuple(map(parse_override, arguments.overrides))
    if given.get("keep_weights"):
        fields["keep_weights"] = True
    if given.get("track"):
        fields["track"] = tuple(given["track"])
    return fields


def _at_least_one(n: int, rule: str) -> int:
    if n < 1:
        raise BadValue(f"{rule}, not {n}.")
    return n


def _names(text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(","))
    if not all(names):
        raise BadValue(f"{text!r} has an empty name: write NAME or NAME,NAME.")
    return names
