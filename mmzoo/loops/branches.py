"""A network that was not written for mmzoo, as a model with encoders and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import in_mode
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Pass, map_tensors
from mmzoo.errors import BadValue, Incompatible
from mmzoo.loops.refused import RUN

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class Branches:
    """The branches of a network. A network with attributes `encoders` and `head` needs no `Branches`.

    Args:
        net: the network.
        encoders: modality -> the module with the parameters of its branch. No two of them share a parameter.
        head: features of all modalities, modality -> (B, D_m), to logits (B, C). An `nn.Linear` or `nn.Sequential` gets
            the concatenated features, (B, sum of D_m), in the order of `encoders`.
        features: inputs, modality -> input, to features. None: each encoder is called with the input of its modality.
        unimodal: features of all modalities to logits of each, modality -> (B, C). None: parts of a head that is an
            `nn.Linear`, W_m z_m + b / M; otherwise the head with the other features set to zero.
    """

    net: nn.Module
    encoders: Mapping[str, nn.Module]
    head: Callable[..., Tensor]
    features: Callable[[Mapping[str, Any]], Features] | None = None
    unimodal: Callable[[Features], Features] | None = None

    @classmethod
    def of(cls, net: Any) -> Branches:
        """The branches of a network that has the attributes `encoders` and `head`.

        Raises:
            Incompatible: it does not.
        """
        name = type(net).__name__
        if missing := [a for a in ("encoders", "head") if not hasattr(net, a)]:
            raise Incompatible(
                f"{name} does not declare its branches: it has no {' and no '.join(missing)}. Give it these attributes, or "
                "pass Branches(net, encoders={'audio': net.audio, ...}, head=net.fc) in its place."
            )
        return cls(net, net.encoders, net.head, getattr(net, "features", None), getattr(net, "unimodal", None))

    def __post_init__(self) -> None:
        name = type(self.net).__name__
        if not isinstance(self.net, nn.Module):
            raise Incompatible(f"the network must be a torch.nn.Module, not {name}.")
        if not isinstance(self.encoders, (Mapping, nn.ModuleDict)) or not len(self.encoders):
            raise Incompatible(
                f"{name}.encoders must map each modality to its module, e.g. {{'audio': net.audio}}, but is "
                f"{type(self.encoders).__name__}."
            )
        if not callable(self.head):
            raise Incompatible(f"{name}.head must take features and return logits, but is {type(self.head).__name__}.")
        known, owner = {id(p) for p in self.net.parameters()}, dict[int, str]()
        for m, module in self.encoders.items():
            if not isinstance(module, nn.Module):
                raise Incompatible(f"{name}.encoders[{m!r}] must be a torch.nn.Module, not {type(module).__name__}.")
            for p in module.parameters():
                if id(p) not in known:
                    raise Incompatible(f"{name}.encoders[{m!r}] has parameters that {name} does not hold.")
                if owner.setdefault(id(p), m) != m:
                    raise Incompatible(
                        f"{name}.encoders: {owner[id(p)]} and {m} share parameters. Branches must not share any; leave "
                        "out the shared ones, and give `features`."
                    )


def as_model(net: nn.Module | Branches, inputs: Mapping[str, Any]) -> MultimodalModel:
    """A network as a model that mmzoo can train, with shared parameters; an mmzoo model is returned as it is.

    Args:
        net: an mmzoo model, a network with the attributes of `Branches`, or `Branches`.
        inputs: modality -> input of some samples, from which widths and classes are inferred.

    Raises:
        Incompatible: the branches of the network are unknown, or they return something else than required.
    """
    if isinstance(net, MultimodalModel):
        return net
    branches = net if isinstance(net, Branches) else Branches.of(net)
    with in_mode(False, branches.net), torch.no_grad(), seeded(0, "probe"):
        features = _features(branches, inputs)
        widths = {m: z.shape[1] for m, z in features.items()}
        logits = _joint(branches, features)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Incompatible(f"{type(branches.net).__name__}.head must give logits (B, C), but gave {shape}.")
    return NetworkModel(branches, widths, logits.shape[1])


def _features(branches: Branches, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """(B, D_m) of every modality. Raises Incompatible for anything else."""
    name, modalities = type(branches.net).__name__, list(branches.encoders)
    if missing := [m for m in modalities if m not in inputs]:
        raise BadValue(f"the inputs lack {', '.join(missing)}; they hold {', '.join(map(str, inputs))}.")
    if branches.features is None:
        found: Features = {m: branches.encoders[m](inputs[m]) for m in modalities}
    else:
        found = branches.features(inputs)
    if not isinstance(found, Mapping) or set(found) != set(modalities):
        given = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise Incompatible(f"{name}.features must give each of {', '.join(modalities)}, but gave {given}.")
    for m in modalities:
        if not isinstance(found[m], Tensor) or found[m].ndim != 2:
            shape = tuple(found[m].shape) if isinstance(found[m], Tensor) else type(found[m]).__name__
            raise Incompatible(
                f"the features of {m} must be (B, D), but are {shape}. Pool or flatten them in the encoder, or give `features`."
            )
    return {m: found[m] for m in modalities}


def _joint(branches: Branches, features: Features) -> Tensor:
    side_by_side = isinstance(branches.head, (nn.Linear, nn.Sequential))
    return branches.head(torch.cat([*features.values()], 1) if side_by_side else features)


class _Branch(Encoder):
    """One branch of a network."""

    def __init__(self, module: nn.Module, out_dim: int) -> None:
        super().__init__()
        self.module, self.out_dim = module, out_dim

    def forward(self, x: Any) -> Tensor:
        found: Tensor = self.module(x)
        return found


class NetworkHead(FusionHead):
    """The head of a network, which holds the parameters.

    Args:
        branches: the branches of the network.
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
    """

    cures: Mapping[str, str] = {
        "unimodal": "Give the network `unimodal`, a function from features to the logits of each modality, or a head that is an "
        "nn.Linear: mmzoo docs own_loop.",
        "additive": "Give the network a head that is an nn.Linear, and no `unimodal`: mmzoo docs own_loop.",
        "shared": "Give the network one nn.Linear(D, C) that classifies the features of each modality, which all have the width "
        "D, a `head` that adds up its logits, and `unimodal`, which gives them by modality: mmzoo docs own_loop has an example.",
        "own": "Give the network `unimodal`, a function from features to the logits of each modality, and a `head` that adds them "
        "up: mmzoo docs own_loop has an example.",
        **dict.fromkeys(("evidence", "staged", "mean_gates"), f"A network of your own has its own head. {RUN}"),
    }

    def __init__(self, branches: Branches, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        linear = isinstance(branches.head, nn.Linear)
        self.how = "exact" if branches.unimodal is not None else "slice" if linear else "ablated"
        self.additive = linear and branches.unimodal is None
        self._branches = branches

    def fuse(self, features: Features, present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        return _joint(self._branches, features), {}

    def split(self, features: Features, present: Tensor | None, aux: Mapping[str, Any]) -> Features:
        head = self._branches.head
        if self._branches.unimodal is not None:
            return self._branches.unimodal(features)
        if not isinstance(head, nn.Linear):
            return super().split(features, present, aux)
        share = None if head.bias is None else head.bias / len(self.dims)
        parts = head.weight.split([*self.dims.values()], 1)
        return {m: F.linear(features[m], w, share) for m, w in zip(self.dims, parts)}


class NetworkModel(MultimodalModel):
    """A network that was not written for mmzoo.

    Args:
        branches: its branches.
        widths: modality -> feature width, in order.
        n_classes: number of classes C.
    """

    def __init__(self, branches: Branches, widths: Mapping[str, int], n_classes: int) -> None:
        encoders = {m: _Branch(module, widths[m]) for m, module in branches.encoders.items()}
        super().__init__(encoders, NetworkHead(branches, widths, n_classes))
        self.net = branches.net
        self._branches = branches

    def encode(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        if self._branches.features is None:
            return super().encode(inputs, pass_, present)
        pass_ = Pass() if pass_ is None else pass_
        if present is not None or pass_.freeze or pass_.fed(self.modalities) != self.modalities:
            raise Incompatible(
                f"{type(self.net).__name__}.features encodes all modalities at once, and here some are missing, left out or "
                "frozen. Let each encoder be called with the input of its modality: leave out `features`."
            )
        return {m: z.float() for m, z in _features(self._branches, inputs).items()}

    def encode_blanked(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self._branches.features is None:
            return super().encode_blanked(inputs, pass_, present)
        with in_mode(False, self):
            return self.encode(inputs, pass_, present), self.encode(map_tensors(inputs, torch.zeros_like), pass_)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder:<m>` for each branch, `head:shared` for everything else in the network, `extra:<name>`."""
        groups = {f"encoder:{m}": list(e.parameters()) for m, e in self.encoders.items()}
        taken = {id(p) for params in groups.values() for p in params}
        groups["head:shared"] = [p for p in self.net.parameters() if id(p) not in taken]
        groups |= {f"extra:{name}": list(module.parameters()) for name, module in self.extra.items()}
        return {name: params for name, params in groups.items() if params}
