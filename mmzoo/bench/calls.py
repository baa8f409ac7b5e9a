"""The bench from Python: `mmzoo.bench`, `mmzoo.evaluate`, `mmzoo.load_run`."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.bench.building import build_model, build_strategy, load_data
from mmzoo.bench.device import check_device
from mmzoo.bench.kept import weights_hash
from mmzoo.bench.launchers import launch
from mmzoo.bench.lessons import Row
from mmzoo.bench.plan import Planned, make_plan, to_do
from mmzoo.bench.ready import make_missing
from mmzoo.bench.report import render
from mmzoo.bench.store import STRATEGY_STATE, WEIGHTS, Store
from mmzoo.bench.tables import to_csv
from mmzoo.bench.torchrun import processes
from mmzoo.bench.tune import tuned_plan
from mmzoo.bench.work import Order, Progress
from mmzoo.config.datasets import resolve_dataset
from mmzoo.config.grammar import parse_seeds
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, RunSpec, check_protocol
from mmzoo.data.datamodule import DataModule
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.evaluation import EVAL_BATCH, evaluating
from mmzoo.metrics import classification
from mmzoo.model import MultimodalModel
from mmzoo.plugins import catalogue
from mmzoo.strategy import Strategy
from mmzoo.tracker import check_trackers
from mmzoo.types import Batch, Outputs


class Rows(list[Row]):
    """The rows of a bench, each as `result.json` holds it. asked: order and roles of the methods, for the tables."""

    def __init__(self, rows: Sequence[Row], asked: Mapping[str, Any], store: Store) -> None:
        super().__init__(rows)
        self._asked, self.store = asked, store

    def frame(self) -> Any:
        """A pandas DataFrame, one line a run, nested values as dotted columns. Raises MmzooError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MmzooError(f"a frame needs pandas ({error}). Install it: pip install 'mmzoo[frame]'") from None
        import io

        return pandas.read_csv(io.StringIO(to_csv(self)), dtype={"run_id": str, "config_id": str})

    def report(self, fmt: str = "md", *, stats: bool = False) -> str:
        """The tables that `mmzoo report` prints; stats: those of --stats."""
        from mmzoo.bench.comparison import comparison_tables

        tables = (lambda rows, bench: comparison_tables(rows, bench, self.store)) if stats else None
        return render(self, self._asked, fmt, tables)


