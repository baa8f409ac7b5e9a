"""Inputs that a caller gives, made complete: which modalities each sample has is inferred or asked for, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import BadValue, short, unknown

#: kinds whose inputs have parts -> the parts
_PARTS = {"text": "ids (B, L) int64 and mask (B, L) bool", "series": "values (B, C, T) and mask (B, T) bool"}
_RAW = "predict_rows takes raw rows: texts, numbers and paths of files, as the cells of a table."


def completed(
    form: InputForm, inputs: Mapping[str, Any], present: Tensor | Literal["all"] | None
) -> tuple[dict[str, Any], Tensor | None]:
    """The inputs of all modalities as tensors, and which modalities each sample has: (B, M) bool, None where all are there.

    Args:
        form: What the model takes.
        inputs: modality -> (B, ...) or a mapping of such; None where no sample has it.
        present: (B, M) bool, "all", or None: as the inputs say.

    Raises:
        BadValue: See `Trained.predict`.
    """
    for m in inputs:
        if m not in form.specs:
            raise unknown("modality of this model", str(m), form.modalities)
    given = {m: None if inputs.get(m) is None else _tensors(m, form.spec(m).kind, inputs[m]) for m in form.modalities}
    sizes = {m: len(_first(x)) for m, x in given.items() if x is not None}
    if not sizes:
        raise BadValue(f"inputs hold none of the modalities {', '.join(form.modalities)}.")
    n = next(iter(sizes.values()))
    if any(size != n for size in sizes.values()):
        raise BadValue(f"inputs of one call must have the same samples, not {_listed(sizes)}.")
    mask = None if present is None else _mask(form, n, present)
    here = torch.ones(n, len(form.modalities), dtype=torch.bool)
    full = {}
    for i, m in enumerate(form.modalities):
        if m not in inputs and (mask is None or bool(mask[:, i].any())):
            raise BadValue(
                f"inputs lack the modality {m!r}. Give inputs[{m!r}]; if none of these samples has it, pass None."
            )
        full[m], here[:, i] = _without_nan(form, m, given[m], n)
    if mask is not None:
        for i, m in enumerate(form.modalities):
            if bool((mask[:, i] & ~here[:, i]).any()):
                raise BadValue(f"present says that samples have {m!r}, which inputs give as None or NaN.")
        here = mask
    elif form.partial and bool(here.all()):
        raise BadValue(
            f"some samples of {form.dataset} lack modalities, so that zeros may stand for what is not there. Say which are there: "
            f"present=(B, {len(form.modalities)}) bool in the order {', '.join(form.modalities)}, as batch.present has it, or "
            'present="all".'
        )
    return full, None if bool(here.all()) else here


def _mask(form: InputForm, n: int, present: Any) -> Tensor:
    wanted = (n, len(form.modalities))
    if isinstance(present, str):
        if present != "all":
            raise BadValue(f'present must be a (B, M) bool tensor, "all" or None, not {short(present)}.')
        return torch.ones(wanted, dtype=torch.bool)
    mask = torch.as_tensor(present)
    if mask.dtype != torch.bool or tuple(mask.shape) != wanted:
        raise BadValue(
            f"present must be bool of shape {wanted}, a column for each of {', '.join(form.modalities)}, not {mask.dtype} of "
            f"shape {tuple(mask.shape)}."
        )
    return mask.cpu()


def _without_nan(form: InputForm, modality: str, value: Any, n: int) -> tuple[Any, Tensor]:
    """The input with zeros for samples that are NaN throughout, and whether each sample is there."""
    spec = form.spec(modality)
    if value is None:
        zeros = torch.zeros(n, *spec.shape)
        absent = {"ids": zeros.long(), "mask": zeros.bool()} if spec.kind == "text" else zeros
        absent = {"values": zeros, "mask": zeros[:, 0].bool()} if spec.kind == "series" else absent
        return absent, torch.zeros(n, dtype=torch.bool)
    if isinstance(value, Mapping):
        return value, torch.ones(n, dtype=torch.bool)
    if value.dim() != 1 + len(spec.shape):
        raise BadValue(
            f"{modality!r} must have the shape (B, {', '.join(map(str, spec.shape))}), not {tuple(value.shape)}."
        )
    if not value.is_floating_point():
        return value, torch.ones(n, dtype=torch.bool)
    lacking = value.flatten(1).isnan()
    absent_rows, broken = lacking.all(1), lacking.any(1) & ~lacking.all(1)
    if bool(broken.any()):
        raise BadValue(
            f"{modality!r} is NaN in parts of sample {int(broken.nonzero()[0])}. A sample that lacks the modality is NaN throughout."
        )
    if bool(absent_rows.any()):
        value = value.masked_fill(absent_rows.view(-1, *[1] * (value.dim() - 1)), 0.0)
    return value, ~absent_rows.cpu()


def _tensors(modality: str, kind: str, value: Any) -> Any:
    """An input of a modality as tensors."""
    if kind in _PARTS and not isinstance(value, Mapping):
        raise BadValue(f"{modality!r} is a {kind}: predict takes it prepared, as a mapping of {_PARTS[kind]}. {_RAW}")
    if isinstance(value, Mapping) and value:
        return {k: _tensor(modality, v) for k, v in value.items()}
    return _tensor(modality, value)


def _tensor(modality: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadValue(
            f"{modality!r} must be a tensor or an array, not {type(value).__name__} ({error}). {_RAW}"
        ) from None
    return found.float() if found.dtype == torch.float64 else found


def _first(value: Any) -> Tensor:
    found: Tensor = next(iter(value.values())) if isinstance(value, Mapping) else value
    return found


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{n} of {m}" for m, n in sizes.items())
