"""What a study of settings leaves behind. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmzoo.errors import CorruptFile


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