class _Told(Progress):
    """Tells a function of every row."""

    def __init__(self, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._on_row = on_row

    def settled(self, planned: Planned, row: Row) -> None:
        self._on_row(row)


def bench(
    method: str, baselines: Sequence[str] = (), datasets: Sequence[str] = ("mfeat",), *,
    seeds: int | str | Sequence[int] = 3, epochs: int | None = None, preset: str = "default",
    settings: Mapping[str, Any] | None = None, heads: Sequence[str] = (),
    overrides: Sequence[Mapping[str, Any]] = (), protocol: str = "holdout", references: bool = True,
    keep_weights: bool = False, tune: int | None = None, track: Sequence[str] = (), out: str | Path = "mmzoo-results", device: str = "auto",
    workers: int = 1, checkpoint_every: float = 30.0, on_row: Callable[[Row], None] = lambda row: None,
) -> Rows:  # fmt: skip
    """What `mmzoo bench` does with the flags of the same names, without printing.

    Data that can be made without asking is made first. settings: what --set takes, e.g. {"ogm.alpha": 0.8}. on_row is told of every row that was missing and is there now.
    What is in `out` already is not run again. One worker is this process; more are processes of their own. Raises
    MmzooError for what the command refuses, and for a row that could not be kept; a run that fails is a row that says so.
    """
    if isinstance(baselines, str) or isinstance(datasets, str) or isinstance(heads, str):
        raise BadValue("baselines, datasets and heads are lists of names: ['ogm'], not 'ogm'.")
    if processes() > 1:
        raise BadValue(
            "mmzoo.bench is for one process. Under torchrun call the command: torchrun ... -m mmzoo bench ..."
        )
    chosen = tuple(seeds) if not isinstance(seeds, (int, str)) else parse_seeds(str(seeds))
    spec = BenchSpec(
        method=method, baselines=tuple(baselines), datasets=tuple(datasets), seeds=chosen, epochs=epochs, preset=preset,
        settings=tuple((settings or {}).items()), references=references, heads=tuple(heads),
        overrides=tuple(tuple(o.items()) for o in overrides), protocol=protocol, keep_weights=keep_weights,
        tune=tune, track=tuple(track),
    )  # fmt: skip
    if tune is not None and tune < 1:
        raise BadValue(f"tuning takes at least 1 trial, not {tune}.")
    check_protocol(protocol)
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


# ---------------------------------------------------------------------------------------------- foreign models
def evaluate(
    model: nn.Module, dataset: str | DataModule, *, split: Literal["test", "holdout"] = "test",
    call: Callable[[nn.Module, Batch], Tensor | Outputs] | None = None, settings: Mapping[str, Any] | None = None,
    batch_size: int = EVAL_BATCH, device: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The scores of any torch module on a split, by the metrics of the bench, on every item.

    model: what it returns for `model(inputs)`, inputs a mapping of modality -> (B, ...), is logits (B, n_classes) or
    Outputs; `call(model, batch)` where it wants something else. It is put into eval mode, and back. dataset: as --datasets
    names it, or a DataModule. device: where it is run, by default where its first parameter lies; it is put back. Returns acc,
    macro_f1, map, loss, n_scored, n_total, and what they rest on.

    Test is there to be scored once: choose on holdout. Raises BadValue for outputs that are no logits of this data set.
    """
    data = dataset if isinstance(dataset, DataModule) else _named_data(dataset, settings or {})
    if split not in ("test", "holdout"):
        raise BadValue(f"split must be test or holdout, not {split!r}: training items say nothing of a model.")
    asked = call or (lambda model, batch: model(batch.inputs))
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    where = home if device is None else torch.device(check_device(device))
    pieces, targets = [], []
    with contextlib.ExitStack() as stack:
        if where != home:
            stack.callback(model.to, home)
            model.to(where)
        stack.enter_context(evaluating(model))  # type: ignore[arg-type]
        for batch in data.loader(split, batch_size=batch_size).batches():
            out = asked(model, batch.to(where))
            logits = out.logits if isinstance(out, Outputs) else out
            scores = out.scores if isinstance(out, Outputs) else _softmax(out, len(batch), data.n_classes)
            pieces.append((logits.cpu(), scores.cpu()))
            targets.append(batch.target)
    target = torch.cat(targets).cpu()
    logits, scores = (torch.cat(parts) for parts in zip(*pieces))
    found = classification(scores, target, logits)
    if not all(map(math.isfinite, (*found.values(), float(scores.sum())))):
        raise BadValue("the model's outputs are not finite for every item, so that it has no scores.")
    return {**found, "main_metric": data.metric, "dataset": data.name, "split": split, "n_scored": len(target),
            "n_total": len(data.splits[split]), "hashes": {"split": data.split_hash, "recipe": data.recipe_hash}}  # fmt: skip


def _softmax(out: Any, n: int, n_classes: int) -> Tensor:
    if not isinstance(out, Tensor) or out.shape != (n, n_classes):
        given = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise BadValue(
            f"the model must return logits of shape ({n}, {n_classes}) or mmzoo Outputs, not {given}. Say how it is to be "
            "asked with call=lambda model, batch: ..."
        )
    return out.softmax(-1)


def _named_data(text: str, given: Mapping[str, Any]) -> DataModule:
    settings = Settings(catalogue(), tuple(given.items()))
    _, entry, params = resolve_dataset(catalogue(), text, settings)
    settings.check_all_used()
    return load_data(catalogue(), entry.id.partition("/")[2], json.dumps(params, sort_keys=True))


# ---------------------------------------------------------------------------------------------- trained models
@dataclass(frozen=True)
class Trained:
    """A run's model at the epoch chosen on holdout, in eval mode, with the strategy that decides how it predicts."""

    model: MultimodalModel
    strategy: Strategy
    row: Row

    def predict(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Outputs:
        """Outputs for inputs, modality -> (B, ...); `scores` are ranked, by the strategy's decision rule. No graph."""
        with evaluating(self.model):
            return self.strategy.predict(self.model(inputs, present))

    def data(self) -> DataModule:
        """The data set that it was trained on, with its splits."""
        return _run_data(self.row)


def load_run(folder: str | Path) -> Trained:
    """The trained model of a run, from `DIR/runs/<run_id>`.

    Raises BadValue where the run is not there, has no scores or kept no weights, CorruptFile for weights that are not
    those that were scored.
    """
    folder = Path(folder)
    row = Store(folder.parent.parent).row(folder.name) if folder.parent.name == "runs" else None
    if row is None:
        raise BadValue(
            f"{folder} is not the folder of a run: name DIR/runs/RUN_ID, where DIR was given to bench as --out."
        )
    if row["status"] != "ok":
        raise BadValue(f"run {folder.name} has no trained model: it is {row['status']}: {row['reason']}.")
    if not (folder / WEIGHTS).is_file():
        raise BadValue(
            f"run {folder.name} kept no weights. The same bench with --keep-weights trains it once more and keeps them."
        )
    data = _run_data(row)
    try:
        spec = RunSpec.from_dict(row["spec"])
        model = build_model(catalogue(), spec, data)
        strategy = build_strategy(catalogue(), spec.parts)
        tensors = _tensors(folder / WEIGHTS)
        if weights_hash(tensors) != row["hashes"].get("weights"):
            raise CorruptFile("they are not those that the run was scored with")
        # Modules that a strategy added serve its training; no answer of the model passes through them.
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("extra.")})
        if (folder / STRATEGY_STATE).is_file():
            strategy.load_state_dict(torch.load(folder / STRATEGY_STATE, map_location="cpu", weights_only=True))
    except MmzooError as error:
        raise type(error)(f"run {folder.name}: {error}") from error
    except Exception as error:  # whatever a file from outside makes torch or safetensors raise
        raise CorruptFile(
            f"run {folder.name}: its weights cannot be used ({type(error).__name__}: {error})."
        ) from error
    return Trained(model.eval(), strategy, row)


def _run_data(row: Row) -> DataModule:
    spec = row["spec"]
    data = load_data(catalogue(), spec["dataset"], json.dumps(spec["data_params"], sort_keys=True))
    return data if spec["modalities"] is None else data.only(spec["modalities"])


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights in the order in which they were hashed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        order = json.loads((file.metadata() or {}).get("order", "null")) or list(file.keys())
        return {name: file.get_tensor(name) for name in order}
