"""What a run is made of: its data, loaders, model and strategy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.config.spec import Part, RunSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import seeded
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import Incompatible
from mmzoo.registry import ENCODER_OPTIONS, Catalogue
from mmzoo.training.composition import Chain, Window
from mmzoo.training.config import Training
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy

#: parameters below which a model trains faster on one thread
SMALL = 1_000_000


# ---------------------------------------------------------------------------------------------- data
def load_data(catalogue: Catalogue, name: str, params: str) -> DataModule:
    """A data set. params: as JSON; those of a store name it by its hashes."""
    given = json.loads(params)
    return open_prepared(given) if "store" in given else catalogue.get("datasets", name).load()(**given)


def forget_data(device: str) -> None:
    """Let go of data sets that lie on a GPU, for the processes that train on it."""
    if device.startswith("cuda"):
        _unanswered.cache_clear()
        memory.free(device)


def open_prepared(given: Mapping[str, Any]) -> DataModule:
    """The data set of the store that a spec's parameters name."""
    from mmzoo.data.loading.prepared import open_module, reading_params
    from mmzoo.data.store.choice import find

    told = given["store"]
    data = open_module(find(told).folder, content=told["content"], metric=told["metric"], **reading_params(given))
    return data.only(given["modalities"]) if given.get("modalities") else data


def data_of(catalogue: Catalogue, spec: RunSpec) -> DataModule:
    """The data set of a run, with all of its modalities and without the labels of its test samples, which are not in a process
    that trains. It is kept for the next run of the same process."""
    return _unanswered(load_data, catalogue, *_named(spec))


def answers_of(catalogue: Catalogue, spec: RunSpec) -> DataModule:
    """The same data set with the labels of its test samples, loaded anew, for predictions that are there already. Nothing
    keeps it."""
    return load_data(catalogue, *_named(spec))


def _named(spec: RunSpec) -> tuple[str, str]:
    return spec.dataset, json.dumps(spec.as_dict()["data_params"], sort_keys=True)


@lru_cache(maxsize=4)
def _unanswered(load: Callable[..., DataModule], catalogue: Catalogue, name: str, params: str) -> DataModule:
    return load(catalogue, name, params).unanswered()


# ---------------------------------------------------------------------------------------------- model and strategy
def build_model(catalogue: Catalogue, spec: RunSpec, data: DataModule | InputForm) -> MultimodalModel:
    """Encoders and head of a run, every part initialised from a stream of its own name. data: what they are built for."""
    encoders = {}
    for m in data.modalities:
        name, params = spec.encoders[m]
        options = {k: v for k, v in params.items() if k in ENCODER_OPTIONS}
        own = {k: v for k, v in params.items() if k not in options}
        with seeded(spec.seed, "init", "encoder", m):
            encoders[m] = catalogue.get("encoders", name).load()(data.spec(m), **own).configure(data.spec(m), **options)
    head = catalogue.get("heads", spec.head).load()
    with seeded(spec.seed, "init", "head", spec.head):
        read = head.readout(encoders, **spec.head_params)
        built = head({m: e.out_dim for m, e in read.items()}, data.n_classes, **spec.head_params)
        model = MultimodalModel(read, built)  # within the stream: a head may make layers for the encoders' stages
    model.precision = spec.training.precision
    return model


def build_strategy(catalogue: Catalogue, parts: tuple[Part, ...]) -> Strategy:
    """One strategy, or the chain of several, each in its window."""
    built = []
    for part in parts:
        strategy = catalogue.get("strategies", part.strategy).load()(**part.params)
        if part.bounds is not None:
            strategy = Window(strategy, *part.bounds)
        built.append(strategy)
    return built[0] if len(built) == 1 else Chain(*built)


def set_threads(model: MultimodalModel, device: str) -> None:
    """One thread for a small model on the CPU: handing its short operations to several costs more than it gains, and
    many times more on a busy machine. OMP_NUM_THREADS decides where it is set."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if _small(model) else os.cpu_count() or 1)


def _small(model: MultimodalModel) -> bool:
    return sum(p.numel() for p in model.parameters()) < SMALL


def is_small(planned: Planned, catalogue: Catalogue) -> bool:
    """Whether a run's model is trained on one thread; of one that cannot be built it is not known."""
    spec = planned.spec
    if spec.floor is not None:
        return True
    try:
        data = data_of(catalogue, spec)
        with torch.device("meta"):
            return _small(build_model(catalogue, spec, data if spec.modalities is None else data.only(spec.modalities)))
    except Exception:
        return False


def encoder_sizes(planned: Planned, catalogue: Catalogue) -> dict[str, int]:
    """modality -> parameters of its encoder; nothing where the model cannot be built, which its run will say."""
    try:
        data = data_of(catalogue, planned.spec)
        data = data if planned.spec.modalities is None else data.only(planned.spec.modalities)
        with torch.device("meta"):
            encoders = build_model(catalogue, planned.spec, data).encoders
    except Exception:
        return {}
    return {m: sum(p.numel() for p in encoder.parameters()) for m, encoder in encoders.items()}


# ---------------------------------------------------------------------------------------------- all of it
class Kit:
    """Data, loaders, model and strategy of one run. whole: its data set with all modalities; data: with those that the
    run sees. model: as it is before training. train: what it is trained on, with the slice unless its strategy learns
    from that (`slice`) or the spec spares it. share: of which this process is given its part, see `Loader.shared`."""

    def __init__(
        self,
        catalogue: Catalogue,
        spec: RunSpec,
        whole: DataModule,
        device: str,
        *,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.catalogue, self.spec, self.whole, self.device = catalogue, spec, whole, device
        self.data = whole if spec.modalities is None else whole.only(spec.modalities)
        self.requires = build_strategy(catalogue, spec.parts).requires
        apart = "slice" in self.requires
        if apart and not self.data.splits["slice"]:
            raise Incompatible(f"{self.data.name} has no meta set, and this strategy learns from the labels of one.")
        parts = ("train",) if apart or spec.spare_slice else ("train", "slice")
        self.train = self.loader(*parts).shared(*share)
        self.slice = self.loader("slice").shared(*share) if apart else None
        self.model = build_model(catalogue, spec, self.data)
        self._unused = [self.model]

    def loader(self, *splits: str, batch_size: int | None = None) -> Loader:
        """The items of some splits, in batches of the training's size unless another is given."""
        size = self.spec.training.batch_size if batch_size is None else batch_size
        return self.data.loader(*splits, batch_size=size, device=self.device)

    def run(
        self,
        training: Training | None = None,
        *,
        teachers: Mapping[str, MultimodalModel] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Run:
        """A run at its start, or where a checkpoint left it, on a model and a strategy of its own. training: where it is
        not that of the spec."""
        model = self._unused.pop() if self._unused else build_model(self.catalogue, self.spec, self.data)
        return Run(
            model,
            build_strategy(self.catalogue, self.spec.parts),
            train=self.train,
            slice=self.slice,
            training=self.spec.training if training is None else training,
            seed=self.spec.seed,
            device=self.device,
            teachers=teachers,
            state=state,
        )
