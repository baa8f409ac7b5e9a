"""Checks of heads in use: samples, absent modalities, state, side effects, extremes, groups and gates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.core.seeding import stream
from mmzoo.core.values import Pass
from mmzoo.testing.checks.head import dims_of, features_of, model_of, outputs_of
from mmzoo.testing.harness.cases import HeadCase, rows
from mmzoo.testing.harness.observing import difference, examples, not_finite, random_state, weights
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.report import Skipped, contract, require


@contract("head")
def check_head_rows(case: HeadCase) -> None:
    """In eval mode each item is fused on its own: the order and the size of the batch do not matter."""

    @examples(case.draws, n=st.integers(2, 4), seed=st.integers(0, 99), data=st.data())
    def one(n: int, seed: int, data: Any) -> None:
        dims = dims_of(case, n)
        head, feats = case.build(dims, dtype=torch.float64), features_of(dims, 6, seed, torch.float64)
        order = torch.tensor(data.draw(st.permutations(range(6))))
        cut = data.draw(st.integers(1, 5))
        whole = outputs_of(head(feats))
        shuffled = outputs_of(head({m: z[order] for m, z in feats.items()}))
        parts = [outputs_of(head({m: z[s] for m, z in feats.items()})) for s in (slice(cut), slice(cut, None))]
        for what, gap in (
            ("reordering the samples reorders the outputs", difference(rows(whole, order), shuffled, 1e-9)),
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
        dims = dims_of(case, n)
        head, feats = case.build(dims, dtype=torch.float64), features_of(dims, 6, seed, torch.float64)
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

    dims = dims_of(case, 2)
    head, feats = case.build(dims), features_of(dims, 4)
    gap = difference(outputs_of(head(feats)), outputs_of(head(feats, torch.ones(4, 2, dtype=torch.bool))), 1e-5)
    require(gap is None, "present=None means that all are there", str(gap), "treat both alike in fuse and split")


@contract("head")
def check_head_state(case: HeadCase) -> None:
    """state_dict carries everything: a head with other initial weights that loads it gives the same outputs."""
    dims = dims_of(case, 3)
    feats, one, other = features_of(dims, 5), case.build(dims), case.build(dims, seed=1)
    one.train()(feats)
    other.load_state_dict(one.state_dict())
    gap = difference(outputs_of(one.eval()(feats)), outputs_of(other.eval()(feats)))
    require(
        gap is None,
        "the state_dict of a head is complete",
        str(gap),
        "register what it remembers as parameters or buffers",
    )


@contract("head")
def check_head_pure(case: HeadCase) -> None:
    """In eval mode it repeats itself, changes neither features nor buffers, and draws no random number."""
    dims = dims_of(case, 3)
    head, feats = case.build(dims), features_of(dims, 5)
    before, values, random = weights(head), {m: z.clone() for m, z in feats.items()}, random_state()
    first, second = outputs_of(head(feats)), outputs_of(head(feats))
    for claim, gap in {
        "called twice it gives the same": difference(first, second),
        "it does not change the features": difference(values, feats),
        "in eval mode its buffers do not change": difference(before, weights(head)),
        "it draws no random number in eval mode": difference(random, random_state()),
    }.items():
        require(gap is None, claim, str(gap), "write to new tensors; move statistics only while self.training")


@contract("head")
def check_head_no_waiting(case: HeadCase) -> None:
    """No value of a tensor is read on the way to logits and back, for which a GPU would have to finish what is queued."""
    dims = dims_of(case, 3)
    for present in (None, torch.tensor([[True] * 3, [True, False, True], [False, False, True]])):
        head, feats = case.build(dims), {m: z.requires_grad_() for m, z in features_of(dims, 3).items()}
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
    dims = dims_of(case, 2)
    for size, n, classes in itertools.product((0.0, 1.0, 1e4), (1, 4), (2, 3)):
        head = case.build(dims, classes)
        feats = {m: (z * size).requires_grad_() for m, z in features_of(dims, n).items()}
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
            f"features of size {size:g} give finite values ({n} samples, {classes} classes)",
            f"not finite: {', '.join(bad)}",
            "bound exponentials, add a floor to norms and to divisors",
        )


@contract("head")
def check_head_groups(case: HeadCase) -> None:
    """The parameter groups are a partition: each parameter of the model lies in exactly one."""
    model, _ = model_of(case, 3)
    counted: dict[int, int] = {}
    for params in model.groups().values():
        for p in params:
            counted[id(p)] = counted.get(id(p), 0) + 1
    wrong = [f"{n} in {counted.get(id(p), 0)}" for n, p in model.named_parameters() if counted.get(id(p), 0) != 1]
    strange = len(counted) - len({id(p) for p in model.parameters()})
    require(
        not wrong and strange == 0,
        "each parameter is in exactly one group",
        f"{', '.join(wrong)}; {strange} that are not the model's",
        "let own(m) give only parameters of this head that serve only m",
    )


@contract("head")
def check_head_couples(case: HeadCase) -> None:
    """A head that acts between stages keeps the shape of the maps, and its model trains on any subset."""
    if not case.first.couples:
        raise Skipped("it does not act between stages")
    model, batch = model_of(case, 3)
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
    model, batch = model_of(case, 3)
    _, other = model_of(case, 3, seed=1)
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
    require(gap is None, "in eval mode the running mean does not change", str(gap), todo)
