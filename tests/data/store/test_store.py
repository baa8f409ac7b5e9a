"""Stores are valid or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.small_dataset import Toy, make_toy
from helpers.stores import made
from helpers.watchdog import watchdog

from mmzoo.data.loading.prepared import open_module
from mmzoo.data.preparing import prepare as prepare_module
from mmzoo.data.preparing.prepare import prepare
from mmzoo.data.store.meta import sealed
from mmzoo.data.store.store import DataStore
from mmzoo.errors import BadValue, CorruptFile, MmzooError, UnknownName


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_module, "CHUNK_ITEMS", 7)
    return tmp_path / "home"


# ---------------------------------------------------------------------- changed or half
def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.npy", "index.csv", "meta.json", "prepared.json"])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path, name: str) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with watchdog(30):
        if name == "prepared.json":  # what was noted is lost, and every file is checked anew
            open_module(folder)
        else:
            with pytest.raises(CorruptFile, match=rf"{name} cannot be used"):
                open_module(folder)


@pytest.mark.parametrize("name", ["a.npy", "b.npy", "index.csv", "present.npy"])
@pytest.mark.parametrize(
    "how", [changed, lambda p: p.write_bytes(p.read_bytes()[:-1]), Path.unlink], ids=["changed", "cut", "gone"]
)
def test_a_changed_file_is_refused(tmp_path: Path, name: str, how: Callable[[Path], object]) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    how(folder / name)
    with pytest.raises(CorruptFile, match=rf"{name} cannot be used.*prepare the data again"):
        open_module(folder)
    with pytest.raises(CorruptFile):
        DataStore(folder).verify()
    assert made(tmp_path / "toy").made  # and the next prepare makes it anew
    open_module(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(format=2),
        lambda m: m.update(classes=["x"]),
        lambda m: m["recipe"].update(hash="0"),
        lambda m: m.clear(),
        lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
        lambda m: m.update(splits=[]),
        lambda m: m.pop("rows"),
        lambda m: m["modalities"]["a"]["arrays"][""].update(shape=[-1]),
        lambda m: m["recipe"].update(fields=[["a"]]),
        lambda m: m["modalities"]["a"].update(fitted={"vocabulary": 1.5}),
    ],
)
def test_a_meta_json_that_does_not_fit_is_refused(tmp_path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    meta = json.loads((folder / "meta.json").read_text())
    edit(meta)
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CorruptFile, match=r"meta\.json cannot be used"):
        DataStore(folder)


def _last_number(value: Any) -> tuple[Any, Any] | None:
    """Where the last number within a value stands."""
    inside = reversed(list(value.items() if isinstance(value, dict) else enumerate(value)))
    for key, inner in inside:
        if isinstance(inner, (dict, list)):
            if found := _last_number(inner):
                return found
        elif isinstance(inner, (int, float)) and not isinstance(inner, bool):
            return value, key
    return None


@pytest.mark.parametrize("key", ["items", "mini_facts", "faults", "splits", "recipe", "versions", "modalities"])
def test_a_changed_part_of_meta_json_is_noticed(tmp_path: Path, key: str) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    meta = json.loads((folder / "meta.json").read_text())
    facts = {"preset": "default", "bayes": {"a": 0.9}}
    meta = sealed({k: v for k, v in meta.items() if k != "checksum"} | {"mini_facts": facts})
    (folder / "meta.json").write_text(json.dumps(meta))
    assert DataStore(folder).bayes == {"a": 0.9}
    if key in ("splits", "versions"):
        meta[key] = dict(reversed({**meta[key], "z": {}}.items()))
    elif key == "faults":
        meta[key].append({})
    elif key == "items":
        meta[key] += 1
    else:
        place, where = _last_number(meta[key]) or pytest.fail(f"{key} holds no number")
        place[where] += 1
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CorruptFile, match=r"meta\.json cannot be used: its (checksum|own hash) does not fit"):
        DataStore(folder)


def test_a_meta_json_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    meta = json.loads((folder / "meta.json").read_text())
    del meta["checksum"]
    (folder / "meta.json").write_text(json.dumps(meta))
    open_module(folder)


def test_errors_name_what_was_given(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    with pytest.raises(UnknownName, match=r"no recipe of toy 'papr'. Did you mean 'paper'"):
        prepare(Toy(), root, "papr")
    with pytest.raises(BadValue, match="nowhere is no folder"):
        prepare(Toy(), tmp_path / "nowhere")
    store = made(root).store
    with pytest.raises(
        UnknownName, match=r"no split of the prepared toy 'absent'.*the list is not there; see its publisher"
    ):
        open_module(store.folder, split="absent")
    with pytest.raises(MmzooError, match="prepared again in the meantime"):
        open_module(store.folder, content="0")
