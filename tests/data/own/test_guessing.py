"""A first manifest for a table."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.watchdog import watchdog
from PIL import Image as pil

from mmzoo.data.own.guessing import guessed
from mmzoo.data.own.manifest import read_manifest
from mmzoo.errors import BadValue

Command = Callable[..., Any]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    draw = random.Random(0)
    (tmp_path / "img").mkdir()
    lines = ["ID,Photo file,title,acc_x,acc_y,acc_z,gyr 1,gyr 2,sex,emb,notes,species,split"]
    for i in range(60):
        pil.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"img/{i}.png")
        words = " ".join(draw.sample(["small", "quick", "warm", "old", "young", "brown"], 3))
        bad = "" if i % 9 == 0 else f"{draw.random():.3f}"
        split = ("train", "train", "val", "test")[i % 4]
        lines.append(
            f'p{i},img/{i}.png,{words} {i},{i},{bad},1,2,{i},{"MF"[i % 2]},"[{i}, 1.5]",,{("cat", "dog")[i // 4 % 2]},{split}'
        )
    (tmp_path / "Pets 2.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "Pets 2.csv"


def test_kinds_and_parts_are_guessed_and_the_manifest_is_ready_for_use(table: Path, mmzoo: Command) -> None:
    done = mmzoo("data", "init", table)
    manifest = table.with_name("Pets 2.yaml")
    assert done.code == 0 and manifest.is_file() and "Next: mmzoo data check" in done.out
    source = read_manifest(manifest)
    assert source.name == "pets_2" and (source.wanted.label, source.wanted.id, source.wanted.split) == (
        "species",
        "ID",
        "split",
    )
    kinds = {m: (w.kind, w.columns) for m, w in source.wanted.media.items()}
    assert kinds == {
        "acc": ("vector", ("acc_x", "acc_y", "acc_z")),
        "gyr": ("vector", ("gyr 1", "gyr 2")),
        "categories": ("vector", ("sex",)),
        "photo_file": ("image", ("Photo file",)),
        "title": ("text", ("title",)),
        "emb": ("vector", ("emb",)),
    }
    assert source.wanted.media["acc"].fill and "no content: notes" in manifest.read_text()
    assert mmzoo("data", "check", manifest, "--jobs", 0).code == 0
    again = mmzoo("data", "init", table)
    assert again.code == 2 and "stays as it is" in again.err


def test_a_table_in_place_of_a_manifest_is_told(table: Path, mmzoo: Command) -> None:
    for command in (("bench", "--method", "concat", "--plan", "--datasets", table), ("data", "check", table)):
        told = mmzoo(*command)
        assert told.code == 2 and "mmzoo data init" in told.err


def test_what_is_no_plain_file_is_called_what_it_is(tmp_path: Path, mmzoo: Command) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with watchdog(60):
        for path, said in (
            ("/dev/zero", "/dev/zero is a device, not a table"),
            (tmp_path / "pipe.csv", "is a pipe, not a table"),
            (tmp_path, "is a folder, not a table"),
            (tmp_path / "none.csv", "there is no table"),
        ):
            told = mmzoo("data", "init", path)
            assert told.code == 2 and said in told.err
    assert not list(tmp_path.glob("*.yaml"))


def test_names_that_yaml_reads_otherwise(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i * 2},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("0,no: 1,label\n" + rows)
    (tmp_path / "t.yaml").write_text(guessed(tmp_path / "t.csv"))
    assert read_manifest(tmp_path / "t.yaml").wanted.media["numbers"].columns == ("0", "no: 1")
    (tmp_path / "u.csv").write_text("a,b\n" + "".join(f"{i},{i}\n" for i in range(40)))
    with pytest.raises(BadValue, match="it is unclear which column"):
        guessed(tmp_path / "u.csv")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["cat"], "only the class 'cat' in what was looked at, the first 1 row"),
        (["cat"] * 3, "the first 3 rows"),
        (["a b", "c d", "e f"], "another value in every row"),
        ([""], "no class"),
    ],
)
def test_a_label_that_cannot_be_one_is_not_asked_for_again(cells: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,label\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells)))
    with pytest.raises(BadValue, match=said) as told:
        guessed(tmp_path / "t.csv")
    assert "Call it label" not in str(told.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_an_array_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.npy")
    for i in range(1, 30):
        np.save(tmp_path / f"{i}.npy", np.arange(3.0))
    lines = [f"p{i},{i}.npy,{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["id,features,label", *lines]) + "\n")
    (tmp_path / "t.yaml").write_text("name: t\ntable: t.csv\nmodalities:\n  features: vector\n")
    with watchdog(30):
        assert "features" in guessed(tmp_path / "t.csv")
        read_manifest(tmp_path / "t.yaml")


def _draft(folder: Path, header: str, row: Callable[[int], str], n: int = 120) -> tuple[str, Any]:
    """The draft of a table and what it means."""
    (folder / "t.csv").write_text("\n".join([header, *map(row, range(n))]) + "\n")
    (folder / "t.yaml").write_text(text := guessed(folder / "t.csv"))
    return text, read_manifest(folder / "t.yaml")


def test_the_label_goes_by_its_name_and_a_last_column_of_sessions_is_the_group(tmp_path: Path) -> None:
    text, source = _draft(
        tmp_path,
        "participant,x,z,emotion,colour,session",
        lambda i: f"p{i},{i % 7}.5,{i % 11}.5,{('joy', 'fear', 'rage')[i % 3]},{'rgb'[i // 2 % 3]},s{i // 12}",
    )
    wanted = source.wanted
    assert (wanted.label, wanted.group, wanted.id, wanted.split) == ("emotion", "session", "participant", None)
    assert {m: w.columns for m, w in wanted.media.items()} == {"numbers": ("x", "z"), "categories": ("colour",)}
    assert "# check the label: it may also be: colour" in text


def test_a_label_that_no_name_tells_is_to_be_checked(tmp_path: Path) -> None:
    text, source = _draft(tmp_path, "x,kind,colour", lambda i: f"{i}.5,{'ab'[i % 2]},{'rgb'[i // 2 % 3]}")
    assert source.wanted.label == "colour" and "# CHECK the label: no name tells it. It may also be: kind" in text


def test_a_column_of_the_split_is_never_the_label(tmp_path: Path) -> None:
    def row(i: int) -> str:
        return f"{i}.5,{i % 5}.25,{'ab'[i // 2 % 2]},{'tset' if i == 7 else ('train', 'train', 'val', 'test')[i % 4]}"

    for name in ("split", "subset"):
        text, source = _draft(tmp_path, f"x,z,kind,{name}", row)
        assert (source.wanted.label, source.wanted.split) == ("kind", name)
        assert "the split holds 'tset', which is none of train, val, test. Did you mean 'test'?" in text
    text, source = _draft(tmp_path, "x,z,kind,fold", lambda i: f"{i}.5,{i % 5}.25,{'ab'[i // 2 % 2]},f{i % 5}")
    assert source.wanted.label == "kind" and source.wanted.split is None
    assert "another division of the rows: fold" in text and list(source.wanted.media) == ["numbers"]


def test_what_tells_the_label_by_itself_is_no_input(tmp_path: Path) -> None:
    names = ("joy", "fear", "rage", "calm")
    text, source = _draft(
        tmp_path,
        "file,x,emotion_code,valence,speaker_id,owner,emotion",
        lambda i: f"clip{i},{i}.5,{i % 4},{('up', 'down')[i % 2]},{i // 10},{'ab'[i // 60]},{names[i % 4]}",
    )
    assert (source.wanted.label, source.wanted.group, source.wanted.id) == ("emotion", "speaker_id", "file")
    assert "tells the label by itself: emotion_code" in text and "says which rows belong together: owner" in text
    assert {m: w.columns for m, w in source.wanted.media.items()} == {"numbers": ("x",), "categories": ("valence",)}
    # three axes of a sensor hold no classes, whatever one of them is called
    _, source = _draft(tmp_path, "x,y,z,kind", lambda i: f"{i}.5,{i}.25,{i}.75,{'ab'[i % 2]}")
    assert source.wanted.label == "kind"


def test_a_column_that_a_manifest_reads_as_the_id_whatever_it_holds_is_no_input(tmp_path: Path) -> None:
    text, source = _draft(tmp_path, "id,x,null,kind", lambda i: f"p{i // 4},{i}.5,{'ab'[i % 2]},{'cd'[i // 2 % 2]}")
    assert source.wanted.id == "id" and "# CHECK the id: not every row has another one" in text
    assert {m: w.columns for m, w in source.wanted.media.items()} == {"numbers": ("x",), "categories": ("null",)}


def test_a_label_of_one_class_is_told_rather_than_replaced(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="holds only the class 'a'"):
        _draft(tmp_path, "x,kind,label", lambda i: f"{i}.5,{'cd'[i % 2]},a")
