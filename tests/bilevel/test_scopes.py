"""A solve over the last layers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import model as small_model
from helpers.bilevel_problems import dense_of_model, hessian, normal, on_model, with_norm
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from mmzoo import MultimodalModel
from mmzoo.api import Encoder
from mmzoo.bilevel import (
    Inner,
    Mixing,
    Solver,
    flat_grad,
    hessian_operator,
    implicit_gradient,
    scoped_parameters,
)
from mmzoo.errors import BadValue
from mmzoo.functional import cosine_similarities, info_nce
from mmzoo.heads.concat import Concat

EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)
HESSIAN = replace(EXACT, curvature="hessian", damping=0.7)


def test_scopes_of_a_model() -> None:
    model, x, y = with_norm()
    model.eval()
    for scope, names in {
        "heads": ["head.weight", "head.bias"],
        r"pattern:encoder\.0": ["encoder.0.weight", "encoder.0.bias"],
        "pattern:bias$": ["encoder.0.bias", "encoder.1.bias", "head.bias"],
    }.items():
        found = on_model(model, x, y, replace(HESSIAN, scope=scope))
        assert found.value == pytest.approx(dense_of_model(model, x, y, 0.7, names), rel=1e-8), scope
        assert len(found.solution.x) == sum(p.numel() for n, p in model.named_parameters() if n in names)
    assert {id(p) for p in scoped_parameters(model, "last")} == {id(p) for p in model.head.parameters()}  # no encoders
    wrong = {"tail": "must be", "pattern:": "must be", "pattern:(": "regular", "pattern:no": "none of"}
    for scope, says in wrong.items():
        with pytest.raises(BadValue, match=says):
            on_model(model, x, y, replace(HESSIAN, scope=scope))
    with pytest.raises(BadValue, match="give the model"):
        on_model(model, x, y, replace(HESSIAN, scope="heads"), of=list(model.parameters()))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_the_heads_of_a_multimodal_model_where_a_loss_does_not_reach_them(curvature: Any) -> None:
    """InfoNCE on features is constant in the head: only the classification loss is left there."""
    model = small_model().double().eval()
    x = {"a": normal(0, 6, 4), "b": normal(1, 6, 3)}
    y = torch.arange(6) % 3

    def inner() -> Inner:
        out = model(x)
        return Inner(
            [out.logits, *cosine_similarities(out.features, 0.5)], lambda o: (F.cross_entropy(o[0], y), info_nce(o[1:]))
        )

    def upper() -> Tensor:
        return F.cross_entropy(model(x).logits, y.flip(0))

    heads = scoped_parameters(model, "heads")
    assert {id(p) for p in heads} == {id(p) for p in model.head.parameters()}
    solver = replace(EXACT, curvature=curvature, damping=0.2, scope="heads")
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    l_cls = F.cross_entropy(model(x).logits, y)
    h = torch.stack([hessian_operator(0.6 * l_cls, heads)(e) for e in torch.eye(len(found.solution.x)).double()])
    x_exact = torch.linalg.solve(h + 0.2 * torch.eye(len(h)).double(), flat_grad(upper(), heads))
    assert found.value == pytest.approx(float(flat_grad(l_cls, heads) @ x_exact), rel=1e-8)


class Tail(Encoder):
    """Ends in a norm, made before a layer that is frozen. Not in a layer norm, for the sake of the dense matrix: the
    second derivative of torch.func in a layer norm's weight is wrong (torch 2.14; backward over backward is right)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.last = nn.ModuleList([nn.Linear(5, 5), nn.BatchNorm1d(5)])
        self.unused = nn.Linear(2, 2)
        self.unused.requires_grad_(False)
        self.out_dim = 5

    def forward(self, x: Tensor) -> Tensor:
        return self.last[1](self.last[0](self.body(x)))


