"""The benchmark from Python: `mmzoo.bench`. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.execution.torchrun import processes
from mmzoo.benchmark.planning.data_defaults import make_missing
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Planned, to_do
from mmzoo.benchmark.report import render
from mmzoo.benchmark.reporting.tables import to_csv
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.launchers import launch
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress
from mmzoo.benchmark.tune import tuned_plan
from mmzoo.config.grammar import parse_seeds
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry.plugins import catalogue
from mmzoo.trackers.base import check_trackers

Row = dict[str, Any]


class Rows(list[Row]):
    """The rows of a bench, each as `result.json` holds it. asked: order and roles of the methods,
    for the tables, and under `refused` what could not be run."""

    def __init__(self, rows: Sequence[Row], asked: Mapping[str, Any], store: Store) -> None:
        super().__init__(rows)
        self.asked, self.store = asked, store

    def frame(self) -> Any:
        """A pandas DataFrame, one line a run, nested values as dotted columns. Raises MmzooError without pandas."""
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


class _Told(Progress):
    """Tells a function of every row."""

    def __init__(self, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._on_row = on_row

    def settled(self, planned: Planned, row: Row) -> None:
        self._on_row(row)


def bench(
    method: str,
    baselines: Sequence[str] = (),
    datasets: Sequence[str] = ("mfeat",),
    *,
    seeds: int | str | Sequence[int] = 3,
    epochs: int | None = None,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
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
    on_row: Callable[[Row], None] = lambda row: None,
) -> Rows:
    """What `mmzoo bench` does with the flags of the same names, without printing. protocol: an older name of selection.

    Data that can be made without asking is made first. settings: what --set takes, e.g. {"ogm.alpha": 0.8}. on_row is told of every row that was missing and is there now.
    What is in `out` already is not run again. One worker is this process; more are processes of their own. Raises
    MmzooError for what the command refuses, and for a row that could not be kept; a run that fails is a row that says so.
    """
    from mmzoo.benchmark.execution.device import check_device

    if isinstance(baselines, str) or isinstance(datasets, str) or isinstance(heads, str):
        raise BadValue("baselines, datasets and heads are lists of names: ['ogm'], not 'ogm'.")
    if processes() > 1:
        raise BadValue(
            "mmzoo.bench is for one process. Under torchrun call the command: torchrun ... -m mmzoo bench ..."
        )
    chosen = tuple(seeds) if not isinstance(seeds, (int, str)) else parse_seeds(str(seeds))
    spec = BenchSpec(
        method=method,
        baselines=tuple(baselines),
        datasets=tuple(datasets),
        seeds=chosen,
        epochs=epochs,
        preset=preset,
        settings=tuple((settings or {}).items()),
        references=references,
        floor=floor,
        heads=tuple(heads),
        overrides=tuple(tuple(o.items()) for o in overrides),
        selection=selection,
        protocol=protocol,
        keep_weights=keep_weights,
        tune=tune,
        track=tuple(track),
    )
    if tune is not None and tune < 1:
        raise BadValue(f"tuning takes at least 1 trial, not {tune}.")
    check_trackers(catalogue(), spec.track)
    device = check_device(device)
    make_plan(spec, catalogue(), stores=False, device=device)  # what is wrong with it is told before anything is made
    store = Store(Path(out))
    store.prepare()
    make_missing(spec, catalogue())
    plan = make_plan(spec, catalogue(), device=device)
    if tune is not None:
        plan = tuned_plan(plan, catalogue(), store, tune, device=device)
    store.note_bench(plan.methods(), [vars(r) for r in plan.refused])
    order = Order.of(to_do(plan, store), store, device=device, checkpoint_every=checkpoint_every)
    progress = _Told(on_row)
    launch(order, store, progress, workers=workers)
    for message in progress.unsaved.values():
        raise MmzooError(message)
    return Rows(plan.rows(store), plan.asked(), store)
