"""The benchmark from Python: `mmzoo.bench`. No torch at import."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.bench import Events, Execution, run_bench
from mmzoo.benchmark.execution.torchrun import processes
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.report import render
from mmzoo.benchmark.reporting.tables import to_csv
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.progress import display
from mmzoo.benchmark.scheduling.worker_loop import Progress
from mmzoo.config.grammar import parse_seeds
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue, MmzooError

Row = dict[str, Any]


class Rows(list[Row]):
    """The rows of a benchmark, each as stored in `result.json`.

    Args:
        rows: the rows.
        asked: order and roles of the methods, for the tables, and under `refused` what could not be run.
        store: the results folder.
    """

    def __init__(self, rows: Sequence[Row], asked: Mapping[str, Any], store: Store) -> None:
        super().__init__(rows)
        self.asked, self.store = asked, store

    def __repr__(self) -> str:
        methods, datasets = (dict.fromkeys(row[key] for row in self) for key in ("label", "dataset"))
        return f"Rows({len(self)} runs of {', '.join(methods)} on {', '.join(datasets)} in {str(self.store.root)!r})"

    def frame(self) -> Any:
        """A pandas DataFrame, one line per run, nested values as dotted columns. Raises MmzooError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MmzooError(f"a frame needs pandas ({error}). Install it: pip install 'mmzoo[frame]'") from None
        import io

        return pandas.read_csv(io.StringIO(to_csv(self)), dtype={"run_id": str, "config_id": str})

    def report(self, fmt: str = "md", *views: str, stats: bool = False) -> str:
        """The report that `mmzoo report` prints.

        Args:
            fmt: "md", "csv", "json", "latex" or "html".
            views: "overview" (default), "details", "modalities", "stats".
            stats: the same as the view "stats".
        """
        return render(self, self.asked, self.store, fmt, [*views, *(["stats"] if stats else [])])


