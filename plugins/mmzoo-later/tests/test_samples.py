"""Modality valuation and CML: contributions and confidences of single samples."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("mmzoo_later", reason="mmzoo-later is not installed")

from later_helpers import SEEDS, drawn, quick, started
from mmzoo_later import cml, modality_valuation
from mmzoo_later.modality_valuation import ModalityValuation


# ---------------------------------------------------------------------- modality valuation
@quick
@given(SEEDS, st.integers(1, 4))
def test_contributions_are_shapley_values(seed: int, m: int) -> None:
    """Against the definition by orders; they add up to v of all."""
    names = [f"m{i}" for i in range(m)]
    g = torch.Generator().manual_seed(seed)
    sets = [frozenset(s) for k in range(1, m + 1) for s in itertools.combinations(names, k)]
    correct = {s: torch.rand(5, generator=g) < 0.5 for s in sets}
    phi = modality_valuation.contributions(correct, names)

    def value(s: frozenset[str]) -> Tensor:
        return correct[s].double() * len(s) if s else torch.zeros(5, dtype=torch.float64)

    orders = list(itertools.permutations(names))
    for i, u in enumerate(names):
        gains = [value(frozenset(o[: o.index(u) + 1])) - value(frozenset(o[: o.index(u)])) for o in orders]
        assert torch.allclose(phi[:, i], torch.stack(gains).mean(0))
    assert torch.allclose(phi.sum(1), value(frozenset(names)))


@pytest.mark.parametrize("level", ["sample", "modality"])
def test_valuation_repeats_items_without_the_others(level: Any) -> None:
    run = started(ModalityValuation(warmup=2, level=level, part=1.0, strength=3.0), 3)
    for _ in range(2):
        run.train_epoch()
        assert run._sampling is None
        run.end_epoch()
    run.start_epoch()
    rows, drop, _ = run._sampling  # type: ignore[misc]
    assert drop is not None
    n = 14
    assert len(rows) > n and torch.equal(rows[:n], torch.arange(n)) and not bool(drop[:n].any())
    assert bool((drop[n:].sum(1) == (2 if level == "sample" else 1)).all())
    if level == "sample":
        phi = torch.cat([run.strategy._contributions(run, b) for b in run.train(shuffled=False)])  # type: ignore[attr-defined]
        copies = modality_valuation.extra_copies(phi)
        for u in range(3):
            kept = ~drop[n:, u]
            assert torch.equal(torch.bincount(rows[n:][kept], minlength=n), copies[:, u])
    seen = torch.cat([b.index for b in run.epoch_batches()])
    assert torch.equal(seen.sort().values, rows.sort().values)


# ---------------------------------------------------------------------- CML
@quick
@given(SEEDS, st.floats(0, 0.2))
def test_cml_is_zero_where_confidence_is_monotone_and_bounds_the_peers_form(seed: int, margin: float) -> None:
    full, part = drawn(seed, 9, 3).softmax(1), drawn(seed + 1, 9, 3).softmax(1)
    y = torch.randint(3, (9,), generator=torch.Generator().manual_seed(seed))
    right = full.argmax(1)
    assert float(cml.rank_loss(full, part, right, form="masked")) >= float(
        cml.rank_loss(full, part, right, form="peer")
    )
    unsure = torch.full_like(part, 1 / 3)
    for form in ("authors", "masked", "peer"):
        assert float(cml.rank_loss(full, unsure, y, margin, form)) == pytest.approx(0.0, abs=1e-12)  # type: ignore[arg-type]
    assert float(cml.rank_loss(full, part, y, margin)) >= float(cml.rank_loss(full, part, y, margin, "masked"))


def test_cml_does_not_raise_confidence_where_both_are_wrong() -> None:
    full = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    part = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    cml.rank_loss(full, part, torch.tensor([2])).backward()
    assert part.grad is not None and float(part.grad[0, 0]) == 1.0
    assert full.grad is None or not bool(full.grad.any())
