"""What is trained: pairs of encoders with random weights and inputs, and the loop that a user would write for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from mmzoo import Batch, Encoder, MultimodalModel, Run
from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.core.encoder import InputSpec
from mmzoo.core.precision import tf32
from mmzoo.encoders.backbones import ResNet18, ResNet50
from mmzoo.encoders.pretrained import Transformer
from mmzoo.registry.plugins import catalogue
from mmzoo.training.config import Training

VOCABULARY = 30522


@dataclass(frozen=True)
class Engine:
    """How the numbers are computed. options: of `Training`. graphs: each encoder as CUDA graphs."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    channels_last: bool = False
    graphs: bool = False


@dataclass(frozen=True)
class Workload:
    """Two modalities, their encoders and a number of samples for each step."""

    name: str
    batch: int
    classes: int
    specs: Mapping[str, InputSpec]
    make: Mapping[str, Callable[[InputSpec], Encoder]]
    bare: Mapping[str, Callable[[InputSpec], nn.Module]]

    def encoders(self, channels_last: bool) -> dict[str, Encoder]:
        """Fresh ones, always with the same weights."""
        torch.manual_seed(0)
        made = {m: make(self.specs[m]) for m, make in self.make.items()}
        for m, encoder in made.items():
            if channels_last and any(p.ndim == 4 for p in encoder.parameters()):
                encoder.configure(self.specs[m], channels_last=True)
        return made

    def batches(self, device: str, n: int = 2) -> list[Batch]:
        """Random ones, on the device."""
        torch.manual_seed(1)
        made = []
        for i in range(n):
            inputs = {m: spec.example(self.batch) for m, spec in self.specs.items()}
            target, index = torch.randint(self.classes, (self.batch,)), torch.arange(self.batch) + i * self.batch
            made.append(Batch(inputs, target, index).to(device))
        return made


def resnets(batch: int, small: bool) -> Workload:
    """Two ResNet18 on CREMA-D's shapes: a spectrogram of 257x299 and a frame of 224x224."""
    shapes = ((40, 48), (3, 48, 48)) if small else ((257, 299), (3, 224, 224))
    specs = {"audio": InputSpec("spectrogram", shapes[0]), "video": InputSpec("image", shapes[1])}
    make, bare = dict.fromkeys(specs, ResNet18), dict.fromkeys(specs, partial(Picture, "resnet18"))
    return Workload(f"2 ResNet18, batch {batch}", batch, 6, specs, make, bare)


def text_and_image(batch: int, small: bool) -> Workload:
    """ResNet50 and BERT-base from its configuration, 128 tokens; small: two layers of BERT, and ResNet18."""
    few = (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        if small
        else None
    )
    specs = {
        "image": InputSpec("image", (3, 48, 48) if small else (3, 224, 224)),
        "text": InputSpec("text", (16,) if small else (128,), 100 if small else VOCABULARY),
    }

    def bert(spec: InputSpec) -> Encoder:
        return Transformer(spec, model="bert", weights="none", config=few)

    name = "ResNet18 + 2 layers of BERT" if small else "ResNet50 + BERT-base"
    make = {"image": ResNet18 if small else ResNet50, "text": bert}
    bare = {"image": partial(Picture, "resnet18" if small else "resnet50"), "text": partial(Words, few or {})}
    return Workload(f"{name}, batch {batch}", batch, 2, specs, make, bare)


def workloads(small: bool) -> list[Workload]:
    """All that is measured."""
    if small:
        return [resnets(4, True), text_and_image(4, True)]
    return [resnets(64, False), resnets(256, False), text_and_image(128, False)]


# ---------------------------------------------------------------------- through mmzoo
def run_of(work: Workload, engine: Engine, method: str, device: str) -> Run:
    """A run of a method in the middle of its training."""
    found = resolve_method(catalogue(), method, Settings(catalogue(), ()))
    head = catalogue().get("heads", found.head).load()
    encoders = head.readout(work.encoders(engine.channels_last), **found.head_params)
    torch.manual_seed(0)
    model = MultimodalModel(
        encoders, head({m: e.out_dim for m, e in encoders.items()}, work.classes, **found.head_params)
    )
    training = Training(lr=1e-3, batch_size=work.batch, epochs=40, **engine.options)
    batches = work.batches(device)
    strategy = build_strategy(catalogue(), found.parts)
    run = Run(model, strategy, train=batches, slice=batches[:1], training=training, device=device)
    if engine.graphs:
        graph_encoders(run, batches[0])
    run.epoch = 20  # after what methods do at first, before what they do last
    run.start_epoch()
    return run


def graph_encoders(run: Run, batch: Batch) -> None:
    """Replace the forward and the backward of each encoder by CUDA graphs, captured on a batch like this."""
    run.model.train()
    precise = run.training.precision == "fp32"
    for m, encoder in run.model.encoders.items():
        x = batch.inputs[m]
        if not isinstance(x, Tensor):
            raise TypeError(f"CUDA graphs of an encoder want one tensor, and {m} is {', '.join(x)}")
        amp = contextlib.nullcontext() if precise else torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
        with amp:
            torch.cuda.make_graphed_callables(encoder, (x,))


# ---------------------------------------------------------------------- by hand
class Picture(nn.Module):
    """A ResNet of timm."""

    def __init__(self, name: str, spec: InputSpec) -> None:
        super().__init__()
        self.net = timm.create_model(name, in_chans=1 if spec.kind == "spectrogram" else 3, num_classes=0)
        self.out_dim = int(self.net.num_features)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x[:, None] if x.ndim == 3 else x)
        return found


class Words(nn.Module):
    """BERT, read at its first token."""

    def __init__(self, changes: Mapping[str, int], spec: InputSpec) -> None:
        super().__init__()
        config = BertConfig(vocab_size=spec.vocabulary or VOCABULARY, **changes)
        self.net = BertModel(config, add_pooling_layer=False)
        self.out_dim = int(config.hidden_size)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = self.net(input_ids=x["ids"], attention_mask=x["mask"].long()).last_hidden_state[:, 0]
        return found


class Net(nn.Module):
    """Encoders and one linear layer on their features."""

    def __init__(self, work: Workload, channels_last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({m: make(work.specs[m]) for m, make in work.bare.items()})
        self.head = nn.Linear(sum(int(e.out_dim) for e in self.encoders.values()), work.classes)  # type: ignore[arg-type]
        for module in self.modules():
            if channels_last and isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        return self.head(torch.cat([encoder(inputs[m]) for m, encoder in self.encoders.items()], 1))


def loop_of(work: Workload, engine: Engine, device: str) -> Callable[[Batch], None]:
    """A step as a user would write it, with the same options of torch."""
    options = engine.options
    net = Net(work, engine.channels_last).to(device).train()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=options.get("fused") or None
    )
    narrow = options.get("precision") == "bf16"
    if options.get("compile"):
        torch._dynamo.reset()
        net.compile()

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=narrow):
            logits = net(batch.inputs)
        F.cross_entropy(logits.float(), batch.target).backward()
        optimizer.step()

    return step


def graphed_loop(step: Callable[[Batch], None], batch: Batch) -> Callable[[], None]:
    """The step on one batch as a single CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step(batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(batch)
    return graph.replay


def tf32_of(engine: Engine, device: str) -> Any:
    """As a bench does it around a run."""
    return tf32(bool(engine.options.get("tf32"))) if device.startswith("cuda") else contextlib.nullcontext()
