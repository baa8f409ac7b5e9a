"""timm models as encoders of images, spectrograms and video frames, with their stages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import InputSpec
from mmzoo.encoders.planar import Planar, Temporal
from mmzoo.errors import BadValue, Incompatible, MmzooError, UnknownName, near_miss
from mmzoo.io.weights import timm_files

#: where the classifier of a timm model begins, by the name of a child
_HEAD = ("global_pool", "head", "fc", "classifier", "pre_logits", "flatten")


class Timm(Planar):
    """Any timm model without its classifier.

    Stages are those that timm lists as features, or the blocks of a vision transformer, whose view is (B, C, L) with
    all tokens. A model whose stages do not compose to the model, as tested on one sample, has none.

    Args:
        spec: an image, a spectrogram or a video.
        model: name of the model in timm.
        weights: "none" for random weights, "pretrained" for published ones, or a file (.safetensors, or a .pth with
            tensors only) or a folder that contains one. The first convolution is adapted to the input's channels as
            timm does: published weights are summed for one channel, and repeated for more than three.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".
        options: further arguments of timm.create_model.

    Raises:
        UnknownName: timm has no such model.
        Incompatible: the model cannot read such an input.
        MmzooError: the weights are missing or do not fit.

    Shape:
        Input: (B, C, H, W), (B, F, T) or (B, T, C, H, W). Output: (B, out_dim).
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        model: str = "resnet18",
        weights: str = "none",
        temporal: Temporal = "mean",
        **options: Any,
    ) -> None:
        super().__init__(spec, temporal=temporal)
        self.model = _create(model, weights, self.channels, self.spec.shape[-2:], options)
        #: the trunk cut after each stage, the last piece after all of them
        self._cuts: list[list[str]] = []
        self._tokens = False
        self._last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        with _asking(self.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            self._ask(model)

    def _ask(self, name: str) -> None:
        """Find the stages and all widths with one item."""
        x = torch.randn(1, self.channels, *self.spec.shape[-2:])
        try:
            trunk = self.model.forward_features(x)
            self.out_dim = self._pooled(trunk).shape[1]
        except Exception as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise Incompatible(
                f"timm's {name} cannot read {self.spec.kind} {self.spec.shape}: {why}. Choose another model, or another size "
                "in the data's recipe."
            ) from error
        self._cuts = _stages_of(self.model)
        self.n_stages = max(0, len(self._cuts) - 1)
        try:
            state, widths = self.stem(x), []
            for stage in range(self.n_stages):
                state = self.block(stage, state)
                widths.append(self.to_map(state).shape[1])
            whole = self._rest(state) if self._cuts else None
        except Exception:  # it is put together otherwise than its feature list tells
            whole = None
        if whole is None or whole.shape != trunk.shape or not torch.allclose(whole, trunk, atol=1e-5):
            self._cuts, self.n_stages, widths = [], 0, []
        self.stage_dims = tuple(widths)

    def stem(self, x: Tensor) -> Tensor:
        """The layers before the first stage."""
        if self._cuts and hasattr(self.model, "_pos_embed"):
            x = self.model._pos_embed(self.model.patch_embed(x))
            found: Tensor = self.model.norm_pre(self.model.patch_drop(x))
            return found
        return x if self._cuts else self.model.forward_features(x)

    def block(self, stage: int, x: Tensor) -> Tensor:
        return self._through(self._cuts[stage], x)

    def pool(self, x: Tensor) -> Tensor:
        return self._pooled(self._rest(x) if self._cuts else x)

    def _rest(self, x: Tensor) -> Tensor:
        return self._through(self._cuts[-1], x)

    def _pooled(self, x: Tensor) -> Tensor:
        found: Tensor = self.model.forward_head(x, pre_logits=True).flatten(1)
        return found

    def _through(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.model.get_submodule(name)(x)
        return x

    def to_map(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1) if self._last or x.ndim == 3 else x

    def from_map(self, map_: Tensor) -> Tensor:
        return map_.movedim(1, -1) if self._last or map_.ndim == 3 else map_


class ResNet18(Timm):
    """ResNet18 (He et al., CVPR 2016) with random weights, as in OGM-GE and most later work.

    A spectrogram is an image of one channel. Every residual branch starts at full strength; timm's own default starts
    its last normalisation at zero.

    Args:
        spec: an image, a spectrogram or a video.
        weights: as for `Timm`; "none" by default.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".

    Shape:
        Input: (B, C, H, W), (B, F, T) or (B, T, C, H, W). Output: (B, 512).
    """

    def __init__(self, spec: InputSpec | Sequence[int], *, weights: str = "none", temporal: Temporal = "mean") -> None:
        super().__init__(spec, model="resnet18", weights=weights, temporal=temporal, zero_init_last=False)


class ResNet50(Timm):
    """ResNet50 (He et al., CVPR 2016); otherwise like `ResNet18`.

    Args:
        spec: an image, a spectrogram or a video.
        weights: as for `Timm`; "none" by default.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".

    Shape:
        Input: (B, C, H, W), (B, F, T) or (B, T, C, H, W). Output: (B, 2048).
    """

    def __init__(self, spec: InputSpec | Sequence[int], *, weights: str = "none", temporal: Temporal = "mean") -> None:
        super().__init__(spec, model="resnet50", weights=weights, temporal=temporal, zero_init_last=False)


def _create(model: str, weights: str, channels: int, size: Sequence[int], options: dict[str, Any]) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    if not timm.is_model(model):
        near = near_miss(model, timm.list_models())
        raise UnknownName(f"no timm model {model!r}.{near} List all: timm.list_models('*resnet*')")
    known = get_pretrained_cfg(model)
    if known is not None and known.fixed_input_size:
        options = {"img_size": tuple(size), **options}
    options = {"in_chans": channels, "num_classes": 0, **options}
    try:
        if weights == "none":
            return timm.create_model(model, **options)
        state = read_tensors(timm_files({"model": model, "weights": weights})[0])
        return _filled(timm, model, state, options)
    except MmzooError:
        raise
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise Incompatible(
            f"timm's {model} cannot be built for {channels} x {tuple(size)} with weights {weights}: {why}"
        ) from error


def _filled(timm: Any, model: str, state: dict[str, Tensor], options: dict[str, Any]) -> Any:
    """A model with weights. timm keeps random ones for what a file does not hold and says so in its log only; what is still
    as the same random numbers make it was not filled. Raises Incompatible then."""
    overlay = {"state_dict": state, "source": ""}
    start = torch.get_rng_state()
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        built = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        torch.set_rng_state(start)
        random = timm.create_model(model, **options)
    finally:
        log.setLevel(level)
    weights = dict(built.named_parameters())
    left = [n for n, p in random.named_parameters() if p.ndim > 1 and bool(p.any()) and torch.equal(p, weights[n])]
    if left:
        raise Incompatible(
            f"the file of weights does not fill timm's {model}: it leaves {len(left)} tensors, e.g. {left[0]}."
        )
    return built


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or a torch file that contains tensors only. Raises BadValue."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise BadValue(
            f"{path} holds no weights that can be read safely ({why}). Give a .safetensors file, or a torch file of tensors only."
        ) from error
    for key in ("state_dict", "model"):
        read = read[key] if isinstance(read, dict) and isinstance(read.get(key), dict) else read
    if not isinstance(read, dict) or not all(isinstance(t, Tensor) for t in read.values()):
        raise BadValue(f"{path} must hold a mapping of names to tensors.")
    return {name.removeprefix("module."): t for name, t in read.items()}


def _stages_of(model: Any) -> list[list[str]]:
    """The names of the modules that make up each stage and, last, of what follows them; empty where nothing tells."""
    info = getattr(model, "feature_info", None)
    marks = [f["module"] for f in info] if info else []
    if not marks:
        return []
    if hasattr(model, "_pos_embed") and hasattr(model, "blocks"):
        after = ["norm"] if hasattr(model, "norm") else []
        return [*([f"blocks.{i}"] for i in range(len(model.blocks))), after]
    order = []
    for name, child in model.named_children():
        if name.startswith(_HEAD):
            break
        order += list(_opened(name, child, marks))
    if any(m not in order for m in marks):
        return []
    ends = [order.index(m) + 1 for m in marks]
    return [order[a:b] for a, b in zip([0, *ends], [*ends, len(order)])]


def _opened(name: str, module: nn.Module, marks: Sequence[str]) -> Iterator[str]:
    """The module itself, or where stages end inside of it its children in turn."""
    if any(m.startswith(f"{name}.") for m in marks):
        for child, inner in module.named_children():
            yield from _opened(f"{name}.{child}", inner, marks)
    else:
        yield name


@contextlib.contextmanager
def _asking(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block, so that one item is enough and leaves no trace."""
    model.eval()
    yield
    model.train()
