"""What a fusion head owes to every strategy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.core.head import How
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import stream
from mmzoo.core.values import Outputs
from mmzoo.errors import Incompatible
from mmzoo.testing.harness.cases import HeadCase
from mmzoo.testing.harness.observing import difference, examples, not_finite
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.tasks import NAMES, build_model, make_task


def features_of(
    dims: Mapping[str, int], n: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    g = stream(seed, "features")
    return {m: torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for m, d in dims.items()}


def widths_of(case: HeadCase, n: int, equal: bool) -> dict[str, int]:
    return {m: case.multiple * (4 if equal else 3 + i) for i, m in enumerate(NAMES[:n])}


def dims_of(case: HeadCase, n: int) -> dict[str, int]:
    """Widths for n modalities, unequal ones where the head takes them."""
    return widths_of(case, n, case.first.equal_dims)


def outputs_of(out: Outputs) -> dict[str, Any]:
    return {"logits": out.logits, "scores": out.scores, "unimodal": dict(out.unimodal)}


@contract("head")
def check_head_tags(case: HeadCase) -> None:
    """The head declares how its unimodal logits arise, and refuses readably the widths that it declares not to take."""
    head = case.first
    require(
        head.how in get_args(How),
        f"`how` is one of {', '.join(get_args(How))}",
        f"it is {head.how!r}",
        "exact: computed by the head; slice: a part of the joint classifier; ablated: the other features set to zero",
    )
    require(
        head.dims == widths_of(case, 2, equal=True) and head.n_classes == 3,
        "the head keeps `dims` and `n_classes`",
        f"dims={head.dims}, n_classes={head.n_classes}",
        "call super().__init__(dims, n_classes)",
    )
    if head.equal_dims:
        _check_refused(case, widths_of(case, 2, equal=False), "unequal widths are refused", "equal_dims")
    if head.min_modalities > 1:
        few = widths_of(case, head.min_modalities - 1, equal=True)
        _check_refused(case, few, "too few modalities are refused", "min_modalities")


def _check_refused(case: HeadCase, dims: Mapping[str, int], claim: str, tag: str) -> None:
    try:
        case.builder(dims, 3)
    except Incompatible as refusal:
        readable = len(str(refusal).split()) >= 4
        require(readable, f"{claim} with a reason", f"the message is {str(refusal)!r}", "name both")
    else:
        raise CheckFailed(f"{claim} ({tag})", "the head was built", "call super().__init__")


@contract("head")
def check_head_shapes(case: HeadCase) -> None:
    """Any non-empty subset of 1 to 4 modalities gives (B, C) logits, joint and unimodal, of the features' dtype."""
    built = []

    def build(n: int, equal: bool, dtype: torch.dtype, classes: int, batch: int, seed: int) -> None:
        dims = widths_of(case, n, equal or case.first.equal_dims)
        try:
            head = case.build(dims, classes, seed=seed, dtype=dtype)
        except Skipped:
            return  # refused with Incompatible, which is a head's right
        built.append(n)
        full = features_of(dims, batch, seed, dtype)
        for size in range(1, n + 1):
            for subset in itertools.combinations(dims, size):
                _check_shapes(head({m: full[m] for m in subset}), subset, (batch, classes), dtype)

    kinds = list(itertools.product((1, 2, 3, 4), (True, False), (torch.float32, torch.float64)))
    for kind in kinds:
        build(*kind, 3, 2, 0)

    @examples(
        case.draws,
        kind=st.sampled_from(kinds),
        classes=st.integers(2, 5),
        batch=st.integers(1, 6),
        seed=st.integers(0, 99),
    )
    def one(kind: tuple[int, bool, torch.dtype], classes: int, batch: int, seed: int) -> None:
        build(*kind, classes, batch, seed)

    require(
        bool(built),
        "the head can be built for some number of modalities",
        "every attempt was refused",
        "see init",
    )


def _check_shapes(out: Outputs, fed: tuple[str, ...], shape: tuple[int, int], dtype: torch.dtype) -> None:
    where = f"fed with {', '.join(fed)}"
    require(
        tuple(out.unimodal) == fed and tuple(out.features) == fed,
        f"{where}, outputs name the modalities that were fed",
        f"unimodal: {list(out.unimodal)}, features: {list(out.features)}",
        "return the fed modalities, in their order",
    )
    odd = {
        n: f"{tuple(t.shape)} {t.dtype}"
        for n, t in {"logits": out.logits, **out.unimodal}.items()
        if tuple(t.shape) != shape or t.dtype != dtype
    }
    require(
        not odd,
        f"{where}, all logits are {shape} {dtype}",
        str(odd),
        "give one row per sample and keep the dtype",
    )
    bad = not_finite({"logits": out.logits, **out.unimodal})
    require(
        not bad,
        f"{where}, all logits are finite",
        f"not finite: {', '.join(bad)}",
        "guard the absent modalities",
    )


