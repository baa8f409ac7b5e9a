"""A linear classifier on each modality's features, beside the head, for methods that train one with any fusion."""

from __future__ import annotations

from torch import Tensor, nn

from mmzoo.api import Outputs, Run, Step


def add_classifiers(run: Run, name: str) -> None:
    """Add one per modality of a `run`, as the group `extra:<name>_<modality>` for a given `name`."""
    for m, width in run.model.head.dims.items():
        run.add_module(f"{name}_{m}", lambda width=width: nn.Linear(width, run.n_classes))  # type: ignore[misc]


def own_losses(step: Step, out: Outputs, name: str) -> dict[str, Tensor]:
    """`<name>/<modality>` -> the loss of its classifier over the samples that have it, if the pass may update it.

    Args:
        step: the batch in its pass.
        out: its outputs.
        name: name of the classifiers.
    """
    found = {}
    for m, z in out.features.items():
        if step.pass_.moves(m):
            logits = step.run.model.extra[f"{name}_{m}"](step.kept(z))
            found[f"{name}/{m}"] = step.loss(logits, step.here(m))
    return found
