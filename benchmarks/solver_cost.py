"""What one update of a learned alpha costs, in training steps and in memory, and how far it is from the exact solve.

    python benchmarks/solver_cost.py                      # both shapes, every solver: writes results/solver_cost.csv
    python benchmarks/solver_cost.py --shapes resnet18s --solvers default,identity --no-exact

Shapes: `resnet18s`, two ResNet18 as for CREMA-D (a spectrogram 1x257x299 and three frames 3x224x224), and
`bert_resnet50` (128 word pieces and one image 3x224x224). Data is generated, each class with a mean of its own, and
the models are trained for a few steps first, so that curvature and gradients are not those of initial weights.

Each solver runs in a process of its own, on the same weights, and through the strategy as a bench would: `solve_s` is
the time of what it does around an epoch (start and end), `steps` that time in plain training steps of the same batch
size, measured in the same process before and after (processor time, which other work on the machine hardly touches), and `percent` their share of an epoch of 100 steps. `peak_mb` is
the most memory of the process above what training a step took. `direction` is what a normalised update steps along;
its error is against conjugate gradients on all items of the same batches to a residual of 1e-4 (`exact`), with the
same relative damping.
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
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "solver_cost.csv"
C = 6
WARM_STEPS = 8


def solvers(batch: int) -> dict[str, dict[str, Any]]:
    """name -> parameters of the strategy, from the default on."""
    whole = {"items": None, "upper_batches": 4}
    return {
        "default": {"items": max(2, batch // 4), "iterations": 3, "upper_batches": 1},
        "thorough": {**whole, "iterations": 30},
        "gauss_newton": {**whole, "iterations": 10},
        "hessian": {**whole, "solver": "hessian", "iterations": 10},
        "neumann": {**whole, "solver": "neumann", "iterations": 10},
        "identity": {**whole, "solver": "identity"},
        "last stage": {**whole, "iterations": 10, "scope": r"pattern:layer4|layer\.11\.|^head"},
        "heads": {**whole, "iterations": 10, "scope": "heads"},
        "tangent": {"solver": "tangent", "upper_batches": 4, "every": 4},
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
    words = torch.randint(1000, 20000, (C, 128), generator=rule)
    made = []
    for i in range(n):
        y = torch.randint(C, (batch,), generator=g)
        inputs = {}
        if shape != "resnet18s":
            noise = torch.randint(1000, 20000, (batch, 128), generator=g)
            inputs["text"] = torch.where(torch.rand(batch, 128, generator=g) < 0.3, words[y], noise)
        for m, s in forms.items():
            blurred = torch.nn.functional.interpolate(means[m][y].flatten(1, -3), size=s[-2:], mode="bilinear")
            inputs[m] = torch.randn((batch, *s), generator=g) + blurred.reshape((batch, *[1] * (len(s) - 2), *s[-2:]))
        made.append(Batch(inputs, y, torch.arange(batch) + i * batch))
    return made


def run_of(shape: str, batch: int, strategy: Any) -> Any:
    import torch

    from mmzoo import MultimodalModel, Run
    from mmzoo.heads.concat import Concat
    from mmzoo.training import Training

    torch.manual_seed(0)
    encs = encoders(shape)
    model = MultimodalModel(encs, Concat({m: e.out_dim for m, e in encs.items()}, C))
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

    settings = solvers(batch)[name]
    strategy = DynamicGap(schedule="learned", alpha=0.5, **settings)
    run = run_of(shape, batch, strategy)
    state = torch.load(weights, weights_only=True)
    data = batches(shape, batch, 1, 5)[0]

    def plain_steps(n: int) -> list[float]:
        """Seconds of each plain step, from the kept weights and with them put back."""
        from mmzoo.strategies.plain import Plain

        plain = run_of(shape, batch, Plain())
        plain.model.load_state_dict(state)
        plain.start_epoch()
        return [_seconds(lambda: plain.step(data)) for _ in range(n + 1)][1:]

    steps = plain_steps(2)
    before = _peak_mb()
    run.model.load_state_dict(state)
    if name == "tangent":
        run.start_epoch()
        taken = [_seconds(lambda: run.step(data)) for _ in range(settings["every"])]
        solve, per_step = taken[-1] - statistics.median(taken[:-1]), statistics.median(taken[:-1])
    else:
        solve, per_step = _seconds(run.start_epoch) + _seconds(run.end_epoch), float("nan")
    peak = _peak_mb() - before
    steps += plain_steps(2)
    step = statistics.median(steps)
    logged = {k.partition("/")[2]: v[-1] for k, v in run._logged.items() if k.startswith("dynamic_gap/")}
    return {
        "shape": shape, "batch": batch, "solver": name, "settings": json.dumps(settings), "step_s": round(step, 3),
        "solve_s": round(solve, 3), "steps": round(solve / step, 2),
        "percent": round(100 * (per_step / step - 1), 1) if name == "tangent" else round(solve / step, 2),
        "peak_mb": round(peak), "direction": float(logged.get("direction", "nan")),
        "hypergradient": float(logged.get("hypergradient", "nan")), "residual": float(logged.get("residual", "nan")),
        "products": int(logged.get("products", 0)), "usable": bool(logged.get("usable", 0)),
    }  # fmt: skip


def exact(shape: str, batch: int, weights: Path) -> dict[str, Any]:
    """The same derivative by a solve that is carried to the end."""
    import torch
    import torch.nn.functional as F

    from mmzoo.autodiff import Inner, Mixing, Solver, frozen_statistics, implicit_gradient
    from mmzoo.functional import cosine_similarities, info_nce
    from mmzoo.strategies.dynamic_gap import DynamicGap

    strategy = DynamicGap(schedule="learned", alpha=0.5, items=None, upper_batches=4)
    run = run_of(shape, batch, strategy)
    run.model.load_state_dict(torch.load(weights, weights_only=True))
    inner = next(iter(run.train("dynamic_gap/inner")))

    def outputs(data: Any) -> list[torch.Tensor]:
        out = run.forward(data, mode="eval")
        features = dict(out.features)
        if "dynamic_gap" in run.model.extra:
            features = {m: run.model.extra["dynamic_gap"][m](z) for m, z in features.items()}
        return [out.logits, *cosine_similarities(features, strategy.temperature, None, strategy.floor)]

    def losses(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(given[0], inner.target), info_nce(given[1:])

    held = list(run.strategy_holdout("dynamic_gap/upper"))[:4]
    with frozen_statistics(run.model):
        found = implicit_gradient(
            lambda: Inner(outputs(inner), losses),
            [lambda b=b: F.cross_entropy(run.forward(b, mode="eval").logits, b.target) for b in held], run.model,
            Mixing.of(0.5), solver=Solver(damping=strategy.damping, iterations=200, tol=1e-4, power_iterations=(20, 20)),
            generator=run.generator("dynamic_gap/power"),
        )  # fmt: skip
    return {"direction": found.direction, "hypergradient": found.value, "residual": found.residual,
            "products": found.products, "lambda_max": found.lambda_max}  # fmt: skip


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


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
    parser.add_argument("--solvers", default=",".join(solvers(4)))
    parser.add_argument("--batch", default="16,8", help="batch size of each shape")
    parser.add_argument("--no-exact", action="store_true", help="leave out the exact solve and the errors")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=4, metavar=("SHAPE", "BATCH", "SOLVER", "WEIGHTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        shape, batch, name, weights = given.one
        act = {"prepare": prepare, "exact": exact}.get(name)
        row = act(shape, int(batch), Path(weights)) if act else measure(shape, int(batch), name, Path(weights))
        print(json.dumps(row))
        return
    rows: list[Mapping[str, Any]] = []
    names = [n.strip() for n in given.solvers.split(",")]
    for shape, batch in zip(given.shapes.split(","), given.batch.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            weights = str(Path(folder) / "weights.pt")
            in_a_process(shape, batch, "prepare", weights)
            wanted = {} if given.no_exact else in_a_process(shape, batch, "exact", weights)
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
