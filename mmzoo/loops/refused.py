"""What a training loop outside mmzoo cannot give a strategy, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmzoo.core import distributed
from mmzoo.errors import Incompatible
from mmzoo.training.composition import Chain, Wrapper
from mmzoo.training.strategy import Claims, Strategy

#: what every refusal ends with
RUN = "Train it with mmzoo.Run, which owns its loop."
#: what a strategy requires -> why a foreign loop cannot give it
_LACKING = {
    "teachers": "learns from trained models of each modality",
    "double_backward": "differentiates the optimizer's steps",
    "plain_steps": "differentiates the optimizer's steps",
    "index": "needs the number of each sample in its data set",
}
#: what a strategy owns -> why a foreign loop cannot give it
_OWNED = {"data": "chooses the samples of an epoch", "finish": "acts after training"}


def refuse(strategy: Strategy, method: str = "", names: Sequence[str] = (), rest: str | None = None) -> None:
    """Check that a foreign loop can give a strategy what it needs.

    Args:
        strategy: The strategy.
        method: The text that names it; empty where it was given as an object.
        names: The name of each of its parts; empty: their classes.
        rest: The method without the parts that act after training, where it has a name.

    Raises:
        Incompatible: The strategy, or a part of a chain, needs what no foreign loop has.
    """
    parts = strategy.parts if isinstance(strategy, Chain) else (strategy,)
    called = names or [type(p.inner if isinstance(p, Wrapper) else p).__name__ for p in parts]
    for name, part in zip(called, parts, strict=True):
        for what, reason in _reasons(part.claims):
            whole = method or ("the chain" if len(parts) > 1 else name)
            who = whole if len(parts) == 1 else f"{whole}: its part {name}"
            cure = ""
            if what == "finish" and len(parts) > 1:
                cure = f"Attach the same method without that part: {rest}. " if rest else "Leave that part out. "
            raise Incompatible(f"{who} {reason}, which a loop of your own has no place for. {cure}{RUN}")
    if (n := distributed.world_size()) > 1:
        raise Incompatible(f"attach trains in one process, and here are {n}. {RUN}")


def _reasons(claims: Claims) -> Iterator[tuple[str, str]]:
    """What a strategy claims that a foreign loop lacks, and why it does."""
    yield from ((what, why) for what, why in _LACKING.items() if what in claims.requires)
    yield from ((what, why) for what, why in _OWNED.items() if what in claims.owns)
