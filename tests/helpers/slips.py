"""Strategies with a slip that their authors do not see: the check that catches it, the class, the line and the cure."""

from __future__ import annotations

START = "import torch\nfrom torch import nn\nfrom mmzoo.api import Strategy\n\n\nclass Mine(Strategy):\n"
#: name -> check, the class's body, the text of the line that is named, and a word of the cure
SLIPS = {
    "no step.here": (
        "check_rows_that_count",
        """
        def losses(self, step, out, terms):
            return {**terms, **{f"mine/{m}": step.loss(step.kept(z)) for m, z in out.unimodal.items()}}
        """,
        "step.loss(step.kept(z))",
        "step.here(m)",
    ),
    "no step.kept": (
        "check_rows_that_count",
        """
        def losses(self, step, out, terms):
            p = out.logits.softmax(-1)
            return {**terms, "mine/size": step.mean(p.square().sum(-1))}
        """,
        "step.mean(p",
        "step.kept(x)",
    ),
    "absent samples in a score": (
        "check_rows_that_count",
        """
        def gradients(self, step, out, grads):
            for m, z in out.unimodal.items():
                grads.scale(f"encoder:{m}", step.kept(z).detach().softmax(-1).max(1).values.mean())
        """,
        "def gradients",
        "step.here(m)",
    ),
    "values.mean()": (
        "check_processes",
        """
        def losses(self, step, out, terms):
            added = {}
            for m, z in out.unimodal.items():
                here, sizes = step.here(m), step.kept(z).square().sum(-1)
                rows = sizes if here is None else sizes[here]
                added[f"mine/{m}"] = rows.sum() / max(1, len(rows))
            return {**terms, **added}
        """,
        "def losses",
        "step.mean",
    ),
    "in place through detach": (
        "check_given_values",
        """
        def gradients(self, step, out, grads):
            for m, z in out.unimodal.items():
                z.detach().div_(2.0)
        """,
        "div_(2.0)",
        "new tensors",
    ),
    "in place through data": (
        "check_given_values",
        """
        def updated(self, step, out, terms):
            out.logits.data.clamp_(-1, 1)
        """,
        "clamp_",
        "new tensors",
    ),
    "in place by an index": (
        "check_given_values",
        """
        def predict(self, out):
            out.logits[:, 0] = 0.0
            return out
        """,
        "out.logits[:, 0] = 0.0",
        "new tensors",
    ),
    "a rate that stays": (
        "check_leftovers",
        """
        def epoch_end(self, run, metrics):
            run.set_lr_scale(f"encoder:{run.modalities[0]}", 0.5)
        """,
        "set_lr_scale",
        "window_end",
    ),
    "sampling that stays": (
        "check_leftovers",
        """
        def epoch_start(self, run):
            run.set_sampling(torch.arange(10))
        """,
        "set_sampling",
        "window_end",
    ),
    "weights that stay fixed": (
        "check_leftovers",
        """
        def epoch_start(self, run):
            for p in run.model.encoders[run.modalities[0]].parameters():
                p.requires_grad_(False)
        """,
        "def epoch_start",
        "requires_grad_(True)",
    ),
    "a weight with a gradient": (
        "check_factors",
        """
        def losses(self, step, out, terms):
            weight = 1.0 + step.mean(step.kept(out.logits).square().sum(-1)).tanh()
            return {**terms, "mine/again": weight * terms["task"]}
        """,
        "weight * terms",
        "weight.detach()",
    ),
    "weights of modalities with a gradient": (
        "check_factors",
        """
        def losses(self, step, out, terms):
            own = torch.stack([step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()])
            return {**terms, "mine/own": (own.softmax(0) * own).sum()}
        """,
        "own.softmax(0) * own",
        "detach",
    ),
    "a running mean with a graph": (
        "check_steps",
        """
        ema = 0.0
        def losses(self, step, out, terms):
            self.ema = 0.9 * self.ema + 0.1 * terms["task"]
            return {**terms, "mine/task": self.ema * 0.1}
        """,
        "self.ema = ",
        "detach()",
    ),
    "a list of graphs": (
        "check_memory",
        """
        def updated(self, step, out, terms):
            self.seen = {"losses": [*getattr(self, "seen", {"losses": []})["losses"], terms["task"] * 2]}
        """,
        'terms["task"] * 2',
        "detach()",
    ),
    "modules of its own": (
        "check_modules",
        """
        def setup(self, run):
            self.heads = {m: nn.Linear(e.out_dim, run.n_classes) for m, e in run.model.encoders.items()}
        def losses(self, step, out, terms):
            return {**terms, **{f"mine/{m}": step.loss(self.heads[m](step.kept(f))) for m, f in out.features.items()}}
        """,
        "def setup",
        "run.add_module",
    ),
    "a parameter of its own": (
        "check_modules",
        """
        def setup(self, run):
            self.scale = nn.Parameter(torch.ones(()))
        """,
        "def setup",
        "run.add_module",
    ),
    "a modality that is not there": (
        "check_steps",
        """
        def losses(self, step, out, terms):
            return {**terms, "mine/v": step.loss(step.kept(out.unimodal["video"]))}
        """,
        "def losses",
        "run.modalities",
    ),
    "a modality by its name": (
        "check_modality_names",
        """
        def gradients(self, step, out, grads):
            for m in step.run.modalities:
                if m == "audio":
                    grads.scale(f"encoder:{m}", 0.5)
        """,
        '"audio"',
        "run.modalities",
    ),
}
