"""ReconBoost: boosting over modalities, one learner at a time against the ensemble of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmzoo.api import Incompatible, Outputs, Pass, Run, Step, Strategy, Terms


def ensemble(unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
    """(B, C) the sum of the logits of the modalities that a sample has.

    Args:
        unimodal: modality -> (B, C).
        present: modality -> (B,) bool; None: all.
    """
    parts = [z if present is None else torch.where(present[m][:, None], z, 0.0) for m, z in unimodal.items()]
    return torch.stack(parts).sum(0)


def boosting_losses(logits: Tensor, others: Tensor, target: Tensor, own: float = 5.0, residual: float = 1.0) -> Tensor:
    """(B,) -(own - residual q[y]) log p[y] / C with p = softmax(logits), q = softmax(others) without a gradient.

    The better the others predict a sample, the less it counts. 1/C comes from the authors' mean over classes.

    Args:
        logits: (B, C).
        others: (B, C), the sum of the others' logits.
        target: (B,).
        own: factor of the own loss.
        residual: factor of q[y].
    """
    log_p = logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    q = others.detach().softmax(-1).gather(1, target[:, None]).squeeze(1)
    return -(own - residual * q) * log_p / logits.shape[1]


def disagreements(logits: Tensor, others: Tensor) -> Tensor:
    """(B,) the mean over classes of (softmax(logits) - softmax(others))^2, without a gradient through the others.

    Args:
        logits: (B, C).
        others: (B, C).
    """
    return (logits.softmax(-1) - others.detach().softmax(-1)).square().mean(-1)


class _Rate(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


class ReconBoost(Strategy):
    """Boosting over modalities: one learner at a time against the ensemble of the others (Hua et al., ICML 2024).

    Training proceeds in stages, one modality u after the other and round again. For `alone` epochs only u's encoder and
    its part of the head are trained, on `boosting_losses` plus agreement * mean disagreement with the sum of the
    others' logits; the others are in eval mode. For `joint` epochs everything is trained on the cross-entropy of rate *
    sum_m logits_m, with a learned rate. Both start with an empty optimizer state; the learning rate follows the run's
    schedule. Predictions use rate * sum_m logits_m. The paper was not available: that the agreement refers to the sum
    of the others is inferred from the code.

    Args:
        alone: epochs of single training per stage.
        joint: epochs of joint training per stage.
        own: factor of the own loss.
        residual: factor of the others' prediction.
        agreement: factor of the disagreement.
        agreement_form: "live" (default) lets the gradient reach u. "detached" is the authors' code, in which both sides
            of the agreement are cut off from the graph, so that the term has no effect.
        rate: initial value of the learned rate.

    Raises:
        Incompatible: in setup, the head's unimodal logits are slices of a joint classifier.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"task", "predict"})
    min_modalities = 2
    state = ("scale",)
    expected_failures = {"check_modality_order": "modalities take turns in the data's order"}  # noqa: RUF012

    def __init__(
        self,
        *,
        alone: int = 4,
        joint: int = 4,
        own: float = 5.0,
        residual: float = 1.0,
        agreement: float = 0.5,
        agreement_form: Literal["live", "detached"] = "live",
        rate: float = 1.0,
    ) -> None:
        self.alone = alone
        self.joint = joint
        self.own = own
        self.residual = residual
        self.agreement = agreement
        self.agreement_form = agreement_form
        self.rate = rate
        self.scale = torch.tensor(float(rate))

    def setup(self, run: Run) -> None:
        head = run.model.head
        if head.how == "slice":
            raise Incompatible(
                f"ReconBoost trains each modality's own logits, and those of head {type(head).__name__} are slices of a joint "
                f"classifier with a share of its bias. {head.cures.get('own', 'Take the head sum or shared.')}"
            )
        run.add_module("reconboost", lambda: _Rate(self.rate))
        self.scale = self.scale.to(run.device)

    def epoch_start(self, run: Run) -> None:
        if run.epoch % (self.alone + self.joint) in (0, self.alone):
            run.reset_optimizer(run.model.groups())

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        learner = self._learner(step.run)
        if learner is None:
            return passes
        rest = frozenset(step.run.modalities) - {learner}
        return [
            replace(p, name=f"{p.name}/{learner}", freeze=p.freeze | rest)
            for p in passes
            if learner in p.fed(step.run.modalities)
        ]

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return out.replace(logits=_rate(step.run) * ensemble(out.unimodal, out.present))

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        learner = self._learner(step.run)
        if learner is None:
            return terms
        logits, target, here = step.kept(out.unimodal[learner]), step.target, step.here(learner)
        rest = {m: z.detach() for m, z in out.unimodal.items() if m != learner}
        others = step.kept(ensemble(rest, out.present)) if rest else torch.zeros_like(logits)
        each = boosting_losses(logits, others, target, self.own, self.residual)
        apart = disagreements(logits if self.agreement_form == "live" else logits.detach(), others)
        each = each + self.agreement * apart
        return {**terms, "task": step.mean(each, here)}

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        self.scale = _rate(step.run).detach().clone()
        step.run.log("reconboost/rate", self.scale)

    def predict(self, out: Outputs) -> Outputs:
        return out.replace(logits=self.scale.to(out.logits) * ensemble(out.unimodal, out.present), ranking=None)

    def _learner(self, run: Run) -> str | None:
        """The modality that learns alone in this epoch; None where all learn together."""
        stage, at = divmod(run.epoch, self.alone + self.joint)
        return run.modalities[stage % len(run.modalities)] if at < self.alone else None


def _rate(run: Run) -> Tensor:
    return run.model.extra["reconboost"].value  # type: ignore[return-value]
