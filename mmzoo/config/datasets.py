"""Which data a name means: a data set's preset, its prepared store, its twin, or a manifest; and how it is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmzoo.config.grammar import dataset_options, shown
from mmzoo.config.settings import Settings
from mmzoo.errors import BadValue, MmzooError, unknown
from mmzoo.registry import Catalogue, Entry
from mmzoo.training.config import Training

#: the package of data sets that a manifest describes
OWN = "own"


def resolve_dataset(
    catalogue: Catalogue, text: str, settings: Settings, *, stores: bool = True
) -> tuple[str, Entry, dict[str, Any]]:
    """`NAME[:PRESET][,KEY=VALUE...]` -> its label, entry and parameters; values given here go before `settings`.

    Of a data set that has to be prepared, `NAME` is the prepared data, else its prepared twin; `NAME:mini` and `NAME:real`
    insist. Its parameters then name the store by its hashes. stores: False to check the name only. Raises UnknownName or
    BadValue, of which Unprepared where there is no store, CorruptFile.
    """
    text = text.strip()
    if is_table(text):
        raise table_given(text)
    name, _, rest = (text, "", "") if is_manifest(text) else text.partition(":")
    preset, given = dataset_options(rest)
    entry = register_manifest(catalogue, text) if is_manifest(text) else catalogue.get("datasets", name)
    if entry.extra.get("prepared"):
        return _resolve_prepared(entry, preset, settings.take(entry) | given, stores)
    presets = entry.extra.get("presets", {})
    if preset and preset not in presets:
        raise unknown(f"preset of {name}", preset, presets, see=f"See: mmzoo show {name}")
    return _resolved(entry, preset, settings.take(entry) | given)


def _resolved(entry: Entry, preset: str, given: Mapping[str, Any]) -> tuple[str, Entry, dict[str, Any]]:
    presets = entry.extra.get("presets", {})
    params = {**entry.defaults(), **entry.check_params(presets.get(preset or "default", {}))}
    checked = entry.check_params(given)
    changed = [f"{k}={shown(v)}" for k, v in checked.items() if params[k] != v]
    label = entry.name + (f":{preset}" if preset and preset != "default" else "")
    return label + (f"[{','.join(changed)}]" if changed else ""), entry, {**params, **checked}


def _resolve_prepared(
    entry: Entry, preset: str, given: Mapping[str, Any], stores: bool
) -> tuple[str, Entry, dict[str, Any]]:
    """The same for a data set that lies in a store: of real data, else of its twin, unless the preset says which."""
    from mmzoo.data.own.defaults import of_own_store
    from mmzoo.data.store.choice import MINI, REAL, Unprepared, as_mini, chosen_store, identity, of_store

    presets = entry.extra.get("presets", {})
    if preset and preset not in (*presets, MINI, REAL):
        raise unknown(f"preset of {entry.name}", preset, [*presets, MINI, REAL], see=f"See: mmzoo show {entry.name}")
    named = "" if preset in (MINI, REAL) else preset
    missing: Unprepared | None = None
    for mini in (False, True):
        if preset == (REAL if mini else MINI) or (mini and entry.package == OWN):
            continue
        label, asked, params = _resolved(as_mini(entry) if mini else entry, named, given)
        label = label.replace(entry.name, f"{entry.name} (mini)", 1) if mini else label
        if not stores:
            return label, _with_defaults(asked, params) if entry.package == OWN else asked, params
        try:
            store = chosen_store(asked, params, mini=mini)
        except Unprepared as error:
            missing = missing or error
            continue
        if "split" in params:
            params = {**params, "split": store.split_name(params["split"])}
        label = label.replace("(mini)", store.mark, 1)
        found = of_store(asked, store)
        found = of_own_store(found, store) if entry.package == OWN else found
        return label, found, {**params, "store": identity(store, entry.extra.get("metric", "acc"))}
    assert missing is not None
    raise missing


def _with_defaults(entry: Entry, params: Mapping[str, Any]) -> Entry:
    """The entry of a manifest with the defaults for its store, where there is one already."""
    from mmzoo.data.own.defaults import of_own_store
    from mmzoo.data.store.choice import chosen_store, of_store

    try:
        store = chosen_store(entry, params, mini=False)
        return of_own_store(of_store(entry, store), store)
    except MmzooError:
        return entry


def is_manifest(text: str) -> bool:
    return text.strip().endswith((".yaml", ".yml"))


def is_table(text: str) -> bool:
    """Whether a text names a table that is there, in place of a data set or a manifest."""
    return (
        text.strip().lower().endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx")) and Path(text.strip()).is_file()
    )


def table_given(text: str) -> BadValue:
    """The error that a table is given where a manifest is asked for."""
    return BadValue(
        f"{text} is a table: a manifest says what its columns hold. mmzoo data init {text} writes a first one; then give that file."
    )


def register_manifest(catalogue: Catalogue, text: str) -> Entry:
    """The entry of a user's own data, under its name in the catalogue from now on. Raises BadValue."""
    from mmzoo.data.own.manifest import own_entry

    entry = own_entry(Path(text.strip()), catalogue)
    known = catalogue.get("datasets", entry.name) if catalogue.has("datasets", entry.name) else None
    if known is not None:
        catalogue.remove(known)
    catalogue.add(entry)
    return entry


def register_manifests(catalogue: Catalogue, texts: Iterable[str]) -> None:
    """The same for all manifests among data sets. Raises BadValue for two of one name."""
    found: dict[str, str] = {}
    for text in dict.fromkeys(t.strip() for t in texts if is_manifest(t)):
        name = register_manifest(catalogue, text).name
        if name in found:
            raise BadValue(f"{found[name]} and {text} are both called {name}. Give one of them another name.")
        found[name] = text


def resolve_training(entry: Entry, preset: str, epochs: int | None, settings: Settings) -> Training:
    """The training protocol of a data set. Raises UnknownName or BadValue."""
    known = entry.extra["training"]
    if preset not in known:
        raise unknown(f"training preset of {entry.name}", preset, known, see=f"See: mmzoo show {entry.name}")
    given = settings.take_training(entry, known[preset])
    if "processes" in given:
        raise BadValue(
            f"train.processes={given['processes']}: torchrun decides how many processes share a run: torchrun "
            "--nproc-per-node N -m mmzoo bench ..."
        )
    if epochs is not None:
        if given.get("epochs", epochs) != epochs:
            raise BadValue(
                f"epochs are given twice: --epochs {epochs} and --set train.epochs={given['epochs']}. "
                "Leave one of them out."
            )
        given["epochs"] = epochs
    changes = {**known[preset], **given}
    if entry.package == OWN:
        from mmzoo.data.own.defaults import epochs_for, rate_for

        chosen = {**given, **entry.extra["given"]["training"]}
        if "batch_size" in given and "epochs" not in chosen:
            changes["epochs"] = epochs_for(
                entry.extra["samples"], given["batch_size"]
            )  # as many steps, whatever the batch
        if "optimizer" in given and "lr" not in chosen:
            changes["lr"] = rate_for(given["optimizer"])
    return Training().replace(**changes)
