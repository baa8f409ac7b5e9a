"""Models of the transformers library as encoders of text and images, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.probing import blind
from mmzoo.encoders.loading import load
from mmzoo.encoders.planar import Temporal
from mmzoo.encoders.tokens import check_text, last_token, masked_mean
from mmzoo.errors import BadValue, Incompatible, MmzooError, undefined

Pooling = Literal["cls", "mean", "last", "pooler"]
#: mean and deviation of the channels
IMAGENET_SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_SCALE = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Inside(NamedTuple):
    """A batch between two layers.

    Args:
        inputs: inputs of the model.
        hidden: (N, L, C), input of the next layer.
        args: further arguments of each layer.
        keywords: further keyword arguments of each layer.
        mask: (N, L) bool, the tokens of a text.
        frames: frames per sample of a video.
        in_tuple: whether layers return a tuple, of which the model uses the first entry.
    """

    inputs: dict[str, Any]
    hidden: Tensor
    args: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}
    mask: Tensor | None = None
    frames: int | None = None
    in_tuple: bool = False


class _Reached(Exception):
    """Carries what the first layer was called with out of the model's forward."""


class _Given(nn.Module):
    """Stands in for a layer and gives what the last one has given."""

    def __init__(self, state: Inside) -> None:
        super().__init__()
        # A model that takes the first of a tuple would take the first sample of a tensor, for all of them.
        self._out = (state.hidden,) if state.in_tuple else state.hidden

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        return self._out


class Layered(Encoder):
    """Base of encoders that wrap a transformers model and split it at its layers.

    `begin` runs the model's forward up to the first layer and stores that layer's arguments (masks, positions). A stage
    calls a layer with the same arguments. `finish` runs the forward again, with every layer replaced by the output of
    the last one. That this composes to the model is tested on two samples; otherwise the encoder has no stages.
    """

    model: Any
    spec: InputSpec

    def cut(self, example: Any, name: str) -> None:
        """Find the layers, and all widths by a forward. Raises Incompatible if the model cannot read such an input."""
        self._owner, self._list = "", ""
        n = self.model.config.num_hidden_layers
        for path, module in self.model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == n:
                self._owner, _, self._list = path.rpartition(".")
                break
        self.n_stages, self.stage_dims = 0, ()
        self.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                whole = self.finish(self.begin(example))
            except MmzooError:
                raise
            except Exception as error:
                why = (str(error) or type(error).__name__).splitlines()[0]
                raise Incompatible(f"{name} cannot read {self.spec.kind} {self.spec.shape}: {why}") from error
            self.out_dim = whole.shape[1]
            if self._list and n:
                self.n_stages = n
                try:
                    state, widths = self.begin(example), []
                    for stage in range(n):
                        state = self.run_stage(stage, state)
                        widths.append(state.hidden.shape[-1])
                    same = torch.allclose(self.finish(state), whole, atol=1e-5)
                except Exception:  # its layers are called in a way of their own
                    same = False
                self.n_stages, self.stage_dims = (n, tuple(widths)) if same else (0, ())
        self.train()

    def pooled(self, out: Any, state: Inside) -> Tensor:
        """(N, out_dim), pooled from the model's output."""
        raise undefined(self, "pooled")

    def enter(self, state: Inside) -> Inside:
        """The state before the first layer; unchanged if there are no stages."""
        if not self.n_stages:
            return state

        def reached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(args, kwargs)

        handle = self._layers[0].register_forward_pre_hook(reached, with_kwargs=True)
        try:
            self.model(**state.inputs)
        except _Reached as stop:
            args, kwargs = stop.args
        finally:
            handle.remove()
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return state._replace(hidden=hidden, args=tuple(args[1:]), keywords=kwargs)

    @property
    def _layers(self) -> nn.ModuleList:
        found: nn.ModuleList = getattr(self.model.get_submodule(self._owner), self._list)
        return found

    def run_stage(self, stage: int, state: Inside) -> Inside:
        out = self._layers[stage](state.hidden, *state.args, **state.keywords)
        in_tuple = isinstance(out, tuple)
        return state._replace(hidden=out[0] if in_tuple else out, in_tuple=in_tuple)

    def finish(self, state: Inside) -> Tensor:
        if self.n_stages:
            owner, layers = self.model.get_submodule(self._owner), self._layers
            setattr(owner, self._list, nn.ModuleList(_Given(state) for _ in layers))
            try:
                out = self.model(**state.inputs)
            finally:
                setattr(owner, self._list, layers)
        else:
            out = self.model(**state.inputs)
        z = self.pooled(out, state)
        return z if state.frames is None else self.over_time(z.unflatten(0, (-1, state.frames)))

    def over_time(self, z: Tensor) -> Tensor:
        """(B, D), pooled from the features (B, T, D) of frames."""
        return z.mean(1)

    def view(self, state: Inside) -> Tensor:
        map_ = state.hidden.transpose(1, 2)
        return map_ if state.frames is None else map_.unflatten(0, (-1, state.frames)).transpose(1, 2)

    def replace(self, state: Inside, map_: Tensor) -> Inside:
        flat = map_ if state.frames is None else map_.transpose(1, 2).flatten(0, 1)
        return state._replace(hidden=flat.transpose(1, 2))

    def mask(self, state: Inside) -> Tensor | None:
        return state.mask


