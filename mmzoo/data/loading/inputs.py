"""What a trained model takes for input, without the data that it was trained on: kept beside its weights.

The form has the shape of each modality's input, the names of the classes, and how files, texts and numbers become such
inputs where the data was prepared by mmzoo. It is all that is needed to build a model, and to score new samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.core.encoder import InputSpec
from mmzoo.errors import BadValue
from mmzoo.io.schema import FLAG, NUMBER, OBJECT, TEXT, TEXTS, Form, each, items, misfit, optional, or_null, whole

_FORM: Form = {
    "schema": whole(1),
    "dataset": TEXT,
    "classes": items(TEXT),
    "n_classes": whole(1),
    "partial": FLAG,
    "modalities": each({"kind": TEXT, "shape": items(whole(1)), "vocabulary": or_null(whole(1))}),
    "order": TEXTS,
    "preparation": optional(
        {
            "fields": each({"field": TEXT, "version": NUMBER}),
            "reading": OBJECT,
            "columns": each(items(TEXT)),
            "id": or_null(TEXT),
            "delimiter": or_null(TEXT),
            "tokenizers": optional(each(TEXT)),
            "quotes": optional(FLAG),
            "levels": optional(each(each(items(TEXT)))),
        }
    ),
}


@dataclass(frozen=True)
class Preparation:
    """How the rows of a table become inputs.

    Args:
        fields: modality -> the values of its fitted field, see `Field.as_dict`.
        reading: How stored rows are read, see `open_module`.
        columns: modality -> columns of the table.
        id: The column of the samples' ids, None where there is none.
        delimiter: What parts the columns; None: it is found out.
        tokenizers: modality -> folder of its tokenizer, where it is one of a folder.
        quotes: Whether cells may stand in quotation marks.
        levels: modality -> column -> the words that it may hold.
    """

    fields: Mapping[str, Mapping[str, Any]]
    reading: Mapping[str, Any]
    columns: Mapping[str, Sequence[str]]
    id: str | None = None
    delimiter: str | None = None
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    quotes: bool = True
    levels: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class InputForm:
    """What a model takes.

    Args:
        dataset: The name of the data set that it was trained on.
        specs: modality -> what its encoder is told of an input, in the data set's order.
        n_classes: Number of classes.
        classes: Their names in order; empty where they have none.
        partial: Whether some samples of the data set lack a modality.
        preparation: How rows of a table become inputs; None where the data set does not say.
    """

    dataset: str
    specs: Mapping[str, InputSpec]
    n_classes: int
    classes: tuple[str, ...] = ()
    partial: bool = False
    preparation: Preparation | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.specs)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; their numbers where they have no names."""
        return self.classes or tuple(map(str, range(self.n_classes)))

    def spec(self, modality: str) -> InputSpec:
        """What the encoder of a modality is told of its input."""
        return self.specs[modality]

    def as_dict(self) -> dict[str, Any]:
        """The form as plain data, see `from_dict`."""
        p = self.preparation
        return {
            "schema": 1,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "n_classes": self.n_classes,
            "partial": self.partial,
            "order": list(self.specs),
            "modalities": {
                m: {"kind": s.kind, "shape": list(s.shape), "vocabulary": s.vocabulary} for m, s in self.specs.items()
            },
            **({} if p is None else {"preparation": {k: _plain(v) for k, v in vars(p).items()}}),
        }

    @classmethod
    def from_dict(cls, values: Any) -> InputForm:
        """The form that `as_dict` gave. Raises BadValue for anything else."""
        fault = "not a JSON object" if not isinstance(values, dict) else misfit(values, _FORM)
        if fault is None and sorted(values["order"]) != sorted(values["modalities"]):
            fault = "order and modalities do not name the same modalities"
        if fault is None and len(values["classes"]) not in (0, values["n_classes"]):
            fault = f"it names {len(values['classes'])} classes, and n_classes is {values['n_classes']}"
        if fault:
            raise BadValue(f"not the form of a model's inputs: {fault}.")
        bodies, p = values["modalities"], values.get("preparation")
        specs = {
            m: InputSpec(bodies[m]["kind"], tuple(bodies[m]["shape"]), bodies[m]["vocabulary"]) for m in values["order"]
        }
        names = {k: p[k] for k in vars(Preparation({}, {}, {})) if k in p} if p is not None else None
        return cls(
            values["dataset"],
            specs,
            values["n_classes"],
            tuple(values["classes"]),
            values["partial"],
            None if names is None else Preparation(**names),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value
