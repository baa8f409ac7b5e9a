"""Whether a store that is there can be taken as it is. No torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from mmzoo.data.sources.faults import DEFAULTS
from mmzoo.data.sources.source import Fault
from mmzoo.data.store.store import PREPARED, DataStore
from mmzoo.errors import CorruptFile
from mmzoo.io.files import read_bytes


def reusable(
    target: Path,
    recipe: str,
    fingerprint: str,
    policy: Mapping[str, str],
    *,
    asked: bool,
    settled: bool,
    say: Callable[[str], None],
) -> DataStore | None:
    """The store that is there, if it was made of just these files under the same policy.

    Args:
        asked: Whether the policy is the user's; otherwise a store made under another one will do, unless what is wrong with
            its items would now be an error.
        settled: Take even that store as it is.
    """
    try:
        store = DataStore(target)
        noted = json.loads(read_bytes(target / PREPARED))
        same = noted.get("fingerprint") == fingerprint
        before = {**DEFAULTS, **noted.get("policy", {})}  # made before a kind of fault was known: its default
        agreed = before == dict(policy) or not (asked or (_unsettled(store, policy) and not settled))
        if same and agreed and store.recipe_hash == recipe:
            for name in store.meta["files"]:
                store.check_file(name)
            return store
        what = "other files" if not same else "the same files under another --on-bad"
        say(f"the store that is there was made of {what}; it stays until the new one is done")
    except CorruptFile as error:
        if target.exists():
            say(f"preparing again, since {error}")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        say("preparing again, since the sources of the existing store are unknown")
    return None


def _unsettled(store: DataStore, policy: Mapping[str, str]) -> bool:
    """Whether what is wrong with some item of a store would now be an error."""
    return any(policy.get(str(f.get("kind")), "error") == "error" for f in store.meta["faults"] if isinstance(f, dict))


def recorded(store: DataStore) -> list[tuple[Fault, str]]:
    names = [f.name for f in dataclasses.fields(Fault)]
    return [(Fault(**{n: f.get(n) for n in names}), f["action"]) for f in store.meta["faults"]]