class Transformer(Layered):
    """Any text model of the transformers library; of an encoder-decoder model (T5, BART) the encoder.

    Args:
        spec: a text. Token ids must come from the model's own tokenizer, which the data's recipe names; a vocabulary
            larger than the model's is refused. Models with segment embeddings receive the segments.
        model: a local folder, a name on the hub, or with weights="none" a model type ("bert", "roberta").
        weights: "pretrained", those of `model`; "none", random ones; or a folder or .safetensors file.
        pooling: the first token ("cls", default), the "mean" over tokens, the "last" token, or the model's own
            "pooler". With causal attention (GPT, Llama) the first token does not see the text, and "cls" is the last
            one.
        config: values of the model's configuration to change; random weights only.

    Raises:
        Incompatible: the input does not fit.
        MmzooError: the model is missing; the message gives the next step.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, out_dim).
    """

    kind = "AutoModel"

    def __init__(
        self,
        spec: InputSpec,
        *,
        model: str = "google-bert/bert-base-uncased",
        weights: str = "pretrained",
        pooling: Pooling = "cls",
        config: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.spec, vocabulary = check_text(spec)
        needed = {"vocab_size": vocabulary, "max_position_embeddings": self.spec.shape[0] + 2}
        self.model = load(self.kind, model, weights, config, at_least=needed)
        if vocabulary > self.model.config.vocab_size:
            raise Incompatible(
                f"{model} knows {self.model.config.vocab_size} token ids and the data has {vocabulary}: prepare the data "
                "with the tokenizer of this very model."
            )
        self.pooling = pooling
        if pooling != "pooler" and getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        length = self.spec.shape[0]
        places = torch.arange(length)
        ids = torch.stack([places % vocabulary, (places + 1) % vocabulary])
        self.cut({"ids": ids, "mask": torch.stack([places <= length // 2, places <= length // 3])}, model)
        if pooling == "cls" and blind(self, self.spec):
            self.pooling = "last"

    def begin(self, x: Mapping[str, Tensor]) -> Inside:
        config, mask = self.model.config, x["mask"]
        # A text without any token: attention over nothing has no value.
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        seen = mask | (first & ~mask.any(1, keepdim=True))
        ids = torch.where(mask, x["ids"], getattr(config, "pad_token_id", None) or 0)
        inputs = {"input_ids": ids, "attention_mask": seen.long()}
        if "segment" in x and getattr(config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = torch.where(mask, x["segment"], 0)
        return self.enter(Inside(inputs, ids, mask=mask))

    def pooled(self, out: Any, state: Inside) -> Tensor:
        if self.pooling == "pooler":
            if getattr(out, "pooler_output", None) is None:
                raise Incompatible("this model has no pooler of its own: set pooling to cls or mean.")
            found: Tensor = out.pooler_output
            return found
        assert state.mask is not None
        tokens: Tensor = out.last_hidden_state
        if self.pooling == "mean":
            return masked_mean(tokens, state.mask)
        return tokens[:, 0] if self.pooling == "cls" else tokens[torch.arange(len(tokens)), last_token(state.mask)]


class ClipText(Transformer):
    """The text tower of CLIP (Radford et al., ICML 2021), read at the token that ends the text.

    Its attention is causal, so that the first token does not see the text.

    Args:
        spec: a text in the tokens of CLIP.
        model: as for `Transformer`.
        weights: as for `Transformer`.
        pooling: "pooler" (default), the token that ends the text, or the "mean" over tokens.
        config: as for `Transformer`.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, out_dim).
    """

    kind = "CLIPTextModel"

    def __init__(
        self,
        spec: InputSpec,
        *,
        model: str = "openai/clip-vit-base-patch32",
        weights: str = "pretrained",
        pooling: Literal["mean", "pooler"] = "pooler",
        config: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(spec, model=model, weights=weights, pooling=pooling, config=config)


def clip_pixels(x: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) normalised by ImageNet's mean and std, renormalised by CLIP's."""
    mean, deviation, clip_mean, clip_deviation = (x.new_tensor(v).view(3, 1, 1) for v in (*IMAGENET_SCALE, *CLIP_SCALE))
    return x * (deviation / clip_deviation) + (mean - clip_mean) / clip_deviation


class ClipImage(Layered):
    """The image tower of CLIP (Radford et al., ICML 2021), applied to each frame of a video.

    The feature is that of the class token after the last normalisation. Position embeddings are interpolated if the
    input has another size than the model was trained on.

    Args:
        spec: an image or a video.
        model: as for `Transformer`.
        weights: as for `Transformer`.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".
        pixels: mean and std of the pixels: "imagenet" leaves those of the data; "clip" replaces them by CLIP's.
        config: as for `Transformer`.

    Shape:
        Input: (B, 3, H, W) or (B, T, 3, H, W). Output: (B, out_dim).
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        model: str = "openai/clip-vit-base-patch32",
        weights: str = "pretrained",
        temporal: Temporal = "mean",
        pixels: Literal["imagenet", "clip"] = "imagenet",
        config: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self._rescaled = pixels == "clip"
        self.spec = InputSpec.of(spec).of_kind("image", "video")
        if temporal != "mean" and self.spec.kind != "video":
            raise BadValue(f"temporal pools over the frames of a video; this input is {self.spec.kind}. Leave it out.")
        self.temporal = temporal
        channels = self.spec.shape[-3]
        self.model = load("CLIPVisionModel", model, weights, config, exactly={"num_channels": channels})
        if channels != self.model.config.num_channels:
            raise Incompatible(
                f"{model} reads {self.model.config.num_channels} channels and the input has {channels}: set weights to none."
            )
        one = torch.randn(1, *self.spec.shape)
        self.cut(torch.cat([one, -one]), model)

    def begin(self, x: Tensor) -> Inside:
        x = x.to(next(self.parameters()).dtype)
        frames = x.shape[1] if self.spec.kind == "video" else None
        x = x if frames is None else x.flatten(0, 1)
        x = clip_pixels(x) if self._rescaled else x
        made_for = self.model.config.image_size
        inputs = {"pixel_values": x, "interpolate_pos_encoding": tuple(x.shape[-2:]) != (made_for, made_for)}
        return self.enter(Inside(inputs, x, frames=frames))

    def pooled(self, out: Any, state: Inside) -> Tensor:
        found: Tensor = out.pooler_output
        return found

    def over_time(self, z: Tensor) -> Tensor:
        return z.amax(1) if self.temporal == "max" else z.mean(1)
