"""MMPareto, OPM, MMCosine and InfoReg: what they promise of gradients and features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("mmzoo_later", reason="mmzoo-later is not installed")

from later_helpers import SEEDS, drawn, quick, started
from mmzoo_later import inforeg, mmpareto, opm
from mmzoo_later.inforeg import InfoReg
from mmzoo_later.mmcosine import MMCosine
from mmzoo_later.mmpareto import MMPareto
from mmzoo_later.opm import OPM


# ---------------------------------------------------------------------- MMPareto
@quick
@given(SEEDS, st.integers(1, 5))
def test_mmpareto_climbs_neither_loss_and_is_the_sum_without_conflict(seed: int, width: int) -> None:
    a, b = drawn(seed, 2, width)
    cosine, w = mmpareto.shares([a], [b])
    (result,) = mmpareto.integrate([a], [b], gamma=1.0)
    assert 0 < float(w) < 1
    if float(cosine) > 0:
        assert torch.allclose(result, a + b)
        return
    if 0.001 < float(w) < 0.999:  # the shortest vector has the same product with both
        assert float(result @ a) >= -1e-12 and float(result @ b) >= -1e-12
    mixed = [t * a + (1 - t) * b for t in torch.linspace(0.001, 0.999, 500, dtype=torch.float64)]
    shortest = (w * a + (1 - w) * b).norm()
    assert float(shortest) <= min(float(v.norm()) for v in mixed) + 1e-12
    combined = 2 * (w * a + (1 - w) * b)
    assert float(result.norm()) >= float(combined.norm()) - 1e-12


def test_mmpareto_without_its_guard_scales_rounding_errors() -> None:
    joint, own = [torch.tensor([2.0, 0.3], dtype=torch.float64)], [torch.tensor([-1.0, -0.15], dtype=torch.float64)]
    plain = joint[0] + own[0]
    (guarded,) = mmpareto.integrate(joint, own)
    (released,) = mmpareto.integrate(joint, own, floor=0.0)
    assert float(guarded.norm()) < 1e-9
    assert float(released.norm()) == 0.0 or float(released.norm()) == pytest.approx(1.5 * float(plain.norm()))


@pytest.mark.parametrize("modalities", [2, 3])
def test_mmpareto_takes_separate_gradients(modalities: int) -> None:
    """The encoders' gradients are those that two backward passes by hand give; the head's are those of the sum."""
    seen: dict[str, Tensor] = {}

    class Watched(MMPareto):
        def gradients(self, step, out, grads):  # type: ignore[no-untyped-def]
            seen.update({n: p.grad.clone() for n, p in step.run.model.named_parameters() if p.grad is not None})

    run = started(Watched(), modalities)
    run.start_epoch()
    batch = next(iter(run.epoch_batches()))
    model = run.model
    out = model(batch.inputs)
    joint = F.cross_entropy(out.logits, batch.target)
    own = {m: F.cross_entropy(model.extra[f"mmpareto_{m}"](z), batch.target) for m, z in out.features.items()}
    expected = {}
    for m, encoder in model.encoders.items():
        params = list(encoder.parameters())
        a = torch.autograd.grad(joint, params, retain_graph=True)
        b = torch.autograd.grad(own[m], params, retain_graph=True)
        expected[m] = mmpareto.integrate(a, b)
    head = torch.autograd.grad(joint, list(model.head.parameters()), retain_graph=True)
    run.step(batch)
    for m, encoder in model.encoders.items():
        for (name, _), g in zip(encoder.named_parameters(), expected[m]):
            assert torch.allclose(seen[f"encoders.{m}.{name}"], g)
    for (name, _), g in zip(model.head.named_parameters(), head):
        assert torch.allclose(seen[f"head.{name}"], g)


# ---------------------------------------------------------------------- OPM
@quick
@given(st.lists(st.floats(0, 64), min_size=2, max_size=4), st.floats(0, 1), st.floats(0, 2))
def test_opm_never_drops_the_weakest(scores: list[float], base: float, strength: float) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    q = opm.drop_probabilities(s, base, strength)
    assert float(q[s.argmin()]) == 0.0
    positive = q[q > 0]
    assert bool(((positive >= base - 1e-12) & (positive <= min(1.0, base * (1 + strength)) + 1e-12)).all())
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(opm.drop_probabilities(s[order], base, strength), q[order])


def test_opm_keeps_the_expected_size_of_features_and_drops_who_is_ahead() -> None:
    run = started(OPM(warmup=0, execute=1.0, base=0.6))
    strategy = run.strategy
    strategy._probabilities = lambda step, feats: torch.tensor([0.6, 0.0], dtype=torch.float64)  # type: ignore[attr-defined]
    from mmzoo.api import Batch, Step

    n = 20_000
    feats = {"audio": torch.ones(n, 5, dtype=torch.float64), "image": torch.ones(n, 5, dtype=torch.float64)}
    step = Step(run, Batch(feats, torch.zeros(n, dtype=torch.int64), torch.arange(n)))
    found = strategy.features(step, feats)
    assert step.keep is not None and bool(step.keep.all())
    assert float((found["audio"][:, 0] == 0).double().mean()) == pytest.approx(0.6, abs=0.02)
    assert bool((found["image"] == 1 / 0.7).all())
    assert float(torch.cat(list(found.values()), 1).mean()) == pytest.approx(1.0, abs=0.02)


# ---------------------------------------------------------------------- MMCosine
@quick
@given(SEEDS, st.floats(0.01, 100), st.lists(st.floats(0.01, 100), min_size=2, max_size=3))
def test_mmcosine_knows_directions_only(seed: int, scale: float, factors: list[float]) -> None:
    dims = {f"m{i}": 3 + i for i in range(len(factors))}
    head = MMCosine(dims, 4, scale=scale).double().requires_grad_(False)
    z = {m: drawn(seed + i, 6, d) for i, (m, d) in enumerate(dims.items())}
    out, longer = head(z), head({m: f * x for f, (m, x) in zip(factors, z.items())})
    assert torch.allclose(out.logits, longer.logits, atol=1e-9)
    for m, x in z.items():
        assert float(out.unimodal[m].abs().max()) <= scale + 1e-9
        expected = scale * F.cosine_similarity(x[:, None], head.weight[m][None], dim=-1)
        assert torch.allclose(out.unimodal[m], expected, atol=1e-9)


# ---------------------------------------------------------------------- InfoReg
@quick
@given(SEEDS, st.integers(2, 4))
def test_inforeg_holds_the_leader_alone(seed: int, m: int) -> None:
    s = drawn(seed, m) * 3
    beta = inforeg.pulls(s, torch.full((m,), 0.95, dtype=torch.float64))
    assert int((beta > 0).sum()) == 1 and float(beta[s.argmax()]) > 0
    second = s.sort().values[-2]
    assert float(beta.max()) == pytest.approx(0.95 * float(torch.exp(torch.tanh(s.max() - second))))
    assert not bool(inforeg.pulls(torch.ones(m), torch.ones(m)).any())


def test_inforeg_window_opens_with_growth() -> None:
    assert inforeg.rate([]) == inforeg.rate([3.0]) == inforeg.rate([0.0, 0.0]) == 1.0
    assert inforeg.rate([1.0, 3.0]) == pytest.approx((2 - 1) / 2)
    assert inforeg.rate([2.0] * 11) == 0.0
    traces = [float(x) for x in range(1, 13)]
    now, before = sum(traces[-10:]) / 10, sum(traces[-11:-1]) / 10
    assert inforeg.rate(traces) == pytest.approx((now - before) / now)


def test_inforeg_pulls_towards_the_start_of_the_epoch() -> None:
    run = started(InfoReg(weight=0.0))
    run.strategy._pulls = lambda step, out: {"audio": torch.tensor(2.0), "image": torch.tensor(0.0)}  # type: ignore[attr-defined]
    seen: list[dict[str, Tensor]] = []
    inner = run.strategy.gradients

    def watched(step: Any, out: Any, grads: Any) -> None:
        before = {n: p.grad.clone() for n, p in run.model.encoders.named_parameters() if p.grad is not None}
        inner(step, out, grads)
        start = {f"{m}.{n}": t for m, s in run.strategy.start.items() for n, t in s.items()}  # type: ignore[attr-defined]
        for name, p in run.model.encoders.named_parameters():
            pull = 2.0 * (p.detach() - start[name]) if name.startswith("audio") else 0.0
            assert torch.allclose(p.grad, before[name] + pull)  # type: ignore[arg-type]
        seen.append(before)

    run.strategy.gradients = watched  # type: ignore[method-assign]
    run.train_epoch()
    assert len(seen) == run.steps_per_epoch
