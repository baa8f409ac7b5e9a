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
from mmzoo.core.values import Outputs, Pass
from mmzoo.errors import Incompatible
from mmzoo.testing.harness.cases import HeadCase, rows
from mmzoo.testing.harness.observing import difference, examples, not_finite, random_state, weights
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.tasks import NAMES, build_model, make_task


def _features(dims: Mapping[str, int], n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = stream(seed, "features")
    return {m: torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for m, d in dims.items()}


def _widths(case: HeadCase, n: int, equal: bool) -> dict[str, int]:
    return {m: case.multiple * (4 if equal else 3 + i) for i, m in enumerate(NAMES[:n])}


def _dims(case: HeadCase, n: int) -> dict[str, int]:
    """Widths for n modalities, unequal ones where the head takes them."""
    return _widths(case, n, case.first.equal_dims)


def _said(out: Outputs) -> dict[str, Any]:
    return {"logits": out.logits, "scores": out.scores, "unimodal": dict(out.unimodal)}


@contract("head")
def check_head_tags(case: HeadCase) -> None:
    """The head declares how its unimodal logits arise, and refuses readably the widths that it declares not to take."""
    head = case.first
    require(
        head.how in get_args(How),
        f"`how` is one of {', '.join(get_args(How))}",
        f"it is {head.how!r}",
        "exact: computed anyway; slice: a part of the joint classifier; ablated: the other features set to zero",
    )
    require(
        head.dims == _widths(case, 2, equal=True) and head.n_classes == 3,
        "the head keeps `dims` and `n_classes`",
        f"dims={head.dims}, n_classes={head.n_classes}",
        "call super().__init__(dims, n_classes)",
    )
    if head.equal_dims:
        _check_refused(case, _widths(case, 2, equal=False), "unequal widths are refused", "equal_dims")
    if head.min_modalities > 1:
        few = _widths(case, head.min_modalities - 1, equal=True)
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
        dims = _widths(case, n, equal or case.first.equal_dims)
        try:
            head = case.build(dims, classes, seed=seed, dtype=dtype)
        except Skipped:
            return  # refused with Incompatible, which is a head's right
        built.append(n)
        full = _features(dims, batch, seed, dtype)
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
        "give one row an item and keep the dtype",
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
        dims = _dims(case, n)
        out = case.build(dims, dtype=torch.float64)(_features(dims, 6, dtype=torch.float64))
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
    dims = _dims(case, 3)
    head, feats = case.build(dims), {m: 10 * z for m, z in _features(dims, 6).items()}
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
        "an absent modality, and an item of which nothing is there, have no evidence (evidential)",
        f"logits that are not zero: {', '.join(loud)}",
        "mask the evidence: the bias of a layer is evidence too",
    )


@contract("head")
def check_head_unimodal(case: HeadCase) -> None:
    """The unimodal logits of a modality depend on its own features, and on no other's; `classifier` says how."""
    dims = _dims(case, 3)
    head, feats, other = case.build(dims), _features(dims, 5), _features(dims, 5, seed=1)
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


def _model(case: HeadCase, n: int, seed: int = 0) -> tuple[MultimodalModel, Any]:
    task = make_task(n, equal=case.first.equal_dims, seed=seed)
    try:
        return build_model(task, case.builder, case.encoder, seed=seed), task.batch()
    except Incompatible as refusal:
        raise Skipped(str(refusal)) from refusal


@contract("head")
def check_head_parameter_gradients(case: HeadCase) -> None:
    """A gradient reaches every parameter of the head."""
    reached: set[str] = set()
    model, _ = _model(case, 3)
    for seed in range(3):
        model, batch = _model(case, 3, seed)
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
        dims = _dims(case, n)
        feats = {m: z.requires_grad_() for m, z in _features(dims, 6).items()}
        case.build(dims).train()(feats).logits.square().sum().backward()
        dead = [m for m, z in feats.items() if z.grad is None or not bool(z.grad.any())]
        require(
            not dead,
            "the joint logits train every encoder",
            f"no gradient in the features of {', '.join(dead)}",
            "do not detach features on the way to the joint logits",
        )


