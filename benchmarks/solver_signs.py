"""How often each solver of a learned alpha has the right sign, on problems whose true derivative is known.

    python benchmarks/solver_signs.py

Each problem has two encoders of one layer and a joint classifier (24 parameters, float64), a small ridge, cross-entropy and
InfoNCE on its own samples, and an upper loss on others. The inner problem is solved by Newton's method to a gradient of
1e-10 at a minimum (positive definite Hessian), at alpha and at alpha +- 1e-4 from there: the central difference of the upper
loss is the derivative of the true bi-level objective. Every solver is then asked at the minimum. A problem counts as clear
where the derivative exceeds CLEAR times the upper loss. One line a solver in results/solver_signs.csv: how many problems
are clear and in how many of them alpha should rise and fall, how often the solver was usable, how often a usable answer
had the right sign, separately where alpha should rise and where it should fall, and the median relative error of the value.
No data set is read; about twelve minutes of processor time.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian

from mmzoo.bilevel import Hypergradient, Inner, Solver, implicit_gradient
from mmzoo.functional import cosine_similarities, info_nce

RESULTS = Path(__file__).resolve().parent / "results" / "solver_signs.csv"
#: how large a derivative counts as clear, relative to the upper loss
CLEAR = 0.01
RIDGE = 0.01
STEP = 1e-4
SHAPES = ((3, 2), (3, 2), (4, 3))
#: name -> solver; the first one is that of `dynamic_gap_lb`
SOLVERS: Mapping[str, Solver] = {
    "hessian, no damping, else 0.03, 20 products": Solver("hessian", damping=0.0, fallback=0.03, iterations=20),
    "hessian, no damping, converged": Solver("hessian", damping=0.0, iterations=300, tol=1e-12),
    "hessian, damping 0.001, 10 products": Solver("hessian", damping=0.001),
    "hessian, damping 0.001, converged": Solver("hessian", damping=0.001, iterations=300, tol=1e-10),
    "hessian, damping 0.01, 10 products": Solver("hessian"),
    "hessian, damping 0.1, 10 products": Solver("hessian", damping=0.1),
    "gauss_newton, damping 0.001, 10 products": Solver(damping=0.001),
    "gauss_newton, damping 0.001, converged": Solver(damping=0.001, iterations=300, tol=1e-10),
    "gauss_newton, damping 0.01, 10 products": Solver(),
    "gauss_newton, damping 0.1, 10 products": Solver(damping=0.1),
    "neumann, damping 0.01, 100 terms": Solver(method="neumann", iterations=100),
    "identity": Solver("identity"),
}


@dataclass(frozen=True)
class Problem:
    """Samples of both levels, and a minimum of the inner loss at alpha."""

    x: Mapping[str, Tensor]
    target: Tensor
    held: Mapping[str, Tensor]
    held_target: Tensor
    alpha: float
    minimum: Tensor

    def outputs(self, leaves: Sequence[Tensor], rows: Mapping[str, Tensor]) -> list[Tensor]:
        a, v, joint = leaves
        z = {"a": torch.tanh(rows["a"] @ a), "v": torch.tanh(rows["v"] @ v)}
        return [torch.cat([z["a"], z["v"]], 1) @ joint, *cosine_similarities(z, 0.5), *leaves]

    def losses(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Both with the same ridge, which alpha does not weigh."""
        logits, similarities, *leaves = outputs
        ridge = RIDGE / 2 * torch.stack([p.square().sum() for p in leaves]).sum()
        return F.cross_entropy(logits, self.target) + ridge, info_nce([similarities]) + ridge

    def inner(self, flat: Tensor, alpha: float) -> Tensor:
        cls, mm = self.losses(self.outputs(unflattened(flat), self.x))
        return (1 - alpha) * cls + alpha * mm

    def upper(self, leaves: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(self.outputs(leaves, self.held)[0], self.held_target)

    def derivative(self) -> float:
        """The central difference of the upper loss at the inner minimum."""
        values = []
        for alpha in (self.alpha + STEP, self.alpha - STEP):
            at = newton(lambda v, alpha=alpha: self.inner(v, alpha), self.minimum)  # type: ignore[misc]
            assert at is not None
            values.append(float(self.upper(unflattened(at))))
        return (values[0] - values[1]) / (2 * STEP)

    def solved(self, solver: Solver) -> Hypergradient:
        leaves = [p.clone().requires_grad_() for p in unflattened(self.minimum)]
        return implicit_gradient(
            lambda: Inner(self.outputs(leaves, self.x), self.losses),
            lambda: self.upper(leaves),
            leaves,
            self.alpha,
            solver=solver,
        )


def unflattened(flat: Tensor) -> list[Tensor]:
    return [t.reshape(s) for t, s in zip(flat.split([a * b for a, b in SHAPES]), SHAPES)]


def newton(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 40) -> Tensor | None:
    """The minimum next to `start`, to a gradient of 1e-10; None where none is found.

    Newton steps with the absolute values of the curvatures, halved until the loss falls, and full steps at the end.
    """
    x, near = start, 0
    for _ in range(steps):
        g, h = grad(loss)(x), hessian(loss)(x)
        values, basis = torch.linalg.eigh(h)
        if near == 5:
            return x if float(g.norm()) < 1e-10 and float(values[0]) > 1e-6 else None
        direction = -basis @ ((basis.T @ g) / values.abs().clamp_min(1e-3))
        size = 1.0
        if float(g.norm()) < 1e-5:
            near += 1
        else:
            now = float(loss(x))
            while float(loss(x + size * direction)) > now and size > 1e-4:
                size /= 2
        x = x + size * direction
    return None


def problems(n: int) -> Iterator[Problem]:
    """n problems at inner minima, of alpha 0.1 to 0.9 and of samples with more and less signal."""
    found, seed = 0, 0
    while found < n:
        g = torch.Generator().manual_seed(seed)
        seed += 1
        alpha, signal = 0.1 + 0.2 * (seed % 5), 0.5 * (seed % 4)
        samples = []
        for items in (10, 12):
            target = torch.randint(3, (items,), generator=g)
            x = {m: torch.randn(items, 3, generator=g, dtype=torch.float64) for m in "av"}
            x = {m: v + signal * F.one_hot(target, 3) * (1.0 if m == "a" else 0.5) for m, v in x.items()}
            samples.append((x, target))
        start = 0.5 * torch.randn(24, generator=g, dtype=torch.float64)
        problem = Problem(*samples[0], *samples[1], alpha, start)
        minimum = newton(lambda v, p=problem: p.inner(v, p.alpha), start)  # type: ignore[misc]
        if minimum is not None:
            found += 1
            yield Problem(*samples[0], *samples[1], alpha, minimum)


def table(cases: Sequence[Problem]) -> list[dict[str, Any]]:
    """One line a solver."""
    truth = [p.derivative() for p in cases]
    clear = [abs(t) > CLEAR * float(p.upper(unflattened(p.minimum))) for p, t in zip(cases, truth)]
    lines = []
    for name, solver in SOLVERS.items():
        found = [p.solved(solver) for p in cases]
        kept = [(f, t) for f, t, c in zip(found, truth, clear) if c]
        used = [(f.value, t) for f, t in kept if f.usable]
        rises, falls = [v for v in used if v[1] < 0], [v for v in used if v[1] > 0]
        right = [sum((v > 0) == (t > 0) for v, t in group) for group in (rises, falls)]
        lines.append(
            {
                "solver": name,
                "problems": len(cases),
                "clear": len(kept),
                "alpha_should_rise": sum(t < 0 for _, t in kept),
                "alpha_should_fall": sum(t > 0 for _, t in kept),
                "usable": len(used),
                "right_sign": sum(right),
                "right_where_rises": f"{right[0]}/{len(rises)}",
                "right_where_falls": f"{right[1]}/{len(falls)}",
                "median_relative_error": f"{statistics.median(abs(v - t) / abs(t) for v, t in used):.2g}"
                if used
                else "",
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = table(list(problems(given.problems)))
    with given.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    csv.DictWriter(sys.stdout, list(lines[0]), delimiter="\t", lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main()
