"""Defaults for a user's own data: by number of samples and kind, and never over what the user has set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.planning.choices import choice_lines
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.grammar import parse_setting
from mmzoo.config.spec import BenchSpec
from mmzoo.core.encoder import InputSpec
from mmzoo.data.own.checks import KINDS
from mmzoo.data.own.defaults import EPOCHS, LEAST_STEPS, encoder_for, epochs_for, rate_for, steps_for, training_for
from mmzoo.encoders.tokens import TextWords
from mmzoo.registry.plugins import catalogue
from mmzoo.training.config import Training

MANIFEST = "name: pens\ntable: pens.csv\nmodalities:\n  size: {kind: vector, columns: [a, b]}\n  words: text\n"


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 4096))
def test_epochs_take_the_least_number_of_steps_or_the_most_epochs(samples: int, batch: int) -> None:
    epochs = epochs_for(samples, batch)
    assert EPOCHS[0] <= epochs <= EPOCHS[1]
    assert epochs * steps_for(samples, batch) >= LEAST_STEPS or epochs == EPOCHS[1]
    assert epochs == EPOCHS[0] or (epochs - 1) * steps_for(samples, batch) < LEAST_STEPS


def test_more_samples_never_take_fewer_steps_and_what_is_given_wins() -> None:
    sizes = [100, 499, 500, 4_999, 5_000, 49_999, 50_000, 10**6]
    found = [Training().replace(**training_for(n, {})) for n in sizes]
    assert [t.batch_size for t in found] == [16, 16, 32, 32, 64, 64, 128, 128]
    assert training_for(1000, {"lr": 0.5, "epochs": 3}).items() >= {"lr": 0.5, "epochs": 3}.items()
    assert training_for(1000, {"batch_size": 1000})["epochs"] == EPOCHS[1]
    assert (
        training_for(1000, {"optimizer": "sgd"})["lr"]
        == rate_for("sgd")
        > rate_for("adamw")
        == training_for(1000, {})["lr"]
    )
    assert training_for(1000, {"optimizer": "sgd", "lr": 0.1})["lr"] == 0.1
    assert training_for(1000, {})["choose_from"] == 0.75 and training_for(1000, {"choose_from": 0})["choose_from"] == 0


@pytest.mark.parametrize("kind", [*(k for k in KINDS if k not in ("audio", "flow", "category")), "spectrogram"])
def test_every_kind_has_an_encoder_that_takes_it(kind: str) -> None:
    shapes = {
        "vector": (6,),
        "text": (64,),
        "image": (300, 300, 3),
        "video": (8, 112, 112, 3),
        "spectrogram": (257, 600),
    }
    choice = encoder_for(kind, shapes.get(kind, (3, 500)))
    entry = catalogue().get("encoders", choice.name)
    assert kind in entry.inputs and choice.why
    entry.check_params(choice.params)
    if kind in ("image", "spectrogram"):
        assert choice.params["shrink"] == math.ceil(max(shapes[kind][:2]) / 128)


def test_all_learn_faster_than_pictures_and_every_kind_has_dropout() -> None:
    shapes = {"text": (64,), "image": (64, 64, 3), "vector": (6,), "series": (3, 50)}
    params = {}
    for kind, shape in shapes.items():
        choice = encoder_for(kind, shape)
        entry = catalogue().get("encoders", choice.name)
        params[kind] = {**entry.defaults(), **entry.check_params(choice.params)}
    assert {k: p.get("lr_scale", 1.0) for k, p in params.items()} == {
        "text": 3.0,
        "image": 1.0,
        "vector": 3.0,
        "series": 3.0,
    }
    assert {p["dropout"] for p in params.values()} == {0.5}


def own(folder: Path, more: str = "") -> str:
    lines = [f"{i % 7},{i % 3},{'ink' if i % 2 else 'lead'} pen {i % 5},{i % 2}" for i in range(100)]
    (folder / "pens.csv").write_text("a,b,words,label\n" + "\n".join(lines) + "\n")
    (folder / "pens.yaml").write_text(MANIFEST + more)
    return str(folder / "pens.yaml")


def training_of(path: str, *given: str) -> tuple[Training, dict[str, str], str]:
    spec = BenchSpec("ogm", datasets=(path,), settings=tuple(map(parse_setting, given)), references=False)
    plan = make_plan(spec, catalogue(), stores=False)
    run = plan.runs[0].spec
    return run.training, {m: name for m, (name, _) in run.encoders.items()}, "\n".join(choice_lines(plan, "pens"))


def test_a_plan_says_what_reads_each_modality_and_why(tmp_path: Path) -> None:
    training, encoders, said = training_of(own(tmp_path))
    assert encoders == {"size": "mlp", "words": "text_words"}
    assert (training.batch_size, training.epochs) == (16, 200)
    assert "72 training samples in batches of 16: 5 steps an epoch, 1,000 in all" in said
    assert "words: encoder text_words (texts: " in said and "FEWER" not in said


def test_a_column_of_the_split_gives_the_number_of_training_samples(tmp_path: Path) -> None:
    path = own(tmp_path)
    lines = (tmp_path / "pens.csv").read_text().splitlines()
    sides = ["Train", "dev", "test", "", "no side"]
    (tmp_path / "pens.csv").write_text(
        "\n".join([lines[0] + ",split", *(f"{x},{sides[min(i // 10, 4)]}" for i, x in enumerate(lines[1:]))]) + "\n"
    )
    assert "about 80 training samples" in training_of(path)[2]  # 100 less the published sides
    (tmp_path / "pens.csv").write_text("\n".join([lines[0] + ",split", *(f"{x},train" for x in lines[1:])]) + "\n")
    assert "about 72 training samples" in training_of(path)[2]


def test_check_counts_parameters_before_the_data_is_prepared(
    tmp_path: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    path = own(tmp_path)

    def counted() -> list[str]:
        told = mmzoo("data", "check", path, "--jobs", 0).out.splitlines()
        return [line for line in told if "parameters" in line]

    before = counted()
    assert len(before) == 2
    assert mmzoo("data", "prepare", path, "--jobs", 0).code == 0 and counted() == before


def test_a_text_that_names_files_is_told(tmp_path: Path, mmzoo: Callable[..., Any]) -> None:
    path = own(tmp_path)
    told = mmzoo("data", "check", path, "--jobs", 0).out
    assert "Nothing is wrong" in told and "paths of files" not in told
    rows = (tmp_path / "pens.csv").read_text().replace("ink pen 1", "ink.png").replace("lead pen 2", "no.png")
    (tmp_path / "ink.png").write_bytes(b"")
    (tmp_path / "pens.csv").write_text(rows)
    assert "paths of files" not in mmzoo("data", "check", path, "--jobs", 0).out  # one in ten names a file
    (tmp_path / "pens.csv").write_text("a,b,words,label\n" + "".join(f"{i},1,ink.png,{i % 2}\n" for i in range(50)))
    told = mmzoo("data", "check", path, "--jobs", 0)
    assert told.code == 0 and "But check the kinds" in told.out and "such as 'ink.png': only their names" in told.out


def test_what_the_user_sets_wins_in_the_manifest_and_beside_it(tmp_path: Path) -> None:
    path = own(tmp_path, "training: {epochs: 7, lr: 0.02}\nencoders: {text: {name: text_small, params: {dim: 16}}}\n")
    training, encoders, said = training_of(path)
    assert (training.epochs, training.lr, encoders["words"]) == (7, 0.02, "text_small")
    assert "(as the manifest says)" in said and "FEWER THAN 1,000" in said
    training, encoders, said = training_of(path, "train.lr=0.3", "encoder.words=text_bag")
    assert (training.epochs, training.lr, encoders["words"]) == (7, 0.3, "text_bag") and "as you asked" in said
    training, _, said = training_of(own(tmp_path), "train.batch_size=8", "encoder.size.width=5")
    assert training.epochs * math.ceil(72 / 8) >= LEAST_STEPS and "size: encoder mlp (as you asked)" in said


def test_frozen_word_vectors_have_no_rate_unless_one_is_given(tmp_path: Path) -> None:
    path = own(tmp_path)

    def words(*given: str) -> dict[str, Any]:
        spec = BenchSpec("ogm", datasets=(path,), settings=tuple(map(parse_setting, given)), references=False)
        return dict(make_plan(spec, catalogue(), stores=False).runs[0].spec.encoders["words"][1])

    assert words()["lr_scale"] == 3.0
    frozen = words("encoder.words.frozen=true")
    assert frozen["frozen"] and "lr_scale" not in frozen
    assert words("encoder.words.frozen=true", "encoder.words.lr_scale=2")["lr_scale"] == 2  # refused where it is built


def test_published_data_keeps_its_protocol() -> None:
    plan = make_plan(BenchSpec("ogm", datasets=("mfeat",), references=False), catalogue())
    assert (plan.runs[0].spec.training.epochs, plan.runs[0].spec.encoders["fou"][0]) == (30, "mlp")
    assert json.dumps(plan.runs[0].spec.as_dict()).count("floor") == 0 and choice_lines(plan, "mfeat") == []


def test_word_vectors_add_up_and_start_near_zero() -> None:
    encoder = TextWords(InputSpec("text", (6,), 20), dropout=0.0)
    ids = torch.tensor([[3, 4, 5, 6, 0, 0]])
    mask = ids > 0
    z = encoder({"ids": ids, "mask": mask})
    torch.testing.assert_close(z, 4.0 * encoder.embedding.weight[3:7].sum(0)[None] / 2.0)
    torch.testing.assert_close(z, encoder({"ids": ids.flip(1), "mask": mask.flip(1)}))
    assert z.abs().max() < 1 and encoder({"ids": ids, "mask": mask & False}).abs().sum() == 0