def two_tails() -> tuple[MultimodalModel, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    model = MultimodalModel({"a": Tail(), "b": Tail()}, Concat({"a": 5, "b": 5}, 3)).double().eval()
    return model, {m: normal(i, 6, 4) for i, m in enumerate("ab")}, torch.arange(6) % 3


def matching_pieces(model: MultimodalModel, x: Any, y: Tensor) -> tuple[Callable[[], Inner], Callable[[], Tensor]]:
    def inner() -> Inner:
        out = model(x)
        return Inner(
            [out.logits, *cosine_similarities(out.features, 0.5)], lambda o: (F.cross_entropy(o[0], y), info_nce(o[1:]))
        )

    return inner, lambda: F.cross_entropy(model(x).logits, y.flip(0))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_the_last_layers_of_a_multimodal_model(curvature: Any) -> None:
    model, x, y = two_tails()
    last = scoped_parameters(model, "last")
    names = {id(p): name for name, p in model.named_parameters()}
    ends = [f"encoders.{m}.last.{i}.{kind}" for m in "ab" for i in (0, 1) for kind in ("weight", "bias")]
    assert sorted(names[id(p)] for p in last) == sorted([*ends, "head.bias", "head.weight.a", "head.weight.b"])
    inner, upper = matching_pieces(model, x, y)
    solver = replace(EXACT, curvature=curvature, damping=3.0, scope="last")
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    at = torch.cat([p.detach().flatten() for p in last])
    sizes, shapes = [p.numel() for p in last], [p.shape for p in last]

    def outputs(vector: Tensor) -> list[Tensor]:
        pieces = (t.reshape(s) for t, s in zip(vector.split(sizes), shapes))
        out = functional_call(model, dict(zip((names[id(p)] for p in last), pieces)), (x,))
        return [out.logits, *cosine_similarities(out.features, 0.5)]

    def total(given: list[Tensor]) -> Tensor:
        return Mixing.of(0.4).total(F.cross_entropy(given[0], y), info_nce(given[1:]))

    if curvature == "hessian":
        dense = hessian(lambda v: total(outputs(v)))(at)
    else:
        now = outputs(at)
        jacobian = jacrev(lambda v: torch.cat([o.flatten() for o in outputs(v)]))(at)
        cut = [o.numel() for o in now]
        middle = hessian(lambda w: total([t.reshape(o.shape) for t, o in zip(w.split(cut), now)]))(
            torch.cat([o.flatten() for o in now])
        )
        dense = jacobian.T @ middle @ jacobian
    upper_grad = flat_grad(upper(), last)
    wanted = torch.linalg.solve((dense + 3.0 * torch.eye(len(at), dtype=at.dtype)).detach(), upper_grad)
    both = [flat_grad(loss, last) for loss in inner().losses(inner().outputs)]
    assert found.value == pytest.approx(-float((both[1] - both[0]) @ wanted), rel=1e-8)
    assert found.norms == pytest.approx([float(g.norm()) for g in both], rel=1e-10)
    assert float(both[1].norm()) > 1e-3  # unlike the heads alone, which a matching loss on features does not reach


def test_a_scoped_solve_keeps_no_graph_below_its_scope() -> None:
    model, x, y = two_tails()
    for p in model.encoders["b"].last[1].parameters():
        p.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    seen: dict[str, set[bool]] = {}
    for name in ("body", "last.1"):
        module = model.encoders["a"].get_submodule(name)
        module.register_forward_hook(lambda _m, _x, out, name=name: seen.setdefault(name, set()).add(out.requires_grad))
    inner, upper = matching_pieces(model, x, y)
    for scope, wanted in {
        "all": {"body": {True}, "last.1": {True}},
        "last": {"body": {False}, "last.1": {True}},
        "heads": {"body": {False}, "last.1": {False}},
    }.items():
        seen.clear()
        implicit_gradient(inner, upper, model, 0.4, solver=Solver(scope=scope))
        assert seen == wanted, scope
        assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        implicit_gradient(lambda: 1 / 0, upper, model, 0.4, solver=Solver(scope="heads"))  # type: ignore[arg-type]
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}


def test_every_vector_of_a_solve_is_reduced() -> None:
    """With a mean over processes that doubles what it is given, all that is linear in the vectors is doubled once."""
    model, x, y = two_tails()
    inner, upper = matching_pieces(model, x, y)
    shapes: list[torch.Size] = []

    def double(v: Tensor) -> Tensor:
        shapes.append(v.shape)
        return 2 * v

    solver = replace(EXACT, damping=0.1, relative=True, iterations=400)
    plain = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver, reduce=double)
    assert found.lambda_max == pytest.approx(2 * plain.lambda_max, rel=1e-10)
    assert found.value == pytest.approx(2 * plain.value, rel=1e-6)  # 2 mixed (2 A)^-1 2 upper
    assert len(shapes) == 3 + found.products and set(shapes) == {plain.solution.x.shape}