@contract("head")
def check_head_additive(case: HeadCase) -> None:
    """If declared additive, the unimodal logits add up to the joint ones."""
    if not case.first.additive:
        raise Skipped("not declared additive")
    for n in (2, 3):
        dims = dims_of(case, n)
        out = case.build(dims, dtype=torch.float64)(features_of(dims, 6, dtype=torch.float64))
        gap = difference(out.logits, torch.stack(list(out.unimodal.values())).sum(0), 1e-9)
        require(
            gap is None,
            "unimodal logits add up to the joint ones (additive)",
            str(gap),
            "share constants such as the bias out over the modalities, or set additive = False",
        )


@contract("head")
def check_head_evidential(case: HeadCase) -> None:
    """If declared evidential, no logit is below zero, and what is absent has no evidence: its logits are zero."""
    if not case.first.evidential:
        raise Skipped("not declared evidential")
    dims = dims_of(case, 3)
    head, feats = case.build(dims), {m: 10 * z for m, z in features_of(dims, 6).items()}
    present = torch.rand(6, 3, generator=stream(0, "mask")) < 0.6
    present[0], present[1] = False, True
    out = head(feats, present)
    every = {"the joint": out.logits, **out.unimodal, **out.aux.get("opinions", {})}
    below = [m for m, z in every.items() if bool((z < 0).any())]
    require(
        not below,
        "logits are log alpha with alpha of at least 1 (evidential)",
        f"below zero: {', '.join(below)}",
        "give log1p of evidence that is not negative",
    )
    absent = {m: out.unimodal[m][~present[:, i]] for i, m in enumerate(dims)}
    loud = [m for m, z in {**absent, **{m: z[:1] for m, z in every.items()}}.items() if bool(z.any())]
    require(
        not loud,
        "an absent modality, and a sample without any modality, have no evidence (evidential)",
        f"logits that are not zero: {', '.join(loud)}",
        "mask the evidence: the bias of a layer is evidence too",
    )


@contract("head")
def check_head_unimodal(case: HeadCase) -> None:
    """The unimodal logits of a modality depend on its own features, and on no other's; `classifier` says how."""
    dims = dims_of(case, 3)
    head, feats, other = case.build(dims), features_of(dims, 5), features_of(dims, 5, seed=1)
    base = dict(head(feats).unimodal)
    for m in dims:
        mixed = {k: feats[k] if k == m else other[k] for k in dims}
        gap = difference(base[m], head(mixed).unimodal[m], 1e-5)
        require(
            gap is None,
            f"the unimodal logits of {m} come from {m} alone",
            f"other features change them: {gap}",
            "compute them from this modality's features, the others set to zero or left out",
        )
        changed = difference(base[m], head({**feats, m: other[m]}).unimodal[m])
        require(
            changed is not None,
            f"the unimodal logits of {m} depend on {m}",
            "other features of it change nothing",
            "key unimodal logits by the name of their modality",
        )
        if (linear := head.classifier(m)) is not None:
            gap = difference(base[m], torch.nn.functional.linear(feats[m], *linear), 1e-5)
            require(
                gap is None,
                f"the unimodal logits of {m} are W z + b with the W and b of `classifier`",
                str(gap),
                "return the weight (C, D_m) and the whole bias (C,) that `split` uses, or None",
            )


def model_of(case: HeadCase, n: int, seed: int = 0) -> tuple[MultimodalModel, Any]:
    task = make_task(n, equal=case.first.equal_dims, seed=seed)
    try:
        return build_model(task, case.builder, case.encoder, seed=seed), task.batch()
    except Incompatible as refusal:
        raise Skipped(str(refusal)) from refusal


@contract("head")
def check_head_parameter_gradients(case: HeadCase) -> None:
    """A gradient reaches every parameter of the head."""
    reached: set[str] = set()
    model, _ = model_of(case, 3)
    for seed in range(3):
        model, batch = model_of(case, 3, seed)
        out = model(batch.inputs)
        loss = out.logits.square().sum() + sum(z.square().sum() for z in out.unimodal.values())
        loss.backward()
        reached |= {n for n, p in model.head.named_parameters() if p.grad is not None and bool(p.grad.any())}
    missing = [n for n, p in model.head.named_parameters() if p.requires_grad and n not in reached]
    require(
        not missing,
        "the logits depend on every parameter of the head",
        f"no gradient in {', '.join(missing)}",
        "remove parameters that are not used, make constants buffers, and do not detach on the way",
    )


@contract("head")
def check_head_feature_gradients(case: HeadCase) -> None:
    """A gradient of the joint logits reaches the features of every modality."""
    for n in (2, 3):
        dims = dims_of(case, n)
        feats = {m: z.requires_grad_() for m, z in features_of(dims, 6).items()}
        case.build(dims).train()(feats).logits.square().sum().backward()
        dead = [m for m, z in feats.items() if z.grad is None or not bool(z.grad.any())]
        require(
            not dead,
            "the joint logits train every encoder",
            f"no gradient in the features of {', '.join(dead)}",
            "do not detach features on the way to the joint logits",
        )
