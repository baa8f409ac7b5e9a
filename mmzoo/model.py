"""Encoders and a head as one model, with its parameters in named groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.encoder import Encoder
from mmzoo.errors import BadValue, Incompatible
from mmzoo.head import FusionHead
from mmzoo.types import Outputs, Pass, map_tensors


class MultimodalModel(nn.Module):
    """One encoder a modality, a fusion head, and `extra` modules that strategies add.

    Raises Incompatible when the head's modalities or widths are not those of the encoders.
    """

    def __init__(self, encoders: Mapping[str, Encoder], head: FusionHead) -> None:
        super().__init__()
        dims = {m: e.out_dim for m, e in encoders.items()}
        if dims != head.dims:
            raise Incompatible(f"the head was built for {head.dims}, but the encoders give {dims}.")
        self.encoders = nn.ModuleDict(encoders)
        self.head = head
        self.extra = nn.ModuleDict()
        if head.couples and (unstaged := [m for m, e in encoders.items() if not e.n_stages]):
            raise Incompatible(f"head {type(head).__name__} acts between stages; no stages in: {', '.join(unstaged)}.")

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    def encode(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """modality -> (B, D_m) for every modality that the pass feeds; zeros in rows where it is absent."""
        pass_ = Pass() if pass_ is None else pass_
        fed = pass_.fed(self.modalities)
        if not fed:
            raise BadValue(f"pass {pass_.name!r} feeds none of {', '.join(self.modalities)}.")
        with self._still(pass_.freeze):
            if self.head.couples:
                return self._encode_coupled(inputs, fed, pass_, present)
            return {m: self._encode_one(m, inputs[m], pass_, self._rows(m, present)) for m in fed}

    def encode_blanked(
        self, inputs: Mapping[str, Any], pass_: Pass | None = None, present: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Two mappings as `encode` gives: of the inputs, and of inputs that are all zeros. In eval mode.

        There items do not influence one another, so each encoder runs once, over the batch and one item of zeros.
        Raises Incompatible for a head that acts between the stages: its encoders cannot be run one by one.
        """
        if self.head.couples:
            raise Incompatible(
                f"head {type(self.head).__name__} acts between the stages of the encoders: encode zeros with all of "
                "them, one choice of modalities at a time."
            )
        fed = (Pass() if pass_ is None else pass_).fed(self.modalities)
        real, blank = {}, {}
        with self._eval_mode([self.encoders[m] for m in fed]):
            for m in fed:
                rows, n = self._rows(m, present), _n_rows(inputs[m])
                z = self.encoders[m](map_tensors(_take(inputs[m], rows), _with_zeros))
                real[m] = _scatter(z[:-1], rows, n)
                blank[m] = _scatter(z[-1:].expand_as(z[:-1]), rows, n)
        return real, blank

    def outputs(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        """The head's outputs for features of any non-empty subset of modalities."""
        return self.head(features, present)

    def forward(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Outputs:
        return self.outputs(self.encode(inputs, present=present), present)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """A partition of all parameters: `encoder:<m>`, `head:<m>`, `head:shared`, `extra:<name>`."""
        own = {f"head:{m}": list(self.head.own(m)) for m in self.modalities}
        taken = {id(p) for ps in own.values() for p in ps}
        groups = {f"encoder:{m}": list(e.parameters()) for m, e in self.encoders.items()}
        groups |= own
        groups["head:shared"] = [p for p in self.head.parameters() if id(p) not in taken]
        groups |= {f"extra:{name}": list(module.parameters()) for name, module in self.extra.items()}
        return {name: params for name, params in groups.items() if params}

    def _rows(self, modality: str, present: Tensor | None) -> Tensor | None:
        """Row numbers where the modality is there; None when that is every row."""
        if present is None:
            return None
        here = present[:, self.modalities.index(modality)]
        return None if bool(here.all()) else here.nonzero().squeeze(1)

    def _encode_one(self, modality: str, x: Any, pass_: Pass, rows: Tensor | None) -> Tensor:
        encoder = self.encoders[modality]
        with torch.no_grad() if modality in pass_.freeze else contextlib.nullcontext():
            if rows is None:
                return encoder(x)
            return _scatter(self._run_present(encoder, x, rows), rows, _n_rows(x))

    def _run_present(self, encoder: nn.Module, x: Any, rows: Tensor) -> Tensor:
        if len(rows):
            # Batch statistics of one item do not exist: it is encoded as in evaluation.
            with self._eval_mode([encoder]) if len(rows) == 1 else contextlib.nullcontext():
                return encoder(map_tensors(x, lambda t: t[rows]))
        # Nothing to encode, and an encoder (batch statistics above all) must not see an empty or made-up row.
        some = next(encoder.parameters())
        return some.new_zeros(0, int(encoder.out_dim))  # type: ignore[arg-type]

    def _encode_coupled(
        self, inputs: Mapping[str, Any], fed: tuple[str, ...], pass_: Pass, present: Tensor | None
    ) -> dict[str, Tensor]:
        """All encoders stage by stage, with the head acting after each; the last stages are aligned."""
        encoders: dict[str, Any] = {m: self.encoders[m] for m in fed}
        rows = {m: self._rows(m, present) for m in fed}
        n = {m: _n_rows(inputs[m]) for m in fed}
        quiet = {m: torch.no_grad if m in pass_.freeze else contextlib.nullcontext for m in fed}
        state: dict[str, Any] = {}
        for m in fed:
            with quiet[m]():
                state[m] = encoders[m].begin(_take(inputs[m], rows[m]))
        depth = max(e.n_stages for e in encoders.values())
        for stage in range(depth):
            here = [m for m in fed if stage >= depth - encoders[m].n_stages]
            for m in here:
                with quiet[m]():
                    state[m] = encoders[m].run_stage(stage - depth + encoders[m].n_stages, state[m])
            maps = {m: _scatter(encoders[m].view(state[m]), rows[m], n[m]) for m in here}
            coupled = self.head.couple(stage - depth, maps, present, pass_)
            for m in here:
                state[m] = encoders[m].replace(state[m], _take(coupled[m], rows[m]))
        features = {}
        for m in fed:
            with quiet[m]():
                features[m] = _scatter(encoders[m].finish(state[m]), rows[m], n[m])
        return features

    @contextlib.contextmanager
    def _still(self, frozen: frozenset[str]) -> Iterator[None]:
        """Eval mode for the frozen encoders, so that their batch statistics stand still too."""
        with self._eval_mode([self.encoders[m] for m in frozen]):
            yield

    @staticmethod
    @contextlib.contextmanager
    def _eval_mode(encoders: Sequence[nn.Module]) -> Iterator[None]:
        moving = [module for e in encoders for module in e.modules() if module.training]
        for module in moving:
            module.training = False
        try:
            yield
        finally:
            for module in moving:
                module.training = True


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
