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
    """Base of all heads. A head defines `fuse`, and `split` where each modality has logits of its own.

    how: how unimodal logits arise; the word is stored with every number computed from them.
      exact: the head computes them anyway. slice: a part of the joint classifier. ablated: the head with the
      features of all other modalities replaced by zeros.
    additive: the unimodal logits add up to the joint ones. equal_dims: all features must have one width.
    evidential: all logits are log alpha of Dirichlet opinions, so none is below zero, all are zero for an absent
    modality, and softmax(logits) is the expected probability; opinions of views that are no modality are in
    aux["opinions"].
    min_modalities: how many it takes to fuse. couples: the head acts between the stages of staged encoders. What a
    head keeps across steps is a buffer.
    mean_gates: it acts there by gates whose running mean can stand in for them, which cuts a modality off from the
    others: in a pass with flags={"mean_gates": {m: True}}, where True may be a 0-dimensional bool tensor.
    """

    how: How = "ablated"
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
        """The encoders as a head with these parameters reads them; `dims` are then theirs. Default: as they are, and for a
        head that needs equal widths in that of the narrowest (`mmzoo.core.readouts.to_one_width`).

        For heads that want more of an encoder than its feature, e.g. a sequence (`mmzoo.core.readouts.Steps`). Called before
        the head is built. Raises Incompatible for an encoder that cannot be read so.
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
        return tuple(self.dims)

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Joint logits (B, C) and what else is worth keeping, from features of *all* modalities.

        A head with layers before its last one keeps under "penultimate" (B, D) what that last, linear layer reads, for
        methods that fit it anew; a head whose logits are linear in the features keeps nothing there.

        present: (B, M) bool, or None when all are there. The features of absent modalities are zeros.
        """
        raise undefined(self, "fuse")

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        """Each modality's own logits (B, C). Default: the head with the other features set to zero."""
        zeros = {m: torch.zeros_like(z) for m, z in features.items()}
        return {m: self.fuse({**zeros, m: z}, present)[0] for m, z in features.items()}

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        """The parameters that serve one modality alone (group `head:<modality>`). Default: none."""
        return ()

    def classifier(self, modality: str) -> tuple[Tensor, Tensor] | None:
        """W (C, D_m) and b (C,) where the modality's own logits are W z + b; None where they are anything else."""
        return None

    def bypass(self, modality: str) -> Iterable[nn.Parameter]:
        """The parameters through which a modality learns from the others between stages; those that serve several
        modalities count for each. Default: none."""
        return ()

    def build_stages(self, widths: Mapping[str, Sequence[int]]) -> None:
        """Make what acts between stages. Called by the model that the head becomes part of.

        widths: modality -> width of the map after each stage (`Encoder.stage_dims`). Initial weights come from the
        stream that is open then, as in `__init__`. Raises Incompatible where the head cannot act on such maps.
        """

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Act on the maps (B, C, *spatial) after one stage. Default: identity.

        stage: counted from the end, -1 the last. maps: of the modalities that are fed, have this stage, and are there
        for at least one item (so there may be none); rows of items that lack the modality are zeros. masks:
        (B, *spatial) bool, False where a position of a map is padding.
        """
        return maps

    def forward(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        """features: modality -> (B, D_m) for any non-empty subset. present: (B, M) bool over all modalities."""
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
    """Why a modality cannot have this name, if so: modules are kept by it, in containers of torch with names of their own."""
    if not modality or "." in modality:
        return f"a modality cannot be called {modality!r}: a name has at least one character, and no dot."
    if any(hasattr(holder, modality) for holder in (nn.ModuleDict(), nn.ParameterDict())):
        return (
            f"a modality cannot be called {modality!r}: torch's containers of modules have an attribute of that name. Call it "
            f"{modality}_ or something else."
        )
    return None


def mean_over_present(stacked: Tensor, present: Tensor | None) -> Tensor:
    """(B, K) mean over the modalities of (B, M, K), leaving out absent ones; zeros where none is present."""
    if present is None:
        return stacked.mean(1)
    weight = present.to(stacked.dtype).unsqueeze(-1)
    return (stacked * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def conditioners(modalities: Sequence[str], condition: str, target: str) -> dict[str, tuple[str, ...]]:
    """Who acts on whom in a one-sided head: each modality that is acted on -> those that act on it, in order.

    condition, target: who acts and who is acted on. Each is the name of a modality, "first", "last", or "others": all
    but the one on the other side. "others" for both: each modality is acted on by all the rest.

    Raises Incompatible for a name that is none of the modalities, for one modality in both roles, and where a modality
    would have no role.
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
