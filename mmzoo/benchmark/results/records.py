"""What a study of settings leaves behind. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.config.grammar import parse_method, shown
from mmzoo.errors import CorruptFile, MmzooError


def best_of(record: Mapping[str, Any], trials: int) -> dict[str, Any]:
    """The chosen one of the first trials: the highest holdout score, ties to the lower loss, then to the earlier.

    The first trial is the method as it was asked for, so that tuning ends no worse on holdout.
    """
    done = record["trials"][:trials]
    try:
        return max(done, key=lambda t: (t["score"], -t["loss"], -t["number"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"a record of tuning holds trials that cannot be read: {error!r}.") from None


def summary(record: Mapping[str, Any], trials: int) -> dict[str, Any]:
    """What a row says of how its settings were chosen: how many trials, what they cost together, and the outcome."""
    done, best = record["trials"][:trials], best_of(record, trials)
    cost = {k: round(float(sum(t[k] for t in done)), 6) for k in ("seconds", "forward", "backward")}
    return {
        "trials": len(done),
        "seed": record["seed"],
        **cost,
        "chosen": best["values"],
        "holdout": {"first": done[0]["score"], "best": best["score"]},
    }


def as_settings(values: Mapping[str, float], method: str, strategies: Sequence[str]) -> str:
    """The values of a trial as `--set` takes them, e.g. `ogm.alpha=0.3 train.lr=0.01`, with four digits.

    Args:
        values: `train.KEY`, `I.KEY` of part I, and `head.KEY`.
        method: the method, with or without ` (tuned)`.
        strategies: those of its parts; a part that the method's text does not name is called by its strategy.
    """
    try:
        written = [part.name for part in parse_method(method.partition(" (")[0]).parts]
    except MmzooError:
        written = []
    names = [*written, *strategies[len(written) :]]

    def named(key: str) -> str:
        owner, _, rest = key.partition(".")
        if owner == "head" and names:
            return f"{names[0]}.head.{rest}"
        return f"{names[int(owner)]}.{rest}" if owner.isdigit() and int(owner) < len(names) else key

    return " ".join(
        f"{named(k)}={shown(v if isinstance(v, int) else float(f'{v:.4g}'))}" for k, v in sorted(values.items())
    )
