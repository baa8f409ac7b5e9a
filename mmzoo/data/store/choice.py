"""Which store a bench means by the name of a data set, decided at plan time from meta.json alone. No torch, no numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmzoo.data.store.home import store_folder, store_folders, stores
from mmzoo.data.store.store import DataStore, find_stores
from mmzoo.errors import BadValue, CorruptFile, unknown
from mmzoo.registry import Entry

#: presets that every prepared data set has: its generated twin, or what its publisher ships
MINI, REAL = "mini", "real"


class Unprepared(BadValue):
    """A data set that has to be prepared before it can be benched."""


def chosen_store(entry: Entry, params: Mapping[str, Any], *, mini: bool) -> DataStore:
    """The store of a data set's recipe, made from what its publisher ships or from its generated twin.

    Raises Unprepared with the next step when there is none, CorruptFile when it cannot be used, UnknownName for a recipe that
    the data set does not have.
    """
    source = entry.load()
    recipes = source.recipes()
    if params["recipe"] not in recipes:
        raise unknown(f"recipe of {entry.name}", params["recipe"], recipes, see=f"See: mmzoo data show {entry.name}")
    recipe = recipes[params["recipe"]]
    folder = store_folder(source, recipe, mini=mini)
    if not folder.is_dir():
        raise Unprepared(
            _next_step(entry, str(params["recipe"]), mini, [f.name for f in store_folders(source.name, mini=mini)])
        )
    store = DataStore(folder)
    if store.recipe_hash != recipe.hash:
        raise CorruptFile(f"{folder} was made by another recipe. Remove it and run: mmzoo data prepare {entry.name}")
    return store


def _next_step(entry: Entry, recipe: str, mini: bool, others: list[str]) -> str:
    told = f"{entry.name}{' (mini)' if mini else ''} is not prepared with the recipe {recipe}"
    told += f" (there is {', '.join(others)})" if others else ""
    option = "" if recipe == entry.defaults().get("recipe") else f" --recipe {recipe}"
    if mini:
        return f"{told}: mmzoo data mini {entry.name} && mmzoo data prepare {entry.name} --mini{option}"
    return (
        f"{told}. Prepare it: mmzoo data prepare {entry.name} --root DIR{option}, with DIR the folder of the published files "
        f"(mmzoo data show {entry.name}), or use a synthetic set: --datasets {entry.name}:mini"
    )


def as_mini(entry: Entry) -> Entry:
    """The entry under what it says for its twin: smaller encoders, a shorter training, other defaults."""
    own = entry.extra.get("mini", {})
    training = entry.extra["training"]
    params = {
        name: dataclasses.replace(p, default=p.check(own.get("params", {}).get(name, p.default)))
        for name, p in entry.params.items()
    }
    extra = {
        **entry.extra,
        "encoders": {**entry.extra["encoders"], **own.get("encoders", {})},
        "training": {**training, "default": own.get("training", training["default"])},
    }
    return dataclasses.replace(entry, params=params, extra=extra)


def of_store(entry: Entry, store: DataStore) -> Entry:
    """The entry with the modalities and classes that a store has, and the splits that have no meta set."""
    without = [s for s, body in store.meta["splits"].items() if not sum(body.get("counts", {}).get("slice", [1]))]
    extra = {
        **entry.extra,
        "modalities": store.kinds,
        "n_classes": len(store.meta["classes"]),
        "without_meta_set": without,
    }
    return dataclasses.replace(entry, extra=extra)


def identity(store: DataStore, metric: str) -> dict[str, Any]:
    """What of a store goes into a run's spec. metric: chooses the epoch."""
    return {
        "name": store.name,
        "mini": store.mini,
        "recipe": store.recipe_hash,
        "content": store.content,
        "metric": metric,
    }


def is_synthetic(data_params: Mapping[str, Any]) -> bool:
    """Whether a run with these parameters of its data reads a synthetic set in place of the published one. Takes them from a spec."""
    return bool(data_params.get("store", {}).get("mini"))


def find(told: Mapping[str, Any]) -> DataStore:
    """The store that a spec's `identity` names. Raises Unprepared when it is gone or was prepared anew."""
    for store in find_stores(told["name"], mini=bool(told["mini"])):
        if store.content == told["content"]:
            return store
    raise Unprepared(
        f"{told['name']}: the prepared data that this run was planned for is not below "
        f"{stores(told['name'], mini=bool(told['mini']))} any more. Run the same bench again."
    )
