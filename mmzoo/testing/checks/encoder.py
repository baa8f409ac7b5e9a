"""What an encoder owes to every strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.bilevel import double_backward
from mmzoo.core.encoder import Encoder
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import map_tensors
from mmzoo.testing.harness.cases import EncoderCase, rows
from mmzoo.testing.harness.observing import difference, examples, not_finite, random_state, weights
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require

#: of finite differences; a kink of ReLU within a step spoils that one, a wrong derivative is wrong in all of them
STEPS = (1e-6, 1e-7, 1e-8)


@contract("encoder")
def check_encoder_shape(case: EncoderCase) -> None:
    """forward gives (B, out_dim), finite, of the parameters' dtype, in eval and in training mode."""
    for dtype in (torch.float32, torch.float64):
        encoder = case.build().to(dtype)
        for n, training in ((1, False), (3, False), (4, True)):
            with seeded(0, "encoder"), torch.no_grad():
                z = encoder.train(training)(case.inputs(n, dtype=dtype))
            ok = tuple(z.shape) == (n, encoder.out_dim) and z.dtype == dtype and not not_finite({"z": z})
            require(
                ok,
                f"{n} samples give finite ({n}, {encoder.out_dim}) {dtype}",
                f"{tuple(z.shape)} {z.dtype}",
                "set out_dim to the true width; keep one row per sample and the dtype; a batch of one must work in eval",
            )


@contract("encoder")
def check_encoder_rows(case: EncoderCase) -> None:
    """In eval mode each item is encoded on its own: order, company and size of the batch do not matter."""
    encoder = case.build().double()

    @examples(case.draws, seed=st.integers(0, 99), order=st.permutations(range(4)))
    def one(seed: int, order: list[int]) -> None:
        x = case.inputs(4, seed, torch.float64)
        with torch.no_grad():
            whole = encoder(x)
            shuffled = encoder(rows(x, torch.tensor(order)))
            single = torch.cat([encoder(rows(x, slice(i, i + 1))) for i in range(4)])
        for what, gap in (
            (
                "reordering the samples reorders the features",
                difference(whole[torch.tensor(order)], shuffled, 1e-6),
            ),
            ("a single sample has the features that it has in a batch", difference(whole, single, 1e-6)),
        ):
            todo = "use no statistics over the batch in eval mode, and fold time so that rows stay apart"
            require(gap is None, what, str(gap), todo)


@contract("encoder")
def check_encoder_pure(case: EncoderCase) -> None:
    """In eval mode it repeats itself, changes neither inputs nor buffers, and draws no random number."""
    encoder, x = case.build(), case.inputs(3)
    copy, before, random = case.inputs(3), weights(encoder), random_state()
    with torch.no_grad():
        first, second = encoder(x), encoder(x)
    for claim, gap in {
        "called twice it gives the same": difference(first, second),
        "it does not change its input": difference(copy, x),
        "in eval mode its buffers do not change": difference(before, weights(encoder)),
        "it draws no random number in eval mode": difference(random, random_state()),
    }.items():
        require(
            gap is None,
            claim,
            str(gap),
            "write to new tensors; draw and move statistics only while self.training",
        )


@contract("encoder")
def check_encoder_gradients(case: EncoderCase) -> None:
    """A gradient reaches every parameter."""
    encoder = case.build()
    reached: set[str] = set()
    for seed in range(3):
        encoder.zero_grad()
        encoder(case.inputs(4, seed)).square().sum().backward()
        reached |= {n for n, p in encoder.named_parameters() if p.grad is not None and bool(p.grad.any())}
    missing = [n for n, p in encoder.named_parameters() if p.requires_grad and n not in reached]
    require(
        not missing,
        "the features depend on every parameter",
        f"no gradient in {', '.join(missing)}",
        "remove what is not used (the classifier of a backbone), or set requires_grad to False",
    )


@contract("encoder")
def check_encoder_double_backward(case: EncoderCase) -> None:
    """It can be differentiated twice under mmzoo.bilevel.double_backward, and the result is right."""
    encoder = case.build().double()
    params = [p for p in encoder.parameters() if p.requires_grad]
    claim, todo = (
        "it can be differentiated twice",
        "avoid operations without a second derivative, or expect the failure",
    )
    if not params:
        raise Skipped("it has no parameters to train")
    g, x = stream(0, "direction"), case.inputs(2, dtype=torch.float64)
    direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in params]
    with torch.no_grad():
        for p in params:  # fresh shifts are exactly zero, which puts what is dead before them on the kink of ReLU
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64), alpha=0.01)
    try:
        product = _second(encoder, x, params, direction)
    except RuntimeError as error:
        raise CheckFailed(claim, f"{error}", todo) from error
    seen = []
    for step in STEPS:
        expected = _change_of_gradient(encoder, x, params, direction, step)
        off, size = (float(torch.linalg.vector_norm(t)) for t in (product - expected, expected))
        if off <= 0.01 * size + 1e-6:
            return
        seen.append(f"{off:.3g} of {size:.3g}")
    raise CheckFailed(claim, f"by finite differences its product with a vector is off by {', '.join(seen)}", todo)


