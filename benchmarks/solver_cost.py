"""What one update of a learned alpha costs, in training steps and in memory, and how far it is from the exact solve.

    python benchmarks/solver_cost.py                      # both shapes, every solver: writes results/solver_cost.csv
    python benchmarks/solver_cost.py --shapes resnet18s --solvers identity --no-exact --add
    python benchmarks/solver_cost.py --count              # operations at batch 64: writes results/solver_flops.csv

Shapes: `resnet18s`, two ResNet18 as for CREMA-D (a spectrogram 1x257x299 and three frames 3x224x224), and
`bert_resnet50` (BERT-base on 64 word pieces, ResNet50 on one image 3x224x224); random weights. --size shrinks the sides
of images and spectrograms and the length of texts; each row says what went in. Data is generated, each class with a
mean of its own, and the models are trained for a few steps first, so that curvature and gradients are not those of
initial weights.

Each solver runs in a process of its own, on the same weights, and through the strategy as a bench would. `solve_s` is
the processor time (set OMP_NUM_THREADS=1) of all that it does around an epoch, and `steps` that time in plain training
steps at the same batch size, of which two are taken before and two after it: with one update in an epoch of 100 steps,
its share in per cent. For the tangent it is what 100 steps cost more, from the few that were taken (`settings`: every).
`peak_mb` is the most memory of the process above what a training step took, with the model, its gradients and the
optimizer's state in place. `direction` is what a normalised update steps along; its error is against conjugate
gradients over all parameters, on the first inner batch and the same upper ones, carried on for --exact products or to a
residual of 0.01, with the same relative damping; `reference` says how far it got. Where a solver sees another scope or
more batches, the error holds that too.

--count runs nothing: it counts the matrix products and convolutions of a plain step and of every part of a solve on
tensors without data, at the batch size of a real training run, and adds them up by the products that a solve makes at
most. There is no such count of the tangent, whose steps look at their own numbers.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "solver_cost.csv"
C = 6
WORDS = 64
WARM_STEPS = 4
#: the batch size at which operations are counted
COUNTED = 64


def solvers() -> dict[str, dict[str, Any]]:
    """name -> parameters of the strategy: the defaults of `dynamic_gap_lb`, and every solver over all parameters."""
    damped: dict[str, Any] = {"damping": 0.01, "upper_batches": 4}
    whole: dict[str, Any] = {**damped, "solver": "gauss_newton", "iterations": 5}
    last: dict[str, Any] = {"scope": "last", "upper_batches": 4}
    return {
        "dynamic_gap_lb": {**last, "solver": "hessian", "fallback": 0.03, "iterations": 20},
        "last, Gauss-Newton, two batches": {**whole, "scope": "last", "batches": 2, "iterations": 10},
        "heads": {**whole, "scope": "heads"},
        "identity": {**whole, "solver": "identity"},
        "gauss_newton": whole,
        "hessian": {**whole, "solver": "hessian"},
        "neumann": {**whole, "solver": "neumann"},
        "tangent": {"solver": "tangent", "upper_batches": 4, "every": 2},
    }


#: more of them, whose operations are counted and not timed
COUNT_ONLY: dict[str, dict[str, Any]] = {
    "gauss_newton, 10 products": {"solver": "gauss_newton", "iterations": 10, "upper_batches": 4},
    "thorough": {"solver": "hessian", "fallback": 0.03, "iterations": 30, "upper_batches": 8, "batches": 4},
    "three products, 16 items": {
        "solver": "gauss_newton",
        "items": 16,
        "iterations": 3,
        "upper_batches": 1,
    },
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


def forms_of(shape: str, size: float) -> dict[str, tuple[int, ...]]:
    """The shape of one item of each modality. size: the factor on sides and lengths."""

    def at(n: int) -> int:
        return max(1, round(size * n))

    if shape == "resnet18s":
        return {"audio": (1, at(257), at(299)), "video": (3, 3, at(224), at(224))}
    return {"text": (at(WORDS),), "image": (3, at(224), at(224))}


def batches(shape: str, batch: int, n: int, seed: int, size: float = 1.0) -> list[Any]:
    import torch

    from mmzoo import Batch

    g = torch.Generator().manual_seed(seed)
    rule = torch.Generator().manual_seed(1)
    forms = forms_of(shape, size)
    words = torch.randint(1000, 20000, (C, *forms.pop("text", (0,))), generator=rule)
    means = {m: torch.randn((C, *[1] * (len(s) - 2), 8, 8), generator=rule) for m, s in forms.items()}
    made = []
    for i in range(n):
        y = torch.randint(C, (batch,), generator=g)
        inputs = {}
        if words.numel():
            noise = torch.randint(1000, 20000, (batch, words.shape[1]), generator=g)
            inputs["text"] = torch.where(torch.rand(noise.shape, generator=g) < 0.3, words[y], noise)
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


def training() -> Any:
    from mmzoo.training.config import Training

    return Training(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, epochs=100)


def run_of(shape: str, batch: int, strategy: Any, size: float) -> Any:
    import torch

    from mmzoo import Run

    torch.manual_seed(0)
    train, held = (batches(shape, batch, 4, seed, size) for seed in (2, 3))
    return Run(model_of(shape), strategy, train=train, slice=held, training=training())


# ---------------------------------------------------------------------------------------------- one measurement
def prepare(weights: Path, shape: str, batch: int, size: float) -> dict[str, Any]:
    """Writes the weights that all solvers start from, the projections that a strategy adds included."""
    import torch

    from mmzoo.strategies.dynamic_gap import DynamicGap

    run = run_of(shape, batch, DynamicGap(schedule="constant", alpha=0.5), size)
    run.start_epoch()
    for data in batches(shape, batch, WARM_STEPS, 4, size):
        run.step(data)
    torch.save(run.model.state_dict(), weights)
    return {}


def measure(weights: Path, shape: str, batch: int, size: float, name: str) -> dict[str, Any]:
    """One row, in a process of its own."""
    import torch

    from mmzoo import Run
    from mmzoo.strategies.dynamic_gap import DynamicGap
    from mmzoo.strategies.plain import Plain

    settings = solvers()[name]
    run = run_of(shape, batch, DynamicGap(schedule="learned", alpha=0.5, **settings), size)
    data = batches(shape, batch, 1, 5, size)
    plain = Run(run.model, Plain(), train=data, training=training())
    plain.start_epoch()
    plain.step(data[0])  # the first one makes gradients and momentum
    steps = [_seconds(lambda: plain.step(data[0])) for _ in range(2)]
    before = _peak_mb()
    run.model.load_state_dict(torch.load(weights, weights_only=True, mmap=True))
    solve = _seconds(run.start_epoch)
    if name == "tangent":  # the derivative is taken after the last of the steps
        solve += sum(_seconds(lambda: run.step(data[0])) for _ in range(settings["every"]))
    else:
        solve += _seconds(run.end_epoch)
    peak = _peak_mb() - before
    logged = {k.partition("/")[2]: float(v[-1]) for k, v in run._logged.items() if k.startswith("dynamic_gap/")}
    plain.model.train()
    steps += [_seconds(lambda: plain.step(data[0])) for _ in range(2)]
    step = statistics.median(steps)
    if name == "tangent":
        solve = 100 / settings["every"] * (solve - settings["every"] * step)
    nan = float("nan")
    return {
        "shape": shape,
        "inputs": json.dumps({m: list(x.shape[1:]) for m, x in data[0].inputs.items()}),
        "batch": batch,
        "solver": name,
        "settings": json.dumps(settings),
        "step_s": round(step, 3),
        "solve_s": round(solve, 3),
        "steps": round(solve / step, 2),
        "peak_mb": round(peak),
        "direction": round(logged.get("direction", nan), 5),
        "hypergradient": logged.get("hypergradient", nan),
        "residual": round(logged.get("residual", nan), 4),
        "products": int(logged.get("products", 0)),
        "usable": bool(logged.get("usable", 0)),
    }


def exact(weights: Path, shape: str, batch: int, size: float, products: int) -> dict[str, Any]:
    """The same derivative by a solve that is carried far."""
    import torch
    import torch.nn.functional as F

    from mmzoo.bilevel import Inner, Mixing, Solver, frozen_statistics, implicit_gradient
    from mmzoo.functional import info_nce
    from mmzoo.strategies.dynamic_gap import DynamicGap

    strategy = DynamicGap(schedule="learned", alpha=0.5, items=None, upper_batches=4)
    run = run_of(shape, batch, strategy, size)
    run.model.load_state_dict(torch.load(weights, weights_only=True))
    inner = next(iter(run.train("dynamic_gap/inner")))

    def losses(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(given[0], inner.target), info_nce(given[1:])

    held = list(run.meta_batches("dynamic_gap/upper"))[:4]
    with frozen_statistics(run.model):
        found = implicit_gradient(
            lambda: Inner(matched(run.model, run.forward(inner, mode="eval")), losses),
            [lambda b=b: F.cross_entropy(run.forward(b, mode="eval").logits, b.target) for b in held],
            run.model,
            Mixing.of(0.5),
            solver=Solver(damping=strategy.damping, iterations=products, tol=1e-2),
            generator=run.generator("dynamic_gap/power"),
        )
    return {
        "direction": found.direction,
        "hypergradient": found.value,
        "reference": f"residual {found.residual:.2g} after {found.iterations} products",
    }


# ---------------------------------------------------------------------------------------------- operations
def count(shape: str, batch: int) -> list[dict[str, Any]]:
    """The operations of every solve at its most, in plain training steps. Nothing is computed."""
    import torch

    with torch.device("meta"):
        model = model_of(shape).eval()
        add_projections(model)
    data = {m: x[:1].to("meta").expand(batch, *x.shape[1:]) for m, x in batches(shape, 1, 1, 0)[0].inputs.items()}
    params = list(model.parameters())
    plain = _operations(lambda: torch.autograd.grad(model(data).logits.sum(), params, allow_unused=True))
    known: dict[tuple[Any, ...], dict[str, float]] = {}
    rows = []
    for name, given in {**{k: v for k, v in solvers().items() if k != "tangent"}, **COUNT_ONLY}.items():
        key = given.get("items", batch), given.get("scope", "all"), given["solver"]
        key = (*key[:2], key[2].replace("neumann", "gauss_newton"))
        part = known.setdefault(key, {}) or known[key]
        if not part:
            part |= {k: v / plain for k, v in parts_of(model, data, *key).items()}
        products = 0
        if given.get("fallback") is not None:  # two solves of MINRES, each with a product at its start and at its end
            products = 2 * (given["iterations"] + 2)
        elif key[2] != "identity":
            products = 6 + given["iterations"] + 1
        solve = part["inner"] + part.get("matrix", 0.0) + products * part.get("product", 0.0)
        steps = given.get("batches", 1) * solve + given["upper_batches"] * part["upper"]
        rows.append(
            {
                "shape": shape,
                "batch": batch,
                "solver": name,
                "settings": json.dumps(given),
                **{k: round(part.get(k, 0.0), 4) for k in ("inner", "upper", "matrix", "product")},
                "products": given.get("batches", 1) * products,
                "steps": round(steps, 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def parts_of(model: Any, data: Mapping[str, Any], items: int, scope: str, kind: str) -> dict[str, float]:
    """The operations of a forward with the gradients of both losses on `items` of a batch, of setting up the matrix,
    of one product with it, and of an upper batch."""
    import torch
    import torch.nn.functional as F

    from mmzoo.bilevel import flat_grad, gauss_newton_operator, hessian_operator, scoped_parameters
    from mmzoo.bilevel.curvature import moving_only
    from mmzoo.core.modes import double_backward
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
        found = {"inner": _operations(inner), "upper": _operations(upper)}
        if kind != "identity":
            vector = torch.empty(sum(p.numel() for p in params), device="meta")
            found["matrix"] = _operations(matrix)
            found["product"] = _operations(lambda: kept["product"](vector))
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


def _seconds(call: Callable[[], Any]) -> float:
    """The processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _operations(call: Callable[[], Any]) -> float:
    """The floating-point operations (matrix products and convolutions) of a call, backwards included."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    with Count() as count:
        call()
    return count.total


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------- all of them
def in_a_process(act: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `act` gives in a process of its own, whose peak of memory is its own too. It is forked from this one, which
    has imported everything and computed nothing."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(act, *arguments).result()


def import_all() -> None:
    """Before the first fork, so that no process spends its time on it."""
    for name in (
        "timm",
        "transformers",
        "mmzoo.strategies.dynamic_gap",
        "mmzoo.strategies.plain",
        "mmzoo.training.loop",
    ):
        importlib.import_module(name)


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


KEYS = ("shape", "inputs", "batch", "solver")


def write(rows: Sequence[Mapping[str, Any]], path: Path, *, add: bool = False) -> None:
    """add: keep what the file says of other shapes, sizes and solvers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if add and path.is_file():
        fresh = {tuple(str(r[k]) for k in KEYS) for r in rows}
        with path.open(encoding="utf-8", newline="") as file:
            rows = [*(r for r in csv.DictReader(file) if tuple(r[k] for k in KEYS) not in fresh), *rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        names = list(dict.fromkeys(k for r in rows for k in r))
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="resnet18s,bert_resnet50")
    parser.add_argument("--solvers", default=";".join(solvers()), help="separated by semicolons")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=float, default=1.0, help="factor on the sides of images and lengths of texts")
    parser.add_argument("--exact", type=int, default=20, help="most products of the solve that errors are against")
    parser.add_argument("--count", action="store_true", help="count operations instead, at batch 64")
    parser.add_argument("--no-exact", action="store_true", help="leave out the exact solve and the errors")
    parser.add_argument("--add", action="store_true", help="keep the other rows of the file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows: list[Mapping[str, Any]] = []
    if given.count:
        for shape in given.shapes.split(","):
            rows += count(shape, COUNTED)
        write(rows, RESULTS.with_name("solver_flops.csv") if given.out == RESULTS else given.out)
        return
    names = [n.strip() for n in given.solvers.split(";")]
    if unknown := set(names) - set(solvers()):
        parser.error(f"no solvers {sorted(unknown)}; there are: {'; '.join(solvers())}")
    import_all()
    for shape in given.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / "weights.pt", shape, given.batch, given.size
            in_a_process(prepare, *here)
            wanted = {} if given.no_exact else in_a_process(exact, *here, given.exact)
            print(f"{shape}: exact {wanted}", flush=True)
            for name in names:
                row = in_a_process(measure, *here, name)
                if wanted:
                    row |= {
                        "exact_direction": wanted["direction"],
                        "reference": wanted["reference"],
                        "error": round(abs(row["direction"] - wanted["direction"]), 5),
                    }
                rows.append({**row, "hardware": hardware()})
                print(row, flush=True)
                write(rows, given.out, add=given.add)


if __name__ == "__main__":
    main()