class _Notified(Progress):
    """Passes on to another listener, and calls a function with every row."""

    def __init__(self, to: Progress, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._to, self._on_row = to, on_row

    def epoch(self, planned: Planned, done: int) -> None:
        self._to.epoch(planned, done)

    def settled(self, planned: Planned, row: Row) -> None:
        self._to.settled(planned, row)
        self._on_row(row)


class _Calling(Events):
    """The events of a call from Python. show: display the progress of the runs as the command does."""

    def __init__(self, on_row: Callable[[Row], None], show: bool) -> None:
        self._on_row, self._show = on_row, show

    @contextlib.contextmanager
    def progress(self, runs: Sequence[Planned]) -> Iterator[Progress]:
        with display(runs, quiet=not self._show) as shown:
            yield _Notified(shown, self._on_row)


def bench(
    method: str,
    baselines: Sequence[str] = (),
    datasets: Sequence[str] = ("mfeat",),
    *,
    seeds: int | str | Sequence[int] = 3,
    epochs: int | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    encoders: Mapping[str, str] | None = None,
    heads: Sequence[str] = (),
    overrides: Sequence[Mapping[str, Any]] = (),
    selection: str = "holdout",
    protocol: str | None = None,
    references: bool = True,
    floor: bool | None = None,
    keep_weights: bool = False,
    tune: int | None = None,
    track: Sequence[str] = (),
    out: str | Path = "mmzoo-results",
    device: str = "auto",
    workers: int = 1,
    checkpoint_every: float = 30.0,
    progress: bool = False,
    stress: Sequence[str] = (),
    on_row: Callable[[Row], None] = lambda row: None,
) -> Rows:
    """Train and compare methods, as `mmzoo bench` does with the options of the same names.

    Data sets that need no decision of yours are prepared first. Runs that are in `out` are not trained again.

    Args:
        method: The method that the benchmark is about, e.g. "ogm" or "dynamic_gap_lb+refit@sum".
        baselines: Methods to compare it with.
        datasets: Data sets, NAME or NAME:PRESET, or the path of a manifest of your own data.
        seeds: A number of seeds, a list of seeds, or a text such as "5-14".
        epochs: Epochs of every run; None for those of the data set.
        preset: Training protocol of the data set: "default", "paper", "release" ...
        settings: Parameters by dotted name, e.g. {"ogm.alpha": 0.8, "train.lr": 0.01}.
        encoders: Modality -> encoder, e.g. {"audio": "resnet18"}, for other encoders than the data set's.
        heads: Fusion heads. Each method that names no head is trained with each of them.
        overrides: Sets of settings on top of `settings`. The benchmark is run under each.
        selection: "holdout" (select the epoch on validation), "last" (train on all of training and take the last epoch) or "test"
            (report test-set selection as well).
        protocol: An older name of selection.
        references: Whether to add unimodal baselines, plain joint training and the control.
        floor: Whether to add linear baselines; None for data of your own only.
        keep_weights: Whether to keep the weights of every run, for `mmzoo.load_run`.
        tune: Trials of tuning for each method before its runs; None for no tuning.
        track: Trackers, NAME or NAME:TARGET.
        out: The results folder.
        device: "auto", "cpu", "cuda", "cuda:1" ...
        workers: Runs at a time. One is this process; more are processes of their own.
        checkpoint_every: Seconds between two checkpoints of a run.
        progress: Whether to display the progress of the runs on standard output.
        stress: "missing" or "noise", or both: score the trained models so, too (`report("md", "stress")`). Keeps the weights.
        on_row: Called with every row that this call adds.

    Returns:
        The rows of all runs of this benchmark, those included that were in `out`. A run that fails is a row with
        the status "failed".

    Raises:
        MmzooError: The benchmark is faulty, or a row could not be written.
    """
    given = locals()
    if isinstance(baselines, str) or isinstance(datasets, str) or isinstance(heads, str) or isinstance(stress, str):
        raise BadValue("baselines, datasets, heads and stress are lists of names: ['ogm'], not 'ogm'.")
    if processes() > 1:
        raise BadValue(
            "mmzoo.bench is for one process. Under torchrun call the command: torchrun ... -m mmzoo bench ..."
        )
    spec = _spec(given)
    execution = Execution(device, workers=workers, checkpoint_every=checkpoint_every, command=_call(given))
    store = Store(Path(out))
    done = run_bench(spec, store, _Calling(on_row, progress), execution)
    for message in done.unsaved.values():
        raise MmzooError(message)
    return Rows(done.plan.rows(store), done.plan.asked(), store)


def spec_of(**given: Any) -> BenchSpec:
    """The benchmark that a call of `bench` with these arguments describes."""
    return _spec({name: p.default for name, p in inspect.signature(bench).parameters.items()} | given)


def _spec(given: Mapping[str, Any]) -> BenchSpec:
    """The benchmark that the arguments of `bench` describe."""
    same = ("method", "epochs", "preset", "references", "floor", "selection", "protocol", "keep_weights", "tune")
    lists = ("baselines", "datasets", "heads", "track", "stress")
    seeds = given["seeds"]
    encoders = {f"encoder.{modality}": name for modality, name in (given["encoders"] or {}).items()}
    fields: dict[str, Any] = {
        **{name: given[name] for name in same},
        **{name: tuple(given[name]) for name in lists},
        "seeds": parse_seeds(str(seeds)) if isinstance(seeds, (int, str)) else tuple(seeds),
        "settings": tuple({**encoders, **(given["settings"] or {})}.items()),
        "overrides": tuple(tuple(each.items()) for each in given["overrides"]),
    }
    return BenchSpec(**fields)


def _call(given: Mapping[str, Any]) -> str:
    """The call of `bench` with these arguments, without those that are the default."""
    defaults = {name: p.default for name, p in inspect.signature(bench).parameters.items()}
    said = [f"{name}={value!r}" for name, value in given.items() if name != "on_row" and value != defaults[name]]
    return f"mmzoo.bench({', '.join(said)})"
