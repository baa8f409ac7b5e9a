"""A check before training: does an encoder distinguish two inputs at all?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.modes import in_mode

#: features that differ by less of their largest value are equal
EQUAL = 1e-6
#: how far each parameter is moved where the features are equal as it was built, since a last layer may start at zero
SHAKEN = 0.1


def blind(encoder: Encoder, spec: InputSpec) -> bool:
    """Whether an encoder gives the same feature for two different random inputs, whatever its weights.

    Two texts share their first token, as all texts begin with [CLS]. An encoder that raises on these inputs counts as
    not blind: its own error is more useful. The global generator is left as it was.

    Args:
        encoder: the encoder.
        spec: its input.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_mode(False, encoder):
        torch.manual_seed(0)
        inputs = _two(spec)
        if inputs is None:
            return False
        try:
            if _apart(encoder(inputs)):
                return False
            shaken = copy.deepcopy(encoder)
            for parameter in shaken.parameters():
                parameter.add_(SHAKEN * torch.randn_like(parameter))
            return not _apart(shaken(inputs))
        except Exception:  # whatever it raises, it raises when it is used
            return False


def _two(spec: InputSpec) -> Any:
    """Two inputs that differ; None where there are no two."""
    inputs = spec.example(2)
    if spec.kind != "text":
        return inputs
    n, length = spec.vocabulary or 2, spec.shape[0]
    if n < 2 or length < 2:
        return None
    ids = inputs["ids"]
    ids[1] = (ids[0] + 1 + torch.randint(n - 1, (length,))) % n
    ids[1, 0] = ids[0, 0]
    return inputs


def _apart(features: Tensor) -> bool:
    one, two = features.double()
    return not bool((one - two).abs().max() <= EQUAL * features.double().abs().max())
