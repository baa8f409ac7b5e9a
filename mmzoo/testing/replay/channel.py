"""Replays for the channel (MMTM) head and Greedy: the exchange between stages, the running means and the schedule.

Each function recomputes recorded vectors with the library's code. Used only by `mmzoo.testing.replay`; imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Batch, Outputs, Pass
from mmzoo.errors import BadValue
from mmzoo.heads.channel import Exchange, Gate, squeezed
from mmzoo.strategies.greedy import Greedy, GreedyMany
from mmzoo.testing.replay.fusion import param
from mmzoo.testing.replay.registry import Case, real, replays, skip
from mmzoo.training.gradients import Grads
from mmzoo.training.run import Run
from mmzoo.training.step import Step


# ---------------------------------------------------------------------- channel
@replays("mmtm")
def _mmtm(case: Case) -> Iterator[Any]:
    names = [m for m in case.inputs if f"fc_{m}.weight" in case.params]
    if not names:
        raise BadValue("no input that a layer in 'params' is named after")
    maps = {m: case.real(m) for m in names}
    exchange = _exchange(case, maps).eval()
    squeezes = {m: squeezed(x) for m, x in maps.items()}
    joint = exchange.joint(squeezes)
    yield "squeeze", torch.cat(list(squeezes.values()), 1)
    yield "joint", joint
    for m, x in exchange(maps).items():
        yield f"gate_{m}", exchange.gate[m](joint)
        yield m, x
    exchange.train()
    for batch in case.inputs.get("extra", []):
        exchange({m: real(batch[m], m) for m in names})
    exchange.eval()
    for i, cut in enumerate(names):
        yield f"running_{cut}", exchange.gate[cut].mean
        for m, x in exchange(maps, held={cut: True}).items():
            yield f"curation{i}_{m}", x


def _exchange(case: Case, maps: Mapping[str, Tensor]) -> Exchange:
    """An exchange module in float64 with the weights from the file."""
    exchange = Exchange({m: x.shape[1] for m, x in maps.items()}, case.number("ratio")).double()
    blocks = param(case.params, "fc_squeeze.weight").split([x.shape[1] for x in maps.values()], dim=1)
    weights = {f"squeeze.{m}": block for m, block in zip(maps, blocks)}
    weights["bias"] = param(case.params, "fc_squeeze.bias")
    for m in maps:
        for part in ("weight", "bias"):
            weights[f"gate.{m}.linear.{part}"] = param(case.params, f"fc_{m}.{part}")
    buffers = {name: b for name, b in exchange.state_dict().items() if name.endswith((".mean", ".steps"))}
    exchange.load_state_dict(weights | buffers)
    return exchange


# ---------------------------------------------------------------------- Greedy
@replays("greedy", "gate_running_mean")
def _running_mean(case: Case) -> Iterator[Any]:
    gate, running = Gate(1, 1).double(), []
    for mean in case.real("batch_means"):
        gate.absorb(mean.reshape(1), torch.ones((), dtype=torch.float64))
        running.append(gate.mean[0].clone())
    yield "running", torch.stack(running)


class _Branch(Encoder):
    """A stub encoder that only holds parameters."""

    out_dim = 1
    n_stages = 1
    stage_dims = (1,)

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(params)


class _Bypass(FusionHead):
    """A stub head that only holds the gates of each modality and their shared layer."""

    couples = True
    mean_gates = True
    how = "exact"

    def __init__(self, gates: Mapping[str, Iterable[nn.Parameter]], shared: Iterable[nn.Parameter]) -> None:
        super().__init__(dict.fromkeys(gates, 1), 2)
        self.gates = nn.ModuleDict({m: nn.ParameterList(params) for m, params in gates.items()})
        self.shared = nn.ParameterList(shared)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.gates[modality].parameters()

    def bypass(self, modality: str) -> Iterable[nn.Parameter]:
        return [*self.own(modality), *self.shared.parameters()]


@replays("greedy", "schedule")
def _schedule(case: Case) -> Iterator[Any]:
    weights = {name: nn.Parameter(real(value, name)) for name, value in case.inputs["weights"].items()}
    model = _model(weights, case.inputs["branchnames"], case.inputs["mmtm_names"])
    kind = Greedy if len(model.modalities) == 2 else GreedyMany
    strategy = kind(epsilon=case.number("epsilon"), window=int(case.number("window")), start_epoch=0)
    inputs = {m: torch.zeros(1, 1) for m in model.modalities}
    batch = Batch(inputs, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    run = Run(model, strategy, train=[batch])
    out = Outputs(torch.zeros(1, 2), {}, {})
    for t, grads in enumerate(case.inputs["grads_per_step"]):
        for name, p in weights.items():
            p.grad = real(grads[name], name) if name in grads else None
        step = Step(run, batch)
        for pass_ in strategy.plan(step, [Pass()]):
            strategy.gradients(step.at(pass_), out, Grads(model, pass_))
        yield from _state(f"trace_after_backward/{t}", strategy)
    yield skip("the signed difference is one of two branches", "trace_after_backward/*/d_speed")


def _model(weights: Mapping[str, nn.Parameter], branches: Sequence[str], gates: Sequence[str]) -> MultimodalModel:
    """The parameters of the file by the roles that their names give them, as in the authors' code."""
    across = {name: p for name, p in weights.items() if "mmtm" in name}
    mine = {b: {n: p for n, p in across.items() if g in n} for b, g in zip(branches, gates)}
    owned = {n for names in mine.values() for n in names}
    head = _Bypass({b: ps.values() for b, ps in mine.items()}, [p for n, p in across.items() if n not in owned])
    main = {b: [p for n, p in weights.items() if n not in across and b in n] for b in branches}
    return MultimodalModel({b: _Branch(params) for b, params in main.items()}, head)


def _state(path: str, strategy: Greedy) -> Iterator[tuple[str, Any]]:
    """What the strategy holds after a step; the file calls rebalancing curation."""
    if len(strategy.speeds) == 2:
        yield f"{path}/d_speed", strategy.speeds[0] - strategy.speeds[1]
    yield f"{path}/curation", strategy.left > 0
    yield f"{path}/caring", strategy.cut
    yield f"{path}/M_bypass", strategy.sums[0]
    yield f"{path}/M_main", strategy.sums[1]