@contract("head")
def check_head_rows(case: HeadCase) -> None:
    """In eval mode each item is fused on its own: the order and the size of the batch do not matter."""

    @examples(case.draws, n=st.integers(2, 4), seed=st.integers(0, 99), data=st.data())
    def one(n: int, seed: int, data: Any) -> None:
        dims = _dims(case, n)
        head, feats = case.build(dims, dtype=torch.float64), _features(dims, 6, seed, torch.float64)
        order = torch.tensor(data.draw(st.permutations(range(6))))
        cut = data.draw(st.integers(1, 5))
        whole = _said(head(feats))
        shuffled = _said(head({m: z[order] for m, z in feats.items()}))
        parts = [_said(head({m: z[s] for m, z in feats.items()})) for s in (slice(cut), slice(cut, None))]
        for what, gap in (
            ("reordering the items reorders the outputs", difference(rows(whole, order), shuffled, 1e-9)),
            ("a part of the batch gives a part of the outputs", difference(_joined(parts), whole, 1e-9)),
        ):
            todo = "use no statistics over the batch in eval mode, and reshape so that rows stay apart"
            require(gap is None, what, str(gap), todo)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    names = parts[0]["unimodal"]
    joined = {k: torch.cat([p[k] for p in parts]) for k in ("logits", "scores")}
    return {**joined, "unimodal": {m: torch.cat([p["unimodal"][m] for p in parts]) for m in names}}


@contract("head")
def check_head_absent(case: HeadCase) -> None:
    """The data of an absent modality changes nothing, and leaving a modality out equals masking it in every row."""

    @examples(case.draws, n=st.integers(2, 4), seed=st.integers(0, 99))
    def one(n: int, seed: int) -> None:
        dims = _dims(case, n)
        head, feats = case.build(dims, dtype=torch.float64), _features(dims, 6, seed, torch.float64)
        present = torch.rand(6, n, generator=stream(seed, "mask")) < 0.6
        present[0] = False  # an item of which nothing is there
        junk = {m: torch.where(present[:, i, None], z, 1e3 * (i + 1)) for i, (m, z) in enumerate(feats.items())}
        masked, other = head(feats, present), head(junk, present)
        gap = difference(masked.logits, other.logits, 1e-9)
        require(
            gap is None,
            "what an absent modality holds does not matter",
            f"the logits change: {gap}",
            "mask in fuse; features of absent modalities arrive as zeros, biases and attention are for you",
        )
        require(
            not not_finite({"logits": masked.logits, **masked.unimodal}),
            "absent modalities leave logits finite",
            "they are not",
            "guard normalisations over the modalities that are there",
        )
        for i, m in enumerate(dims):
            rest = {k: z for k, z in feats.items() if k != m}
            without = torch.ones(6, n, dtype=torch.bool)
            without[:, i] = False
            gap = difference(head(rest).logits, head(feats, without).logits, 1e-9)
            claim = f"leaving {m} out equals masking it everywhere"
            require(
                gap is None,
                claim,
                str(gap),
                "use `present`, not the number of features, to find what is there",
            )

    dims = _dims(case, 2)
    head, feats = case.build(dims), _features(dims, 4)
    gap = difference(_said(head(feats)), _said(head(feats, torch.ones(4, 2, dtype=torch.bool))), 1e-5)
    require(gap is None, "present=None means that all are there", str(gap), "treat both alike in fuse and split")


@contract("head")
def check_head_state(case: HeadCase) -> None:
    """state_dict carries everything: a head with other initial weights that loads it gives the same outputs."""
    dims = _dims(case, 3)
    feats, one, other = _features(dims, 5), case.build(dims), case.build(dims, seed=1)
    one.train()(feats)
    other.load_state_dict(one.state_dict())
    gap = difference(_said(one.eval()(feats)), _said(other.eval()(feats)))
    require(
        gap is None,
        "the state_dict of a head is complete",
        str(gap),
        "register what it remembers as parameters or buffers",
    )


@contract("head")
def check_head_pure(case: HeadCase) -> None:
    """In eval mode it repeats itself, changes neither features nor buffers, and draws no random number."""
    dims = _dims(case, 3)
    head, feats = case.build(dims), _features(dims, 5)
    before, values, random = weights(head), {m: z.clone() for m, z in feats.items()}, random_state()
    first, second = _said(head(feats)), _said(head(feats))
    for claim, gap in {
        "called twice it gives the same": difference(first, second),
        "it does not change the features": difference(values, feats),
        "in eval mode its buffers stand still": difference(before, weights(head)),
        "it draws no random number in eval mode": difference(random, random_state()),
    }.items():
        require(gap is None, claim, str(gap), "write to new tensors; move statistics only while self.training")


@contract("head")
def check_head_no_waiting(case: HeadCase) -> None:
    """No value of a tensor is read on the way to logits and back, for which a GPU would have to finish what is queued."""
    dims = _dims(case, 3)
    for present in (None, torch.tensor([[True] * 3, [True, False, True], [False, False, True]])):
        head, feats = case.build(dims), {m: z.requires_grad_() for m, z in _features(dims, 3).items()}
        with Reads() as reads:
            out = head.train()(feats, present)
            torch.stack([out.logits, *out.unimodal.values()]).sum().backward()
        require(
            not reads.found,
            "the values of tensors are left where they are",
            f"it uses {'; '.join(reads.found)}",
            "compute with tensors: torch.where and masked_fill in place of an if and of an index of booleans",
        )


