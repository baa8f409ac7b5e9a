"""A trained model as a graph that runs without mmzoo: torch.export or ONNX, checked against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.benchmark.trained import Trained
from mmzoo.core.seeding import seeded
from mmzoo.errors import BadValue, Incompatible, MmzooError

#: rows of the batch that a graph is made from, and of the others that it is checked on
TRACED, CHECKED = 3, (1, 2, 7)
#: the largest difference of a score that counts as rounding
TOLERANCE = 1e-4


class Scores(nn.Module):
    """The scores (B, C) of a model by its strategy's decision rule, from one tensor for each input."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model
        self._trained = trained
        self.names = tuple(_flat(_example(trained, 2)))

    def forward(self, *inputs: Tensor) -> Tensor:
        nested: dict[str, Any] = {}
        for name, x in zip(self.names, inputs, strict=True):
            modality, _, part = name.partition(".")
            if part:
                nested.setdefault(modality, {})[part] = x
            else:
                nested[modality] = x
        return self._trained.strategy.predict(self.model(nested)).scores


def export(trained: Trained, path: str | Path, to: Literal["torch", "onnx"]) -> float:
    """Write a model as a graph with a dynamic batch size, all modalities present, and check it.

    Inputs are named by modality (`text.ids`, `text.mask` where there are several), and the output is `scores` (B, C).

    Args:
        trained: What `load_run` or `from_pretrained` gave.
        path: The file: `.pt2` for torch, `.onnx` for onnx.
        to: The form.

    Returns:
        The largest difference of a score from the model's own, over batches of several sizes.

    Raises:
        BadValue: The file is there already.
        Incompatible: The model cannot be exported, or the graph gives other numbers.
        MmzooError: A package is missing.
    """
    path = Path(path)
    if path.exists():
        raise BadValue(f"{path} is there already: name another file.")
    module = Scores(trained).eval().cpu()
    example = tuple(_flat(_example(trained, TRACED)).values())
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            program = torch.export.export(module, example, dynamic_shapes=(tuple({0: batch} for _ in example),))
        run = {"torch": _to_torch, "onnx": _to_onnx}[to](program, module.names, example, path)
        found = max(_difference(module, run, _flat(_example(trained, n))) for n in CHECKED)
    except MmzooError:
        path.unlink(missing_ok=True)
        raise
    except Exception as error:  # whatever a model makes the exporters raise
        path.unlink(missing_ok=True)
        first = str(error).strip().splitlines() or [""]
        raise Incompatible(
            f"this model cannot be exported to {to}: {type(error).__name__}: {first[0][:300]}"
        ) from error
    if not found <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise Incompatible(
            f"the exported graph gives other scores than the model, by up to {found:.2g}: nothing was written."
        )
    return found


def _to_torch(program: Any, names: Sequence[str], example: Sequence[Tensor], path: Path) -> Callable[..., Tensor]:
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda *inputs: loaded(*inputs)


def _to_onnx(program: Any, names: Sequence[str], example: Sequence[Tensor], path: Path) -> Callable[..., Tensor]:
    try:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]
        import onnxscript  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise MmzooError(f"--to onnx needs {error.name}: pip install 'mmzoo[onnx]'") from None
    made = torch.onnx.export(program, input_names=list(names), output_names=["scores"], dynamo=True, verbose=False)
    assert made is not None
    made.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: x.numpy() for name, x in zip(wanted, inputs, strict=True)})[0]
    )


def _difference(module: Scores, run: Callable[..., Tensor], inputs: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float((module(*inputs.values()) - run(*inputs.values())).abs().max())


def _example(trained: Trained, n: int) -> dict[str, Any]:
    """Made-up inputs of n samples by modality."""
    with seeded(0, "export", n):
        return {m: trained.form.spec(m).example(n) for m in trained.form.modalities}


def _flat(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Tensor by name: the modality, and after a dot the part where there are several."""
    found: dict[str, Tensor] = {}
    for m, x in inputs.items():
        found |= {m: x} if isinstance(x, Tensor) else {f"{m}.{part}": t for part, t in x.items()}
    return found
