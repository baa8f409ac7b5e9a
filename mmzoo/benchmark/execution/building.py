"""What a run is made of: its data, loaders, model and strategy."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.config.spec import Part, RunSpec
from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.core.probing import blind
from mmzoo.core.seeding import seeded
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import Incompatible, MmzooError
from mmzoo.registry import ENCODER_OPTIONS, Catalogue
from mmzoo.training.composition import Chain, Window
from mmzoo.training.config import Training
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy

#: different words of a text before its data is prepared
SOME_WORDS = 1000
#: kind of input -> what to do about an encoder that cannot tell inputs apart
_CURES = {
    "text": "A text model whose attention looks back only is read at its last token, or by the mean of all: set pooling to "
    "last or mean."
}
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
        with seeded(spec.seed, "init", "encoder", m):
            encoders[m] = _encoder(catalogue, *spec.encoders[m], data.spec(m))
    head = catalogue.get("heads", spec.head).load()
    with seeded(spec.seed, "init", "head", spec.head):
        read = head.readout(encoders, **spec.head_params)
        built = head({m: e.out_dim for m, e in read.items()}, data.n_classes, **spec.head_params)
        model = MultimodalModel(read, built)  # within the stream: a head may make layers for the encoders' stages
    model.precision = spec.training.precision
    return model


def _encoder(catalogue: Catalogue, name: str, params: Mapping[str, Any], what: InputSpec) -> Encoder:
    options = {k: v for k, v in params.items() if k in ENCODER_OPTIONS}
    own = {k: v for k, v in params.items() if k not in options}
    encoder: Encoder = catalogue.get("encoders", name).load()(what, **own).configure(what, **options)
    return encoder


def _promised(plan: Plan, planned: Planned, modality: str) -> InputSpec | None:
    """What an encoder will be told of its input, by how the data set is going to be prepared; None where nothing tells."""
    from mmzoo.data.loading.prepared import reading_params
    from mmzoo.data.loading.transforms import transform_for

    entry, params = plan.entries[planned.dataset], planned.spec.data_params
    name = planned.spec.encoders[modality][0]
    asked = {scope for key, _ in plan.bench.settings for scope in key.split(".")[:2]} & {name, "encoder"}
    if entry.package != "own" and not asked:  # the data set's own encoders are known to be built
        return None
    loaded = entry.load()
    source = loaded() if isinstance(loaded, type) else loaded
    recipe = source.recipes().get(params.get("recipe", "own"))
    if recipe is None or modality not in recipe.fields:
        return None
    field = recipe.fields[modality]
    shapes = {part: form.shape for part, form in field.arrays().items()}
    shape = transform_for(field.kind, shapes, **{k: v for k, v in reading_params(params).items() if k != "split"}).shape
    return InputSpec(field.kind, shape, SOME_WORDS if field.kind == "text" else None)


def _form_promised(plan: Plan, planned: Planned, vocabulary: Mapping[str, int]) -> InputForm:
    """What a model will take, of the modalities that are known before the data is prepared."""
    specs = {}
    for m in planned.spec.encoders:
        what = _promised(plan, planned, m)
        if what is not None and what.kind == "text":
            what = dataclasses.replace(what, vocabulary=vocabulary[m]) if m in vocabulary else None
        if what is not None:
            specs[m] = what
    return InputForm(planned.dataset, specs, n_classes=2)


def check_encoders(runs: Sequence[Planned], plan: Plan, catalogue: Catalogue, *, chosen: bool = False) -> None:
    """Build each encoder of some runs of a plan once, and see that it can tell two inputs apart.

    Args:
        chosen: Only those that read files or are given an option, since the others are known to be built.

    Raises:
        MmzooError: One cannot be built on its modality, or gives one feature for all inputs.
    """
    seen = set()
    for planned in runs:
        spec = planned.spec
        for m, (name, params) in {} if spec.floor is not None else spec.encoders.items():
            entry = catalogue.get("encoders", name)
            key = (planned.dataset, m, name, json.dumps(params, sort_keys=True))
            if key in seen or (chosen and not (entry.extra.get("files") or set(params) & set(ENCODER_OPTIONS))):
                continue
            seen.add(key)
            try:
                there = "store" in spec.data_params or not plan.entries[planned.dataset].extra.get("prepared")
                what = data_of(catalogue, spec).spec(m) if there else _promised(plan, planned, m)
                if what is None:
                    continue
                with seeded(spec.seed, "init", "encoder", m):
                    built = _encoder(catalogue, name, params, what)
            except MmzooError as error:
                raise type(error)(f"{planned.dataset}, encoder {name} of {m}: {error}") from error
            except (Exception, SystemExit):  # a defect in somebody's code costs its own runs
                continue
            if blind(built, what):
                raise Incompatible(
                    f"{planned.dataset}: the encoder {name} of {m} gives one and the same feature for two {what.kind} inputs that "
                    f"differ, so nothing can be learned from it. {_CURES.get(what.kind, 'See that its forward uses its input.')}"
                )


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


def encoder_sizes(
    plan: Plan, planned: Planned, catalogue: Catalogue, vocabulary: Mapping[str, int] | None = None
) -> dict[str, int]:
    """modality -> parameters of its encoder; nothing where the model cannot be built, which its run will say.

    Args:
        plan: Of the run; before its data is prepared, how that is going to be done gives the shapes.
        planned: The run.
        vocabulary: modality -> words, of texts that are not prepared yet; one that is not given has no size.
    """
    spec = planned.spec
    try:
        data: DataModule | InputForm
        if "store" in spec.data_params or not plan.entries[planned.dataset].extra.get("prepared"):
            data = data_of(catalogue, spec)
            data = data if spec.modalities is None else data.only(spec.modalities)
        else:
            data = _form_promised(plan, planned, vocabulary or {})
        with torch.device("meta"):
            encoders = build_model(catalogue, spec, data).encoders
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
        parts: tuple[str, ...] = ("train",) if apart or spec.spare_slice else ("train", "slice")
        #: whether there is a holdout that nothing is trained on
        self.held_out = spec.selection != "last" or self.data.given_holdout
        parts += () if self.held_out else ("holdout",)
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
