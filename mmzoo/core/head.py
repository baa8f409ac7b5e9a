"""The fusion head: from the features of any non-empty subset of modalities to logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.readouts import to_one_width
from mmzoo.core.values import Lazy, Outputs, Pass
from mmzoo.errors import Incompatible, near_miss, undefined
from mmzoo.functional import constant

How = Literal["exact", "slice", "ablated"]


class FusionHead(nn.Module):
    """Base of all fusion heads. A head defines `fuse`, and `split` if each modality has logits of its own.

    State that a head keeps across steps is a buffer.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.

    Attributes:
        how: how unimodal logits arise; stored with every number computed from them. "exact": the head computes them for
            its own output. "slice": a part of the joint classifier. "ablated": the head with the features of all other
            modalities set to zero.
        additive: the unimodal logits add up to the joint ones.
        equal_dims: all features must have the same width.
        evidential: logits are log alpha of Dirichlet opinions: none is negative, all are zero for an absent modality,
            and softmax(logits) is the expected probability. aux["opinions"] holds opinions of views that are no
            modality.
        min_modalities: the smallest number of modalities.
        couples: the head acts between the stages of staged encoders.
        mean_gates: it does so by gates whose running mean can replace them, which cuts a modality off from the others,
            in a pass with flags={"mean_gates": {m: True}}; a 0-dimensional bool tensor also works as the value.
        cures: what a method needs of a head (a word of `Strategy.requires`; "shared": one classifier that all modalities
            share; "own": logits of each modality that are no slices) -> what a message advises where this head lacks it.
            For what is not there, messages advise another head.
        expected_failures: name of a contract check -> why the head does not pass it.

    Raises:
        Incompatible: features of different widths under `equal_dims`, too few modalities, or a modality with a name
            that torch reserves.

    Shape:
        features: modality -> (B, D_m). `Outputs.logits`: (B, C).
    """

    how: How = "ablated"
    #: what a method needs of a head -> what a message advises where this one lacks it; for what is not here: another head
    cures: Mapping[str, str] = {}
    additive: bool = False
    equal_dims: bool = False
    evidential: bool = False
    min_modalities: int = 1
    couples: bool = False
    mean_gates: bool = False
    #: contract check -> why it cannot hold, by design of the head. Such a check runs all the same, and one that passes is a
    #: failure (mmzoo.testing).
    expected_failures: Mapping[str, str] = {}

    @classmethod
    def readout(cls, encoders: Mapping[str, Encoder], **params: Any) -> Mapping[str, Encoder]:
        """The encoders in the form in which a head with these parameters reads them. Called before the head is built.

        Override it to read more than the feature, e.g. a sequence (`mmzoo.core.readouts.Steps`). By default encoders
        are read as they are; under `equal_dims` all features have the narrowest width
        (`mmzoo.core.readouts.to_one_width`).

        Args:
            encoders: modality -> encoder.
            params: the parameters of the head.

        Raises:
            Incompatible: an encoder cannot be read in this form.
        """
        return to_one_width(encoders) if cls.equal_dims else encoders

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        """dims: modality -> feature width, in order.

        Raises Incompatible where the head needs equal widths or more modalities, and for a name that torch has itself.
        """
        super().__init__()
        for m in dims:
            if (fault := name_fault(m)) is not None:
                raise Incompatible(fault)
        if len(dims) < self.min_modalities:
            raise Incompatible(
                f"head {type(self).__name__} needs at least {self.min_modalities} modalities, but got "
                f"{', '.join(dims) or 'none'}. Use the head concat for fewer."
            )
        if self.equal_dims and len(set(dims.values())) > 1:
            raise Incompatible(
                f"head {type(self).__name__} needs features of one width, but got {dict(dims)}. Give it encoders of one "
                f"output width, or those that {type(self).__name__}.readout makes of yours."
            )
        self.dims = dict(dims)
        self.n_classes = n_classes

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.dims)

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Joint logits from the features of *all* modalities, and other values worth keeping.

        A head with layers before its last, linear one stores that layer's input under "penultimate" (B, D), for methods
        that refit the layer. A head whose logits are linear in the features stores nothing there.

        Args:
            features: modality -> (B, D_m); zeros where a modality is absent.
            present: (B, M) bool; None if every sample has every modality.

        Returns:
            Logits (B, C), and the mapping that becomes `Outputs.aux`.
        """
        raise undefined(self, "fuse")

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """The logits of each modality. Default: those of the head with all other features set to zero.

        Args:
            features: modality -> (B, D_m).
            present: (B, M) bool; None if every sample has every modality.
            aux: what `fuse` returned.

        Returns:
            modality -> (B, C).
        """
        zeros = {m: torch.zeros_like(z) for m, z in features.items()}
        return {m: self.fuse({**zeros, m: z}, present)[0] for m, z in features.items()}

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        """The parameters that serve a single modality (group `head:<modality>`). Default: none."""
        return ()

    def classifier(self, modality: str) -> tuple[Tensor, Tensor] | None:
        """W (C, D_m) and b (C,) if the logits of a modality are W z + b, else None."""
        return None

    def bypass(self, modality: str) -> Iterable[nn.Parameter]:
        """The parameters through which a modality learns from the others between stages. Default: none.

        Parameters that serve several modalities count for each of them.
        """
        return ()

    def build_stages(self, widths: Mapping[str, Sequence[int]]) -> None:
        """Build the layers that act between stages. The model calls this when the head becomes part of it.

        Initial weights come from the generator that is active, as in `__init__`.

        Args:
            widths: modality -> width of the map after each stage (`Encoder.stage_dims`).

        Raises:
            Incompatible: the head cannot act on such maps.
        """

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Act on the maps after one stage. Default: identity.

        Args:
            stage: counted from the end; -1 is the last.
            maps: modality -> (B, C, *spatial), of the modalities that are fed, have this stage and occur in the batch
                (there may be none); zeros in rows without the modality.
            present: (B, M) bool; None if every sample has every modality.
            pass_: the current pass; a head may read its flags.
            masks: modality -> (B, *spatial) bool, False at padding.

        Returns:
            modality -> map of the same shape.
        """
        return maps

    def forward(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        """Fuse the features of any non-empty subset of modalities.

        Args:
            features: modality -> (B, D_m).
            present: (B, M) bool over *all* modalities of the head; None if every sample has every modality.
        """
        there = None if present is None else {m: present[:, i] for i, m in enumerate(self.dims) if m in features}
        full, present = self._complete(features, present)
        logits, aux = self.fuse(full, present)

        def unimodal() -> Mapping[str, Tensor]:
            own = self.split(full, present, aux)
            return {m: own[m] for m in features}

        return Outputs(logits, dict(features), Lazy(unimodal), aux, present=there)

    def _complete(
        self, features: Mapping[str, Tensor], present: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """All modalities, zeros where absent, and the mask that says so."""
        some = next(iter(features.values()))
        missing = [m for m in self.dims if m not in features]
        if not missing and present is None:
            return {m: features[m] for m in self.dims}, None
        if present is None:
            present = torch.ones(len(some), len(self.dims), dtype=torch.bool, device=some.device)
        if missing:
            present = present & constant([m in features for m in self.dims], present)
        full = {m: features.get(m, some.new_zeros(len(some), d)) for m, d in self.dims.items()}
        return {m: torch.where(present[:, i, None], z, 0.0) for i, (m, z) in enumerate(full.items())}, present


def name_fault(modality: str) -> str | None:
    """Why a modality cannot have this name, or None: modules are stored under it, and torch reserves some names."""
    if not modality or "." in modality:
        return f"a modality cannot be called {modality!r}: a name has at least one character, and no dot."
    if any(hasattr(holder, modality) for holder in (nn.ModuleDict(), nn.ParameterDict())):
        return (
            f"a modality cannot be called {modality!r}: torch's containers of modules have an attribute of that name. Call it "
            f"{modality}_ or something else."
        )
    return None


def mean_over_present(stacked: Tensor, present: Tensor | None) -> Tensor:
    """The mean over the modalities that are present; zeros for a sample without any.

    Args:
        stacked: (B, M, K), one row per modality.
        present: (B, M) bool; None if every sample has every modality.

    Returns:
        (B, K).
    """
    if present is None:
        return stacked.mean(1)
    weight = present.to(stacked.dtype).unsqueeze(-1)
    return (stacked * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def conditioners(modalities: Sequence[str], condition: str, target: str) -> dict[str, tuple[str, ...]]:
    """Which modalities act on which in a one-sided head.

    Each of the two roles is the name of a modality, "first", "last" or "others": all but the one in the other role.
    With "others" for both, each modality is acted on by all the rest.

    Args:
        modalities: the modalities in order.
        condition: the modality that acts.
        target: the modality that is acted on.

    Returns:
        modality that is acted on -> those that act on it, in order.

    Raises:
        Incompatible: the name is no modality, one modality has both roles, or a modality has none.
    """
    names = list(modalities)
    chosen = {}
    for role, word in (("condition", condition), ("target", target)):
        known: dict[str, str | None] = {"first": names[0], "last": names[-1], "others": None, **{m: m for m in names}}
        if word not in known:
            raise Incompatible(
                f"{role} must be one of {', '.join([*names, 'first', 'last', 'others'])}, not {word!r}."
                f"{near_miss(word, known)}"
            )
        chosen[role] = known[word]
    giver, taker = chosen["condition"], chosen["target"]
    if giver is not None and giver == taker:
        raise Incompatible(f"condition and target are both {giver}. Set one of them to others.")
    idle = [m for m in names if m not in (giver, taker)]
    if giver is not None and taker is not None and idle:
        raise Incompatible(
            f"condition {giver} and target {taker} leave out {', '.join(idle)}. Set one of them to others."
        )
    givers = names if giver is None else [giver]
    takers = [m for m in names if m != giver] if taker is None else [taker]
    return {t: tuple(m for m in givers if m != t) for t in takers}
