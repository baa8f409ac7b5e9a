"""Encoders and a head as one model, with its parameters in named groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.distributed import no_features
from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.modes import in_mode
from mmzoo.core.precision import autocast
from mmzoo.core.values import Outputs, Pass, map_tensors
from mmzoo.errors import BadValue, Incompatible


class MultimodalModel(nn.Module):
    """One encoder per modality, a fusion head, and `extra` modules that strategies add.

    A head that acts between stages builds its layers for these encoders here.

    Args:
        encoders: modality -> encoder, in order.
        head: a head for the same modalities and widths.

    Attributes:
        precision: "fp32", or "bf16" for encoders under autocast.
        extra: name -> module added by a strategy.

    Raises:
        Incompatible: modalities or widths of the head differ from those of the encoders, or the head needs stages that
            the encoders lack.

    Shape:
        inputs: modality -> (B, *shape). `Outputs.logits`: (B, C).
    """

    #: "bf16": encode under autocast, full_precision aside; features are handed on in fp32
    precision = "fp32"

    def __init__(self, encoders: Mapping[str, Encoder], head: FusionHead) -> None:
        super().__init__()
        dims = {m: e.out_dim for m, e in encoders.items()}
        if dims != head.dims:
            raise Incompatible(f"the head was built for {head.dims}, but the encoders give {dims}.")
        self.encoders = nn.ModuleDict(encoders)
        self._modalities = tuple(encoders)
        self.head = head
        self.extra = nn.ModuleDict()
        if head.couples:
            if unstaged := [m for m, e in encoders.items() if not e.n_stages]:
                raise Incompatible(
                    f"head {type(head).__name__} acts between stages; no stages in: {', '.join(unstaged)}."
                )
            head.build_stages({m: tuple(e.stage_dims) for m, e in encoders.items()})

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self._modalities

    def encode(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The features of every modality that the pass feeds.

        Args:
            inputs: modality -> (B, *shape), or a mapping of tensors for text.
            pass_: the pass; None: all modalities, none frozen.
            present: (B, M) bool; None if every sample has every modality.

        Returns:
            modality -> (B, D_m); zeros in rows without the modality.
        """
        pass_ = Pass() if pass_ is None else pass_
        fed = pass_.fed(self.modalities)
        if not fed:
            raise BadValue(f"pass {pass_.name!r} feeds none of {', '.join(self.modalities)}.")
        if present is None and not pass_.freeze and not self.head.couples and self.precision == "fp32":
            return _wide({m: self.encoders[m](inputs[m]) for m in fed})
        # Batch statistics of what is frozen must not move either.
        with in_mode(False, *(self.encoders[m] for m in pass_.freeze)), self._cast():
            if self.head.couples:
                return _wide(self._encode_coupled(inputs, fed, pass_, present))
            return _wide({m: self._encode_one(m, inputs[m], pass_, self._rows(m, present)) for m in fed})

    def encode_blanked(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The features of the inputs, and those of inputs of zeros, both in the form of `encode`. For eval mode.

        In eval mode samples do not influence each other, so each encoder runs once, over the batch and one sample of
        zeros.

        Args:
            inputs: as for `encode`.
            pass_: as for `encode`.
            present: as for `encode`.

        Raises:
            Incompatible: the head acts between stages, so that encoders cannot run one by one.
        """
        if self.head.couples:
            raise Incompatible(
                f"head {type(self.head).__name__} acts between the stages of the encoders: encode zeros with all of "
                "them, one choice of modalities at a time."
            )
        fed = (Pass() if pass_ is None else pass_).fed(self.modalities)
        real, blank = {}, {}
        with in_mode(False, *(self.encoders[m] for m in fed)), self._cast():
            for m in fed:
                rows, n = self._rows(m, present), _n_rows(inputs[m])
                z = self.encoders[m](map_tensors(_take(inputs[m], rows), _with_zeros))
                real[m] = _scatter(z[:-1], rows, n)
                blank[m] = _scatter(z[-1:].expand_as(z[:-1]), rows, n)
        return _wide(real), _wide(blank)

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast where the precision asks for it."""
        return contextlib.nullcontext() if self.precision == "fp32" else autocast(self.precision, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def outputs(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        """The head's outputs for the features of any non-empty subset of modalities.

        Args:
            features: modality -> (B, D_m).
            present: (B, M) bool over all modalities; None if every sample has every modality.
        """
        found: Outputs = self.head(features, present)
        return found

    def forward(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Outputs:
        """Encode the inputs and fuse the features.

        Args:
            inputs: modality -> (B, *shape), or a mapping of tensors for text.
            present: (B, M) bool; None if every sample has every modality.
        """
        return self.outputs(self.encode(inputs, present=present), present)

    def remove_extra(self, state: Mapping[str, Any]) -> None:
        """Remove the extra modules of which a state dict holds no tensors: they were added after it was saved."""
        for name, module in list(self.extra.items()):
            if module.state_dict() and not any(key.startswith(f"extra.{name}.") for key in state):
                del self.extra[name]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """A partition of all parameters: `encoder:<m>`, `head:<m>`, `head:shared`, `extra:<name>`."""
        own = {f"head:{m}": list(self.head.own(m)) for m in self.modalities}
        taken = {id(p) for ps in own.values() for p in ps}
        groups = {f"encoder:{m}": list(e.parameters()) for m, e in self.encoders.items()}
        groups |= own
        groups["head:shared"] = [p for p in self.head.parameters() if id(p) not in taken]
        groups |= {f"extra:{name}": list(module.parameters()) for name, module in self.extra.items()}
        return {name: params for name, params in groups.items() if params}

    def views(self) -> dict[str, list[nn.Parameter]]:
        """Overlapping sets of trainable parameters, by name.

        `main:<m>`: the branch of a modality and its part of the head. `bypass:<m>`: the parameters through which it
        learns from the others, including those that serve several modalities.
        """
        views = {}
        for m, encoder in self.encoders.items():
            bypass = list(self.head.bypass(m))
            across = {id(p) for p in bypass}
            views[f"main:{m}"] = [*encoder.parameters(), *(p for p in self.head.own(m) if id(p) not in across)]
            views[f"bypass:{m}"] = bypass
        return {name: [p for p in params if p.requires_grad] for name, params in views.items()}

    def _rows(self, modality: str, present: Tensor | None) -> Tensor | None:
        """Row numbers where the modality is there; None when that is every row."""
        if present is None:
            return None
        here = present[:, self.modalities.index(modality)]
        return None if bool(here.all()) else here.nonzero().squeeze(1)

    def _encode_one(self, modality: str, x: Any, pass_: Pass, rows: Tensor | None) -> Tensor:
        encoder = self.encoders[modality]
        frozen = modality in pass_.freeze
        with torch.no_grad() if frozen else contextlib.nullcontext():
            if rows is None:
                found: Tensor = encoder(x)
                return found
            if not len(rows):
                return self._nothing(encoder, _n_rows(x), frozen)
            # Batch statistics of one item do not exist: it is encoded as in evaluation.
            with in_mode(False, encoder) if len(rows) == 1 else contextlib.nullcontext():
                return _scatter(encoder(map_tensors(x, lambda t: t[rows])), rows, _n_rows(x))

    def _nothing(self, encoder: Any, n: int, frozen: bool) -> Tensor:
        """The features of n items of which none has the modality: an encoder (batch statistics above all) must not see an
        empty or made-up row."""
        with torch.no_grad() if frozen else contextlib.nullcontext():
            return no_features(n, int(encoder.out_dim), encoder, next(self.parameters()))

    def _encode_coupled(
        self, inputs: Mapping[str, Any], fed: tuple[str, ...], pass_: Pass, present: Tensor | None
    ) -> dict[str, Tensor]:
        """All encoders stage by stage, with the head acting after each; the last stages are aligned."""
        encoders: dict[str, Any] = {m: self.encoders[m] for m in fed}
        branches = {
            m: _Branch(e, inputs[m], self._rows(m, present), frozen=m in pass_.freeze) for m, e in encoders.items()
        }
        for stage in range(-max(e.n_stages for e in encoders.values()), 0):
            here = {m: b for m, b in branches.items() if stage >= -encoders[m].n_stages and not b.empty}
            for branch in here.values():
                branch.run(stage)
            maps = {m: b.map() for m, b in here.items()}
            masks = {m: mask for m, b in here.items() if (mask := b.mask()) is not None}
            # Called even without a map: another process may have one, and both must ask for the same means.
            coupled = self.head.couple(stage, maps, present, pass_, masks)
            for m, branch in here.items():
                branch.replace(coupled[m])
        return {
            m: self._nothing(encoders[m], b.n, m in pass_.freeze) if b.empty else b.finish()
            for m, b in branches.items()
        }


class _Branch:
    """One encoder on its way through its stages, over the rows that have its modality."""

    def __init__(self, encoder: Any, x: Any, rows: Tensor | None, *, frozen: bool) -> None:
        self._encoder, self._rows, self.n, self._frozen = encoder, rows, _n_rows(x), frozen
        self.empty = rows is not None and not len(rows)
        if not self.empty:
            with self._own():
                self._state = encoder.begin(_take(x, rows))

    def run(self, stage: int) -> None:
        """Run one stage, counted from the end."""
        with self._own():
            self._state = self._encoder.advance(stage + self._encoder.n_stages, self._state)

    def map(self) -> Tensor:
        return _scatter(self._encoder.view(self._state), self._rows, self.n)

    def mask(self) -> Tensor | None:
        mask = self._encoder.mask(self._state)
        return None if mask is None else _scatter(mask, self._rows, self.n)

    def replace(self, map_: Tensor) -> None:
        self._state = self._encoder.replace(self._state, _take(map_, self._rows))

    def finish(self) -> Tensor:
        with self._own():
            return _scatter(self._encoder.finish(self._state), self._rows, self.n)

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        """Without a graph where the pass freezes it. One of several items is encoded as in evaluation: batch
        statistics of one item do not exist."""
        alone = self._rows is not None and len(self._rows) == 1
        with (
            torch.no_grad() if self._frozen else contextlib.nullcontext(),
            in_mode(False, self._encoder) if alone else contextlib.nullcontext(),
        ):
            yield


def _wide(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """What autocast has made narrow, in fp32 again: strategies sum, compare and differentiate it."""
    return {m: z.float() if z.dtype is torch.bfloat16 else z for m, z in features.items()}


def _n_rows(x: Any) -> int:
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def _take(x: Any, rows: Tensor | None) -> Any:
    return x if rows is None else map_tensors(x, lambda t: t[rows])


def _with_zeros(t: Tensor) -> Tensor:
    """The rows of a batch, and one of zeros."""
    return torch.cat([t, t.new_zeros(1, *t.shape[1:])])


def _scatter(encoded: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """Put the rows of present items back among zeros."""
    if rows is None:
        return encoded
    return encoded.new_zeros(n, *encoded.shape[1:]).index_copy(0, rows, encoded)
