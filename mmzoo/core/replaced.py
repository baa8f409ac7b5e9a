"""Which functions of torch somebody else's code stands in for: it moves the numbers of every method under an unchanged run id."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

#: modules, with what is below them, whose functions and classes are looked at, and torch itself
_WALKED = (
    "torch.nn",
    "torch.optim",
    "torch.autograd",
    "torch.utils.data",
    "torch.linalg",
    "torch.fft",
    "torch.special",
)
_ALONE = ("torch", "torch.random", "torch.func", "torch.functional", "torch._tensor", "torch._VF", "torch._C._nn")
#: whose code belongs in torch's modules
_ITS_OWN = {"torch", "typing_extensions", "builtins", *sys.stdlib_module_names}
#: what nothing of Python can be behind, which most of torch is
_PLAIN: set[type] = {
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
}
_PLAIN |= {types.ModuleType, types.NoneType, str, int, bool, float, tuple, list, dict}
#: what common packages replace or add, and what changes no number: transformers adds a method that its own models call
_UNUSED = {"torch.compile", "torch.nn.modules.module.Module.smart_apply"}
#: the most names that are given
MOST = 20
#: torch's own functions and classes that were looked at before, by id. The reference keeps the id from being reused.
_KNOWN: dict[int, Any] = {}


def replaced() -> list[str]:
    """What `foreign` finds, as `NAME by PACKAGE VERSION`: of a long list the first, and how many more there are."""
    names = sorted(f"{name} by {_spelt(author)}" for name, author in foreign().items())
    return names if len(names) <= MOST else [*names[:MOST], f"{len(names) - MOST} more"]


def foreign() -> dict[str, str]:
    """The functions, methods, classes and global hooks of torch that are not its own: name -> top-level module of the code.

    Notices a function or class in the place of one of torch's or beside them, also behind `functools.wraps` and `partial`, and
    hooks on all modules or optimizers. Cannot notice functions of torch that are swapped among themselves, kernels that
    compiled code registers with the dispatcher, and code that takes torch's name. Empty where torch is not imported.
    """
    found = {}
    for owner, name, value in _named():
        if type(value) in _PLAIN or id(value) in _KNOWN:
            continue
        if (author := _author(value)) is not None:
            found[f"{owner}.{name}"] = author
        else:
            _KNOWN[id(value)] = value
    return {name: author for name, author in found.items() if name not in _UNUSED}


def _named() -> Iterator[tuple[str, str, Any]]:
    """What is looked at: the module or class that has it, its name there, and itself."""
    modules = [m for m in sys.modules if m in _ALONE or m.startswith(_WALKED)]
    classes: dict[type, str] = {}
    for module in modules:
        for name, value in list(vars(sys.modules[module]).items()):
            if isinstance(value, type):
                for cls in value.__mro__:
                    if _root(cls.__module__) == "torch":
                        classes.setdefault(cls, f"{cls.__module__}.{cls.__qualname__}")
            if name.startswith("_global_") and isinstance(value, dict):
                yield from ((module, name, hook) for hook in value.values())
            elif not name.startswith("__"):
                yield module, name, value
    for cls, name in classes.items():
        yield from ((name, k, v) for k, v in list(vars(cls).items()))


def _author(value: Any) -> str | None:
    """The top-level module whose code a value is; None where it is torch's own or no code."""
    if isinstance(value, property):
        return next((a for f in (value.fget, value.fset) if (a := _author(f)) is not None), None)
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        return _author(value.__func__)
    if isinstance(value, functools.partial):
        return _author(value.func)
    if isinstance(value, type):
        module = value.__module__
    elif isinstance(value, types.FunctionType):
        module = value.__globals__.get("__name__", "?")
    elif callable(value):
        module = type(value).__module__
    else:
        return None
    root = _root(module)
    wrapped = getattr(value, "__wrapped__", None) if isinstance(value, types.FunctionType) else None
    if root not in _ITS_OWN and not root.startswith("namedtuple_"):
        return root
    return None if wrapped is None else _author(wrapped)


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _spelt(root: str) -> str:
    """A top-level module as the package and version that it comes from, as far as that is known."""
    names = _distributions().get(root, [])
    return f"{names[0]} {metadata.version(names[0])}" if names else root


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
