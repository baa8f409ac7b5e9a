"""A training preset that is data and encoders too."""

from __future__ import annotations

import re

import pytest

from mmzoo.benchmark.planning.data_plan import with_setup
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue

ENCODERS = {
    ("kinetics_sounds", "paper"): {"audio": ("resnet18", "none"), "video": ("resnet18", "none")},
    ("cremad", "paper"): {"audio": ("resnet18", "none"), "video": ("resnet18", "none")},
    ("sarcasm", "paper"): {"image": ("resnet50", "pretrained"), "text": ("transformer", "pretrained")},
    ("twitter2015", "paper"): {"image": ("resnet50", "pretrained"), "text": ("transformer", "pretrained")},
    ("sarcasm", "paper_clip"): {"image": ("clip_image", "pretrained"), "text": ("clip_text", "pretrained")},
    ("twitter2015", "paper_clip"): {"image": ("clip_image", "pretrained"), "text": ("clip_text", "pretrained")},
    ("nvgesture", "paper"): dict.fromkeys(("rgb", "depth", "flow"), ("resnet_3d", "none")),
}


@pytest.mark.parametrize(("dataset", "preset"), list(ENCODERS))
def test_preset_paper_is_its_encoders_and_inputs(
    dataset: str, preset: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmzoo.registry.entries import Entry

    monkeypatch.setattr(Entry, "content", lambda entry, params: None)  # published weights need not be here
    bench = BenchSpec("concat", datasets=(dataset,), preset=preset, references=False, seeds=(0,))
    spec = make_plan(bench, catalogue, stores=False).runs[0].spec
    found = {m: (name.rpartition("/")[2], params["weights"]) for m, (name, params) in spec.encoders.items()}
    assert found == ENCODERS[dataset, preset]
    assert spec.data_params["recipe"] == ("clip" if preset == "paper_clip" else "paper")
    if preset == "paper_clip":
        assert spec.encoders["image"][1]["pixels"] == "clip"
    text = dataset in ("sarcasm", "twitter2015")
    expected = ("adam", 1e-4, 128, "constant") if text else ("sgd", 1e-2, 256, "plateau")
    t = spec.training
    assert (t.optimizer, t.lr, t.batch_size, t.schedule) == expected


def test_what_names_other_data_keeps_it(catalogue: Catalogue) -> None:
    assert with_setup(catalogue, "cremad", "paper")[0] == "cremad:paper"
    for text in ("cremad:mini", "cremad:ogm", "cremad:speaker"):
        assert with_setup(catalogue, text, "paper") == (text, {})
    assert with_setup(catalogue, "cremad", "default") == ("cremad", {})
    assert with_setup(catalogue, "mfeat", "paper") == ("mfeat", {})


def test_agm_has_both_settings_for_cremad(catalogue: Catalogue) -> None:
    presets = catalogue.get("strategies", "agm").extra["presets"]
    assert (presets["cremad"]["alpha"], presets["cremad_author"]["alpha"]) == (1.0, 1.5)


@pytest.mark.parametrize(("dataset", "preset"), [each for each in ENCODERS if each[0] in ("sarcasm", "twitter2015")])
def test_from_scratch_no_encoder_needs_a_file(dataset: str, preset: str, catalogue: Catalogue) -> None:
    scratch = (("encoder.*.weights", "none"),)
    bench = BenchSpec("concat", datasets=(dataset,), preset=preset, references=False, seeds=(0,), settings=scratch)
    spec = make_plan(bench, catalogue, stores=False).runs[0].spec
    assert {m: params["weights"] for m, (_, params) in spec.encoders.items()} == {"image": "none", "text": "none"}
    before = {m: name.rpartition("/")[2] for m, (name, _) in spec.encoders.items()}
    assert before == {m: name for m, (name, _) in ENCODERS[dataset, preset].items()}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("encoder.*.weights", "no encoder in this bench has a parameter 'weights'"),
        ("encoder.*", "write encoder.MODALITY="),
    ],
)
def test_a_setting_of_all_encoders_that_none_has_is_refused(key: str, message: str, catalogue: Catalogue) -> None:
    bench = BenchSpec("concat", datasets=("mfeat",), references=False, settings=((key, "none"),))
    with pytest.raises(BadValue, match=re.escape(message)):
        make_plan(bench, catalogue)


def test_the_encoder_of_one_modality_goes_before_all(catalogue: Catalogue) -> None:
    settings = (("encoder.fou.width", 8), ("encoder.*.width", 16))
    bench = BenchSpec("concat", datasets=("mfeat",), references=False, seeds=(0,), settings=settings)
    encoders = make_plan(bench, catalogue).runs[0].spec.encoders
    assert {m: params["width"] for m, (_, params) in encoders.items()} == {"fou": 8, "zer": 16}
