"""Teachers: one unimodal model per modality, for strategies that learn from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Batch
from mmzoo.errors import BadValue, Incompatible, unknown

if TYPE_CHECKING:
    from mmzoo.training.batches import Batches
    from mmzoo.training.run import Run


class Alone(FusionHead):
    """The linear classifier of one modality, l = W z + b. Shapes are those of `FusionHead`."""

    how = "exact"
    additive = True

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        (width,) = dims.values()
        self.layer = nn.Linear(width, n_classes)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.layer.parameters()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        (z,) = features.values()
        return F.linear(z, self.layer.weight, self.layer.bias), {}

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        return self.layer.weight, self.layer.bias


class Teachers:
    """The teachers of one run, by modality.

    Args:
        model: the model of the run.
        given: modality -> trained unimodal model; copies are used, in the model's precision.
        wanted: whether the run may train the missing ones. It then keeps a copy of each encoder as initialised.

    Raises:
        UnknownName: a given modality is not in the run.
        BadValue: a given model is not a model of that modality alone.
    """

    def __init__(self, model: MultimodalModel, given: Mapping[str, MultimodalModel], *, wanted: bool) -> None:
        for modality, teacher in given.items():
            _check_given(model, modality, teacher)
        self._ready = {m: _frozen(_like(model, copy.deepcopy(teacher))) for m, teacher in given.items()}
        rest = [m for m in model.modalities if m not in given] if wanted else []
        self._fresh: dict[str, Encoder] = {m: copy.deepcopy(model.encoders[m]) for m in rest}  # type: ignore[misc]
        self._own: list[str] = []

    def get(self, run: Run, modality: str, train: Callable[[str, MultimodalModel], None]) -> MultimodalModel:
        """The teacher of a modality.

        Args:
            run: the run.
            modality: the modality.
            train: trains an untrained model of the modality; called if there is no teacher yet.

        Raises:
            UnknownName: the run does not have this modality.
            Incompatible: no teacher was given, and none may be trained.
        """
        if modality not in self._ready:
            if modality not in run.modalities:
                raise unknown("modality", modality, run.modalities)
            if modality not in self._fresh:
                raise Incompatible(
                    f"{type(run.strategy).__name__} wants a teacher of {modality}, and none was trained. "
                    "Name 'teachers' in `requires`, or give Run(teachers=...); a fork has the teachers of its run only."
                )
            model = self._untrained(run, modality)
            train(modality, model)
            self._keep(modality, model)
        return self._ready[modality]

    def state_dict(self) -> dict[str, Any]:
        """The weights of teachers that the run trained, and of the encoders from which the others would start.

        Of given teachers only the names: they must be given again on resume.
        """
        return {
            "own": {m: copy.deepcopy(self._ready[m].state_dict()) for m in self._own},
            "fresh": {m: copy.deepcopy(encoder.state_dict()) for m, encoder in self._fresh.items()},
            "given": [m for m in self._ready if m not in self._own],
        }

    def load(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the teachers of a checkpoint; a teacher given to the new run takes precedence.

        Args:
            run: the run that resumes.
            state: a `state_dict`.

        Raises:
            BadValue: a teacher was given then and is not now: the run would continue under another one.
        """
        if missing := [m for m in state["given"] if m not in self._ready]:
            raise BadValue(
                f"the run was begun with teachers of {', '.join(missing)} that were given to it: give the same again, "
                "Run(..., teachers={modality: model}, state=...)."
            )
        for modality, weights in state["fresh"].items():
            if modality in self._fresh:
                self._fresh[modality].load_state_dict(weights)
        for modality in [m for m in state["own"] if m in self._fresh]:
            model = self._untrained(run, modality)
            model.load_state_dict(state["own"][modality])
            self._keep(modality, model)

    def _untrained(self, run: Run, modality: str) -> MultimodalModel:
        """The encoder as the run found it, under a linear classifier from a stream of its own."""
        encoder = self._fresh[modality]
        with seeded(run.seed, "init", "teacher", modality):
            head = Alone({modality: encoder.out_dim}, run.n_classes)
        return _like(run.model, MultimodalModel({modality: encoder}, head))

    def _keep(self, modality: str, model: MultimodalModel) -> None:
        self._ready[modality] = _frozen(model)
        self._own.append(modality)
        del self._fresh[modality]


class OneModality:
    """The batches of a loader, restricted to one modality.

    Args:
        source: the loader.
        modality: the modality that is kept.
        column: its column in `Batch.present`.
    """

    def __init__(self, source: Batches, modality: str, column: int) -> None:
        self._source, self._modality, self._column = source, modality, column

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        for batch in self._source.batches(generator):
            yield one_modality(batch, self._modality, self._column)

    def part(self, number: int, of: int) -> Batches:
        return OneModality(self._source.part(number, of), self._modality, self._column)

    def sampled(self, rows: Tensor, drop: Tensor | None, ordered: bool = False) -> Batches:
        raise Incompatible("a teacher is trained on the data as it is: its loader cannot be resampled.")


def one_modality(batch: Batch, modality: str, column: int) -> Batch:
    """A batch restricted to one modality, whose column in `Batch.present` is `column`."""
    present = None if batch.present is None else batch.present[:, column : column + 1]
    return Batch({modality: batch.inputs[modality]}, batch.target, batch.index, present)


def _check_given(model: MultimodalModel, modality: str, teacher: MultimodalModel) -> None:
    if modality not in model.modalities:
        raise unknown("modality", modality, model.modalities)
    if teacher.modalities != (modality,):
        raise BadValue(
            f"the teacher of {modality} must be a unimodal model of {modality}, not of {', '.join(teacher.modalities)}. "
            f"Build it as MultimodalModel({{{modality!r}: encoder}}, head)."
        )
    if teacher.head.n_classes != model.head.n_classes:
        raise BadValue(
            f"the teacher of {modality} knows {teacher.head.n_classes} classes, the model {model.head.n_classes}. "
            "Train it on the same labels."
        )


def _like(model: MultimodalModel, teacher: MultimodalModel) -> MultimodalModel:
    """The teacher on the device and in the precision of the model, that of its products too."""
    some = next(model.parameters())
    teacher.precision = model.precision
    return teacher.to(some.device, some.dtype)


def _frozen(model: MultimodalModel) -> MultimodalModel:
    return model.eval().requires_grad_(False)
