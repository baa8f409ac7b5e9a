"""What the mathematics of heads that add up or weigh promises."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers.heads_by_hand import C, N, built, dims_of, features_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.heads.affine import Affine
from mmzoo.heads.concat import Concat
from mmzoo.heads.gated import Gated
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
SIZES = st.integers(2, 4)
# ---------------------------------------------------------------------- concat, sum, mean, shared, weight
MEAN = partial(Sum, reduce="mean")


@FIXED
@given(SEEDS, st.integers(1, 4))
def test_sum_is_concat_with_the_bias_shared_out_and_mean_is_sum_over_m(seed: int, m: int) -> None:
    dims, z = dims_of(m), features_of(dims_of(m), seed)
    joint, added, averaged = (built(cls, dims, seed) for cls in (Concat, Sum, MEAN))
    averaged.load_state_dict(added.state_dict())
    with torch.no_grad():
        for k in dims:
            joint.weight[k].copy_(added.linear[k].weight)
        joint.bias.copy_(torch.stack([added.linear[k].bias for k in dims]).sum(0))
    for x in z.values():
        x.requires_grad_()
    total = added(z)
    torch.testing.assert_close(joint(z).logits, total.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(averaged(z).logits, total.logits / m, rtol=0, atol=1e-12)
    assert torch.equal(averaged(z).logits.argmax(1), total.logits.argmax(1))
    of_sum, of_mean = (torch.autograd.grad(h(z).logits.sum(), list(z.values())) for h in (added, averaged))
    torch.testing.assert_close(of_mean, tuple(g / m for g in of_sum), rtol=0, atol=1e-12)
    for k, x in z.items():
        torch.testing.assert_close(total.unimodal[k], added.linear[k](x), rtol=0, atol=1e-12)
        torch.testing.assert_close(averaged(z).unimodal[k], added.linear[k](x), rtol=0, atol=1e-12)
        # Zeroed features leave the whole bias, a slice its share: one offset a class apart.
        apart = joint({k: x}).logits - joint(z).unimodal[k]
        torch.testing.assert_close(apart, (1 - 1 / m) * joint.bias.expand(N, C), rtol=0, atol=1e-12)
    with torch.no_grad():
        for p in added.parameters():
            p.mul_(3.0)
    assert torch.equal(added(z).logits.argmax(1), total.logits.argmax(1))


ALIKE = [
    (Concat, {}),
    (Sum, {}),
    (Sum, {"reduce": "mean"}),
    (Shared, {}),
    (Weight, {}),
    (Weight, {"level": "logit"}),
    (Weight, {"level": "gate"}),
    (Affine, {"target": "others"}),
    (Gated, {"target": "others"}),
]


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(("cls", "params"), ALIKE, ids=str)
def test_the_order_of_modalities_does_not_matter(cls: type, params: dict, m: int) -> None:
    dims = dict.fromkeys(dims_of(m), 3) if cls is Shared else dims_of(m)
    head, z = built(cls, dims, **params), features_of(dims)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(m)) < 0.7
    turned = built(cls, dict(reversed(dims.items())), **params)
    if cls is Affine:  # a generator's columns lie in the order of the modalities
        with torch.no_grad():
            for t, by in head.conditioners.items():
                blocks = dict(zip(by, head.generate[t].weight.split([dims[c] for c in by], 1)))
                turned.generate[t].weight.copy_(torch.cat([blocks[c] for c in turned.conditioners[t]], 1))
                turned.generate[t].bias.copy_(head.generate[t].bias)
            turned.linear.load_state_dict(head.linear.state_dict())
    else:
        turned.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(z, present).logits, turned(z, present.flip(1)).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("cls", "params"), ALIKE[:7], ids=str)
def test_one_modality_gives_a_linear_classifier(cls: type, params: dict) -> None:
    head, z = built(cls, {"a": 3}, **params), features_of({"a": 3}, n=9)
    out = head(z)
    torch.testing.assert_close(out.logits, out.unimodal["a"], rtol=0, atol=1e-12)
    design = torch.cat([z["a"], torch.ones(9, 1, dtype=torch.float64)], 1)
    fitted = design @ torch.linalg.lstsq(design, out.logits.detach()).solution
    torch.testing.assert_close(out.logits, fitted, rtol=0, atol=1e-10)


@FIXED
@given(SEEDS, SIZES, st.sampled_from(["feature", "logit", "gate"]))
def test_weights_add_up_to_one_over_what_is_there(seed: int, m: int, level: Any) -> None:
    head, z = built(Weight, dims_of(m), seed, level=level), features_of(dims_of(m), seed)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[:, 0] |= ~present.any(1)
    a = head(z, present).aux["attention"]
    torch.testing.assert_close(a.sum(1), torch.ones_like(a[:, 0]))
    there = a.flatten(2).gt(0).all(2) if a.ndim == 3 else a > 0
    assert torch.equal(there, present)


@FIXED
@given(SEEDS, SIZES, st.floats(-5, 5))
def test_a_constant_on_all_scores_changes_no_weight_and_one_classifier_makes_the_levels_one(
    seed: int, m: int, shift: float
) -> None:
    dims, z = dims_of(m), features_of(dims_of(m), seed)
    feature, logit = (built(Weight, dims, seed, level=level) for level in ("feature", "logit"))
    with torch.no_grad():
        before = feature(z).logits
        feature.attend[-1].bias.add_(shift)
        torch.testing.assert_close(feature(z).logits, before, rtol=0, atol=1e-12)
        for part in ("project", "attend"):
            getattr(logit, part).load_state_dict(getattr(feature, part).state_dict())
        for k in dims:
            logit.each[k].load_state_dict(feature.linear.state_dict())
    torch.testing.assert_close(logit(z).logits, before, rtol=0, atol=1e-12)
