"""What one update of a learned alpha costs, in training steps and in memory, and how far it is from the exact solve.

    python benchmarks/solver_cost.py                      # both shapes, every solver: writes results/solver_cost.csv
    python benchmarks/solver_cost.py --shapes resnet18s --solvers identity --no-exact
    python benchmarks/solver_cost.py --count              # operations at batch 64: writes results/solver_flops.csv

Shapes: `resnet18s`, two ResNet18 as for CREMA-D (a spectrogram 1x257x299 and three frames 3x224x224), and
`bert_resnet50` (BERT-base on 64 word pieces, ResNet50 on one image 3x224x224); random weights. Data is generated, each class with a mean of its own, and
the models are trained for a few steps first, so that curvature and gradients are not those of initial weights.

Each solver runs in a process of its own, on the same weights, and through the strategy as a bench would. `solve_s` is
the processor time (set OMP_NUM_THREADS=1) of what it does around an epoch, the record of the gradients' norms included,
and `steps` that time in plain training steps at the same batch size: with one update in an epoch of 100 steps, its share
in per cent. For the tangent it is what 100 steps cost more. `flops` is the same in floating-point operations, which no
other work on the machine disturbs. `peak_mb` is the most memory of the process above what a training step took.
`direction` is what a normalised update steps along; its error is against conjugate gradients over all parameters, on
the first inner batch and the same upper ones, carried on for --exact products or to a residual of 0.01, with the same
relative damping. Where a solver sees another scope or more batches, the error holds that too.

--count runs nothing: it counts the matrix products and convolutions of a plain step and of every part of a solve on
tensors without data, at the batch size of a real training run, and adds them up by the products that a solve makes at
most. There is no such count of the tangent, whose steps look at their own numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "solver_cost.csv"
C = 6
WORDS = 64
WARM_STEPS = 4


COUNTED = 64


def solvers() -> dict[str, dict[str, Any]]:
    """name -> parameters of the strategy: the defaults of `dynamic_gap_lb`, and every solver over all parameters."""
    whole: dict[str, Any] = {"upper_batches": 4, "iterations": 5}
    return {
        "dynamic_gap_lb": {"scope": "last", "batches": 2, "iterations": 10, "upper_batches": 4},
        "last, one batch": {"scope": "last", "iterations": 10, "upper_batches": 4},
        "heads": {**whole, "scope": "heads"},
        "identity": {**whole, "solver": "identity"},
        "gauss_newton": whole,
        "hessian": {**whole, "solver": "hessian"},
        "neumann": {**whole, "solver": "neumann"},
        "tangent": {"solver": "tangent", "upper_batches": 4, "every": 2},
    }


#: more of them, whose operations are counted and not timed
COUNT_ONLY: dict[str, dict[str, Any]] = {
    "gauss_newton, 10 products": {"iterations": 10, "upper_batches": 4},
    "thorough": {"iterations": 30, "upper_batches": 8, "batches": 4},
    "three products, 16 items": {"items": 16, "iterations": 3, "upper_batches": 1},
}


# ---------------------------------------------------------------------------------------------- models and data
def encoders(shape: str) -> dict[str, Any]:
    import timm
    import torch
    from transformers import BertConfig, BertModel

    from mmzoo import Encoder

    class Image(Encoder):
        """A timm network on (B, C, H, W), or on each frame of (B, T, C, H, W), then the mean over time."""

        def __init__(self, name: str, channels: int) -> None:
            super().__init__()
            self.net = timm.create_model(name, in_chans=channels, num_classes=0)
            self.out_dim = self.net.num_features

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.ndim == 4:
                return self.net(x)
            return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

    class Text(Encoder):
        """The [CLS] state of BERT-base with random weights."""

        def __init__(self) -> None:
            super().__init__()
            self.net = BertModel(BertConfig(), add_pooling_layer=False)
            self.out_dim = self.net.config.hidden_size

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.net(ids.long()).last_hidden_state[:, 0]

    if shape == "resnet18s":
        return {"audio": Image("resnet18", 1), "video": Image("resnet18", 3)}
    return {"text": Text(), "image": Image("resnet50", 3)}


def batches(shape: str, batch: int, n: int, seed: int) -> list[Any]:
    import torch

    from mmzoo import Batch

    g = torch.Generator().manual_seed(seed)
    rule = torch.Generator().manual_seed(1)
    forms = {"audio": (1, 257, 299), "video": (3, 3, 224, 224)} if shape == "resnet18s" else {"image": (3, 224, 224)}
    means = {m: torch.randn((C, *[1] * (len(s) - 2), 8, 8), generator=rule) for m, s in forms.items()}
    words = torch.randint(1000, 20000, (C, WORDS), generator=rule)
    made = []
    for i in range(n):
        y = torch.randint(C, (batch,), generator=g)
        inputs = {}
        if shape != "resnet18s":
            noise = torch.randint(1000, 20000, (batch, WORDS), generator=g)
            inputs["text"] = torch.where(torch.rand(batch, WORDS, generator=g) < 0.3, words[y], noise)
        for m, s in forms.items():
            blurred = torch.nn.functional.interpolate(means[m][y].flatten(1, -3), size=s[-2:], mode="bilinear")
            inputs[m] = torch.randn((batch, *s), generator=g) + blurred.reshape((batch, *[1] * (len(s) - 2), *s[-2:]))
        made.append(Batch(inputs, y, torch.arange(batch) + i * batch))
    return made


def model_of(shape: str) -> Any:
    from mmzoo import MultimodalModel
    from mmzoo.heads.concat import Concat

    encs = encoders(shape)
    return MultimodalModel(encs, Concat({m: e.out_dim for m, e in encs.items()}, C))


def run_of(shape: str, batch: int, strategy: Any) -> Any:
    import torch

    from mmzoo import Run
    from mmzoo.training import Training

    torch.manual_seed(0)
    model = model_of(shape)
    training = Training(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, epochs=100)
    return Run(model, strategy, train=batches(shape, batch, 4, 2), slice=batches(shape, batch, 4, 3), training=training)


# ---------------------------------------------------------------------------------------------- one measurement
def prepare(shape: str, batch: int, weights: Path) -> None:
    """The weights that all solvers start from."""
    import torch

    from mmzoo.strategies.plain import Plain

    run = run_of(shape, batch, Plain())
    for _ in range(WARM_STEPS // 4):
        run.train_epoch()
        run.end_epoch()
    torch.save(run.model.state_dict(), weights)


def measure(shape: str, batch: int, name: str, weights: Path) -> dict[str, Any]:
    """One row, in a process of its own."""
    import torch

    from mmzoo.strategies.dynamic_gap import DynamicGap

    settings = solvers()[name]
    strategy = DynamicGap(schedule="learned", alpha=0.5, **settings)
    run = run_of(shape, batch, strategy)
    state = torch.load(weights, weights_only=True)
    data = batches(shape, batch, 1, 5)[0]

    def plain_steps(n: int) -> list[tuple[float, float]]:
        """Seconds and operations of each plain step, from the kept weights."""
        from mmzoo.strategies.plain import Plain

        plain = run_of(shape, batch, Plain())
        plain.model.load_state_dict(state)
        plain.start_epoch()
        return [_measured(lambda: plain.step(data)) for _ in range(n + 1)][1:]

    steps = plain_steps(1)
    before = _peak_mb()
    run.model.load_state_dict(state)
    around = _measured(run.start_epoch)
    if name == "tangent":  # what its steps cost more than plain ones, and the derivative after the last
        taken = [_measured(lambda: run.step(data)) for _ in range(settings["every"])]
        more = [(settings["every"] - 1) * taken[0][i] + taken[-1][i] for i in range(2)]
    else:
        more = list(_measured(run.end_epoch))
    peak = _peak_mb() - before
    steps += plain_steps(1)
    step = [statistics.fmean(s[i] for s in steps) for i in range(2)]
    if name == "tangent":
        more = [100 / settings["every"] * (more[i] - settings["every"] * step[i]) for i in range(2)]
    solve, operations = (around[i] + more[i] for i in range(2))
    logged = {k.partition("/")[2]: v[-1] for k, v in run._logged.items() if k.startswith("dynamic_gap/")}
    return {
        "shape": shape, "batch": batch, "solver": name, "settings": json.dumps(settings), "step_s": round(step[0], 3),
        "solve_s": round(solve, 3), "steps": round(solve / step[0], 2), "flops": round(operations / step[1], 2),
        "peak_mb": round(peak), "direction": float(logged.get("direction", "nan")),
        "hypergradient": float(logged.get("hypergradient", "nan")), "residual": float(logged.get("residual", "nan")),
        "products": int(logged.get("products", 0)), "usable": bool(logged.get("usable", 0)),
    }  # fmt: skip


def exact(shape: str, batch: int, weights: Path, products: int) -> dict[str, Any]:
    """The same derivative by a solve that is carried far."""
    import torch
    import torch.nn.functional as F

    from mmzoo.autodiff import Inner, Mixing, Solver, frozen_statistics, implicit_gradient
    from mmzoo.functional import info_nce
    from mmzoo.strategies.dynamic_gap import DynamicGap

    strategy = DynamicGap(schedule="learned", alpha=0.5, items=None, upper_batches=4)
    run = run_of(shape, batch, strategy)
    run.model.load_state_dict(torch.load(weights, weights_only=True))
    inner = next(iter(run.train("dynamic_gap/inner")))

    def losses(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(given[0], inner.target), info_nce(given[1:])

    held = list(run.strategy_holdout("dynamic_gap/upper"))[:4]
    with frozen_statistics(run.model):
        found = implicit_gradient(
            lambda: Inner(matched(run.model, run.forward(inner, mode="eval")), losses),
            [lambda b=b: F.cross_entropy(run.forward(b, mode="eval").logits, b.target) for b in held], run.model,
            Mixing.of(0.5), solver=Solver(damping=strategy.damping, iterations=products, tol=1e-2),
            generator=run.generator("dynamic_gap/power"),
        )  # fmt: skip
    return {"direction": found.direction, "hypergradient": found.value, "residual": found.residual,
            "products": found.products, "lambda_max": found.lambda_max}  # fmt: skip


# ---------------------------------------------------------------------------------------------- operations
def count(shape: str, batch: int) -> list[dict[str, Any]]:
    """The operations of every solve at its most, in plain training steps. Nothing is computed."""
    import torch

    with torch.device("meta"):
        model = model_of(shape).eval()
        add_projections(model)
    data = {m: x[:1].to("meta").expand(batch, *x.shape[1:]) for m, x in batches(shape, 1, 1, 0)[0].inputs.items()}
    params = list(model.parameters())
    plain = _measured(lambda: torch.autograd.grad(model(data).logits.sum(), params, allow_unused=True))[1]
    known: dict[tuple[Any, ...], dict[str, float]] = {}
    rows = []
    for name, given in {**{k: v for k, v in solvers().items() if k != "tangent"}, **COUNT_ONLY}.items():
        key = given.get("items", batch), given.get("scope", "all"), given.get("solver", "gauss_newton")
        key = (*key[:2], key[2].replace("neumann", "gauss_newton"))
        part = known.setdefault(key, {}) or known[key]
        if not part:
            part |= {k: v / plain for k, v in parts_of(model, data, *key).items()}
        products = 0 if key[2] == "identity" else 6 + given["iterations"] + 1
        solve = part["inner"] + part.get("matrix", 0.0) + products * part.get("product", 0.0)
        steps = given.get("batches", 1) * solve + given["upper_batches"] * part["upper"]
        rows.append({
            "shape": shape, "batch": batch, "solver": name, "settings": json.dumps(given),
            **{k: round(part.get(k, 0.0), 4) for k in ("inner", "upper", "matrix", "product")},
            "products": given.get("batches", 1) * products, "steps": round(steps, 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def parts_of(model: Any, data: Mapping[str, Any], items: int, scope: str, kind: str) -> dict[str, float]:
    """The operations of a forward with the gradients of both losses on `items` of a batch, of setting up the matrix,
    of one product with it, and of an upper batch."""
    import torch
    import torch.nn.functional as F

    from mmzoo.autodiff import flat_grad, gauss_newton_operator, hessian_operator, scoped_parameters
    from mmzoo.curvature import double_backward, moving_only
    from mmzoo.functional import info_nce

    batch = len(next(iter(data.values())))
    params = scoped_parameters(model, scope)
    kept: dict[str, Any] = {}

    def losses(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(given[0], torch.zeros(items, dtype=torch.int64, device="meta")), info_nce(given[1:])

    def mixed(given: Any) -> torch.Tensor:
        cls, mm = losses(given)
        return 0.5 * cls + 0.5 * mm

    def inner() -> None:
        kept["outputs"] = matched(model, model({m: x[:items] for m, x in data.items()}))
        for loss in losses(kept["outputs"]):
            flat_grad(loss, params)

    def upper() -> None:
        target = torch.zeros(batch, dtype=torch.int64, device="meta")
        flat_grad(F.cross_entropy(model(data).logits, target), params)

    def matrix() -> None:
        given = kept["outputs"]
        hessian = kind == "hessian"
        kept["product"] = (
            hessian_operator(mixed(given), params) if hessian else gauss_newton_operator(given, mixed, params)
        )

    with double_backward(), moving_only(params, model):
        found = {"inner": _measured(inner)[1], "upper": _measured(upper)[1]}
        if kind != "identity":
            vector = torch.empty(sum(p.numel() for p in params), device="meta")
            found["matrix"] = _measured(matrix)[1]
            found["product"] = _measured(lambda: kept["product"](vector))[1]
    return found


def matched(model: Any, out: Any) -> list[Any]:
    """What both losses are functions of: logits, and similarities between the modalities."""
    from mmzoo.functional import cosine_similarities

    features = dict(out.features)
    if "dynamic_gap" in model.extra:
        features = {m: model.extra["dynamic_gap"][m](z) for m, z in features.items()}
    return [out.logits, *cosine_similarities(features, 0.5, None, 1e-3)]


def add_projections(model: Any) -> None:
    """Those that the strategy adds where widths differ."""
    import torch

    dims = model.head.dims
    if len(set(dims.values())) > 1:
        layers = {m: torch.nn.Linear(d, min(dims.values())) for m, d in dims.items()}
        model.extra["dynamic_gap"] = torch.nn.ModuleDict(layers)


def _measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and floating-point operations (matrix products and convolutions) of a call, backwards included."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    start = time.process_time()
    with Count() as count:
        call()
    return time.process_time() - start, count.total


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------- all of them
def in_a_process(*arguments: str) -> dict[str, Any]:
    """The row that this script prints when it is called with --one."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *arguments], capture_output=True, text=True, env={**os.environ}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def hardware() -> str:
    """The processor by name, and how many threads were used."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    import torch

    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write(rows: list[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for r in rows for k in r)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="resnet18s,bert_resnet50")
    parser.add_argument("--solvers", default=";".join(solvers()), help="separated by semicolons")
    parser.add_argument("--batch", default="2,2", help="batch size of each shape")
    parser.add_argument("--exact", type=int, default=20, help="most products of the solve that errors are against")
    parser.add_argument("--count", action="store_true", help="count operations instead, at batch 64")
    parser.add_argument("--no-exact", action="store_true", help="leave out the exact solve and the errors")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, metavar=("SHAPE", "BATCH", "SOLVER", "WEIGHTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        shape, batch, name, weights = given.one
        act: Any = {"prepare": prepare, "exact": partial(exact, products=given.exact)}.get(name)
        row = act(shape, int(batch), Path(weights)) if act else measure(shape, int(batch), name, Path(weights))
        print(json.dumps(row))
        return
    rows: list[Mapping[str, Any]] = []
    if given.count:
        for shape in given.shapes.split(","):
            rows += count(shape, COUNTED)
        write(rows, RESULTS.with_name("solver_flops.csv") if given.out == RESULTS else given.out)
        return
    names = [n.strip() for n in given.solvers.split(";")]
    for shape, batch in zip(given.shapes.split(","), given.batch.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            weights = str(Path(folder) / "weights.pt")
            in_a_process(shape, batch, "prepare", weights)
            wanted = {} if given.no_exact else in_a_process(shape, batch, "exact", weights, "--exact", str(given.exact))
            print(f"{shape}: exact {wanted}", flush=True)
            for name in names:
                row = in_a_process(shape, batch, name, weights)
                if wanted:
                    row |= {"exact_direction": wanted["direction"], "exact_hypergradient": wanted["hypergradient"],
                            "error": abs(row["direction"] - wanted["direction"])}  # fmt: skip
                rows.append({**row, "hardware": hardware()})
                print(row, flush=True)
                write(rows, given.out)


if __name__ == "__main__":
    main()
