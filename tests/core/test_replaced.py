"""Functions of torch that somebody else's code stands in for are named; torch as it comes has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from mmzoo.core.replaced import MOST, foreign, replaced


def foreign_code(text: str, **names: Any) -> Any:
    """What an expression of a module called evil.patch gives."""
    return eval(text, {"__name__": "evil.patch", "functools": functools, "torch": torch, **names})


WAYS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "a function": (functional, "cross_entropy", lambda old: foreign_code("lambda *a, **k: 0 * old(*a, **k)", old=old)),
    "behind wraps": (functional, "relu", lambda old: foreign_code("functools.wraps(old)(lambda x: x)", old=old)),
    "behind partial": (torch, "add", lambda old: functools.partial(foreign_code("lambda x, y: x"))),
    "behind a decorator of torch": (torch, "tanh", lambda old: torch.no_grad()(foreign_code("lambda x: x"))),
    "a method": (torch.nn.Linear, "forward", lambda old: foreign_code("lambda self, x: x")),
    "a method of tensors": (torch.Tensor, "backward", lambda old: foreign_code("lambda self: None")),
    "a property": (torch.Tensor, "grad", lambda old: property(foreign_code("lambda self: None"))),
    "a class": (torch.optim, "SGD", lambda old: foreign_code("type('SGD', (old,), {'__module__': __name__})", old=old)),
    "an object that can be called": (torch, "relu", lambda old: foreign_code("type('F', (), {'__call__': max})()")),
    "what a class inherits": (torch.optim.SGD, "zero_grad", lambda old: foreign_code("lambda self: None")),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_replaced_is_named(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreign() == {}
    owner, name, make = WAYS[way]
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    ((found, author),) = foreign().items()
    assert author == "evil" and found.startswith("torch.") and found.endswith(f".{name}")


def test_hooks_on_all_modules_are_named() -> None:
    hook = torch.nn.modules.module.register_module_forward_hook(foreign_code("lambda *a: None"))
    try:
        assert foreign() == {"torch.nn.modules.module._global_forward_hooks": "evil"}
    finally:
        hook.remove()
    assert replaced() == []


def test_a_long_list_is_cut_and_packages_have_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = foreign_code("lambda *a: None")
    for i in range(MOST + 2):
        monkeypatch.setattr(torch, f"made_up_{i}", wrong, raising=False)
    assert replaced()[MOST:] == ["2 more"]
    monkeypatch.undo()
    monkeypatch.setattr(torch, "relu", pytest.fixture)
    assert replaced() == [f"torch.relu by pytest {pytest.__version__}"]