@contract("head")
def check_head_extremes(case: HeadCase) -> None:
    """Features up to ten thousand give finite logits and gradients, for one item and two classes as well."""
    dims = _dims(case, 2)
    for size, n, classes in itertools.product((0.0, 1.0, 1e4), (1, 4), (2, 3)):
        head = case.build(dims, classes)
        feats = {m: (z * size).requires_grad_() for m, z in _features(dims, n).items()}
        out = head(feats)
        loss = out.logits.log_softmax(-1)[:, 0].sum() + sum(
            z.log_softmax(-1)[:, 0].sum() for z in out.unimodal.values()
        )
        loss.backward()
        grads = {
            f"gradient of {k}": p.grad for k, p in [*head.named_parameters(), *feats.items()] if p.grad is not None
        }
        bad = not_finite({"logits": out.logits, **out.unimodal, **grads})
        require(
            not bad,
            f"features of size {size:g} give finite values ({n} items, {classes} classes)",
            f"not finite: {', '.join(bad)}",
            "bound exponentials, add a floor to norms and to divisors",
        )


@contract("head")
def check_head_groups(case: HeadCase) -> None:
    """The parameter groups are a partition: each parameter of the model lies in exactly one."""
    model, _ = _model(case, 3)
    counted: dict[int, int] = {}
    for params in model.groups().values():
        for p in params:
            counted[id(p)] = counted.get(id(p), 0) + 1
    wrong = [f"{n} in {counted.get(id(p), 0)}" for n, p in model.named_parameters() if counted.get(id(p), 0) != 1]
    strange = len(counted) - len({id(p) for p in model.parameters()})
    require(
        not wrong and strange == 0,
        "each parameter lies in exactly one group",
        f"{', '.join(wrong)}; {strange} that are not the model's",
        "let own(m) give only parameters of this head that serve m alone",
    )


@contract("head")
def check_head_couples(case: HeadCase) -> None:
    """A head that acts between stages keeps the shape of the maps, and its model trains on any subset."""
    if not case.first.couples:
        raise Skipped("it does not act between stages")
    model, batch = _model(case, 3)
    seen: list[str] = []
    couple = model.head.couple

    def watched(stage: int, maps: Mapping[str, Tensor], present: Any, pass_: Any, masks: Any) -> Mapping[str, Tensor]:
        result = couple(stage, maps, present, pass_, masks)
        seen.extend(f"{m} at stage {stage}" for m in maps if m not in result or result[m].shape != maps[m].shape)
        return result

    model.head.couple = watched  # type: ignore[method-assign]
    for size in range(4):
        for subset in itertools.combinations(model.modalities, size):
            present = torch.tensor([m in subset for m in model.modalities]).repeat(len(batch), 1)
            bad = not_finite({"logits": model(batch.inputs, present).logits})
            require(not bad, "any subset gives finite logits", f"{subset} does not", "leave absent maps out")
    require(
        not seen,
        "couple returns a map of the same shape for each it is given",
        ", ".join(seen),
        "keep shapes",
    )


@contract("head")
def check_head_gates(case: HeadCase) -> None:
    """With the running mean of its gates (flag `mean_gates`) a modality hears nothing of the others; without it does.
    The mean moves in training only."""
    if not case.first.mean_gates:
        raise Skipped("it has no gates whose mean can stand in for them")
    model, batch = _model(case, 3)
    _, other = _model(case, 3, seed=1)
    model.train()(batch.inputs)
    todo = (
        "read pass_.flags.get('mean_gates', {}) in `couple`; keep the mean in a buffer and move it while self.training"
    )
    before = weights(model.head)
    model.train()(other.inputs)
    require(
        difference(before, weights(model.head)) is not None,
        "the running mean of gates follows training",
        "a forward in training changes no buffer of the head",
        todo,
    )
    before = weights(model.eval())
    for m, where in itertools.product(model.modalities, (True, torch.tensor(True))):
        mixed = {k: batch.inputs[k] if k == m else x for k, x in other.inputs.items()}
        free, held = Pass(), Pass(flags={"mean_gates": {m: where}})
        alone = [model.encode(x, held)[m] for x in (batch.inputs, mixed)]
        gap = difference(alone[0], alone[1])
        require(gap is None, f"under mean gates {m} hears nothing of the others", f"its features change: {gap}", todo)
        loud, changed = (model.encode(x, free)[m] for x in (batch.inputs, mixed))
        heard = difference(loud, changed)
        require(heard is not None, f"without the flag {m} hears the others", "they change nothing", todo)
        off = difference(loud, model.encode(batch.inputs, Pass(flags={"mean_gates": {m: False}}))[m])
        require(off is None, "the flag False is no flag", f"the features of {m} change: {off}", todo)
    gap = difference(before, weights(model))
    require(gap is None, "in eval mode the running mean stands still", str(gap), todo)