def _gradient(encoder: Encoder, x: Any, params: list[nn.Parameter], create_graph: bool = False) -> list[Tensor]:
    with double_backward():
        value = encoder(x).pow(3).sum()
        grads = torch.autograd.grad(value, params, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params)]


def _second(encoder: Encoder, x: Any, params: list[nn.Parameter], direction: list[Tensor]) -> Tensor:
    """The Hessian of a scalar of the features times a direction, by differentiating twice."""
    grads = _gradient(encoder, x, params, create_graph=True)
    along = torch.stack([(g * v).sum() for g, v in zip(grads, direction)]).sum()
    twice = torch.autograd.grad(along, params, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if t is None else t).flatten() for t, p in zip(twice, params)])


def _change_of_gradient(
    encoder: Encoder, x: Any, params: list[nn.Parameter], direction: list[Tensor], size: float
) -> Tensor:
    """The same by central differences: operations that only drop a part of the derivative raise nothing."""
    ends = []
    for sign in (1.0, -2.0):
        with torch.no_grad():
            for p, v in zip(params, direction):
                p.add_(v, alpha=sign * size)
        ends.append(torch.cat([g.flatten() for g in _gradient(encoder, x, params)]))
    return (ends[0] - ends[1]) / (2 * size)


@contract("encoder")
def check_encoder_stages(case: EncoderCase) -> None:
    """The stages composed are the encoder, a state with its own map put back is the same state, and maps have the widths
    that `stage_dims` names."""
    encoder = case.build()
    if not encoder.n_stages:
        raise Skipped("it has no stages")
    x = case.inputs(3)
    with torch.no_grad():
        state = encoder.begin(x)
        for stage in range(encoder.n_stages):
            state = encoder.run_stage(stage, state)
            map_ = encoder.view(state)
            require(
                len(map_) == 3 and map_.ndim >= 2,
                "the map of a state is (B, C, *spatial)",
                f"{tuple(map_.shape)} after stage {stage}",
                "unfold time into a spatial axis in `view`",
            )
            widths = tuple(encoder.stage_dims)
            require(
                len(widths) == encoder.n_stages and widths[stage] == map_.shape[1],
                "stage_dims names the width of the map after each stage",
                f"{widths} for {encoder.n_stages} stages, and a map {tuple(map_.shape)} after stage {stage}",
                "set stage_dims in __init__; of tokens the width of one comes second, not their number",
            )
            mask = encoder.mask(state)
            require(
                mask is None or (mask.dtype == torch.bool and mask.shape == map_[:, 0].shape),
                "the mask of a state is (B, *spatial) bool, or None",
                f"{None if mask is None else (mask.dtype, tuple(mask.shape))} for a map {tuple(map_.shape)}",
                "return True where the map holds data",
            )
            state = encoder.replace(state, map_)
            gap = difference(map_, encoder.view(state), 1e-6)
            require(
                gap is None,
                "replace puts a map where view finds it",
                f"stage {stage}: {gap}",
                "invert `view`",
            )
        gap = difference(encoder(x), encoder.finish(state), 1e-5)
    require(
        gap is None,
        "begin, run_stage and finish compose to forward",
        str(gap),
        "leave forward to the base class, or make it the composition",
    )


@contract("encoder")
def check_encoder_padding(case: EncoderCase) -> None:
    """What stands under the padding of a text or series, and how much of it there is, changes nothing; one without any
    token or step has finite features."""
    x = case.inputs(4)
    if not (isinstance(x, Mapping) and "mask" in x):
        raise Skipped("its input has no padding")
    encoder, mask = case.build().double(), x["mask"]
    mask[0] = True
    mask[1, 1:] = False
    there = {k: mask if t.dim() == 2 else mask[:, None] for k, t in x.items()}
    other = {k: torch.where(there[k], t, t[..., :1]) for k, t in x.items() if k != "mask"} | {"mask": mask}
    shorter = map_tensors(rows(x, slice(1, 2)), lambda t: t[..., :1])
    with torch.no_grad():
        given = encoder(x)
        gaps = {
            "what is under the padding changes nothing": difference(given, encoder(other), 1e-6),
            "padding can be cut off": difference(given[1:2], encoder(shorter), 1e-6),
        }
        empty = encoder({**x, "mask": torch.zeros_like(mask)})
    for claim, gap in gaps.items():
        require(gap is None, claim, str(gap), "keep padding out of attention and out of the pooling")
    require(
        not not_finite({"z": empty}),
        "a sample without any token or step has finite features",
        "some that are not",
        "attention and means over nothing need a rule: let it attend to its padding, and bound the divisor",
    )


@contract("encoder")
def check_encoder_state(case: EncoderCase) -> None:
    """state_dict carries everything: an encoder with other initial weights that loads it gives the same features."""
    one, other, x = case.build(), case.build(seed=1), case.inputs(3)
    with torch.no_grad(), seeded(0, "encoder"):
        one.train()(case.inputs(4))
        other.load_state_dict(one.state_dict())
        gap = difference(one.eval()(x), other.eval()(x))
    require(gap is None, "the state_dict is complete", str(gap), "register what it remembers as buffers")
