"""Whether a method, a head, the modalities and the training fit together, and the reason if they do not.

Used by the plan, which knows entries of the catalogue, and by a run, which knows the objects. No torch at import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmzoo.errors import Incompatible
from mmzoo.training.config import Training, bent

if TYPE_CHECKING:
    from mmzoo.core.head import FusionHead
    from mmzoo.core.model import MultimodalModel
    from mmzoo.training.strategy import Strategy


@dataclass(frozen=True)
class Needs:
    """What a strategy requires; see `mmzoo.training.strategy.Strategy`.

    Args:
        name: the name in messages.
        requires: its `requires`.
        least: smallest number of modalities.
        most: largest number of modalities; None: any.
        single_process: why it trains in one process only; empty if it does not.
    """

    name: str
    requires: frozenset[str] = frozenset()
    least: int = 1
    most: int | None = None
    single_process: str = ""


#: what a strategy requires of a head -> what to do where the head lacks it, and says nothing itself (`FusionHead.cures`)
CURES: Mapping[str, str] = {
    "unimodal": "Use a head whose `how` is exact or slice: mmzoo list heads.",
    "additive": "Use a head that is additive: mmzoo list heads.",
    "evidence": "Use head evidential.",
    "staged": "Use a head that couples: mmzoo list heads.",
    "mean_gates": "Use such a head (channel): mmzoo list heads.",
}


@dataclass(frozen=True)
class HeadFacts:
    """What a head declares; see `mmzoo.core.head.FusionHead` for the fields."""

    name: str
    how: str = "ablated"
    additive: bool = False
    evidential: bool = False
    couples: bool = False
    mean_gates: bool = False
    cures: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def cure(self, what: str) -> str:
        """What to do where the head lacks what a strategy requires of it."""
        return self.cures.get(what, CURES[what])


def out_of_range(name: str, n: int, least: int = 1, most: int | None = None) -> Iterator[str]:
    """Why `name` does not support `n` modalities, given its smallest and largest number."""
    if n < least:
        yield f"{name} needs at least {least} modalities; there {'is' if n == 1 else 'are'} {n}."
    if most is not None and n > most:
        yield f"{name} is defined for at most {most} modalities, not {n}."


def unmet(needs: Needs, head: HeadFacts, n: int, *, processes: int) -> Iterator[str]:
    """Why a strategy cannot train a head with `n` modalities in this many processes."""
    name, asked = needs.name, needs.requires
    if needs.single_process and processes > 1:
        yield f"{name} trains in one process: {needs.single_process}."
    yield from out_of_range(name, n, needs.least, needs.most)
    if "unimodal" in asked and head.how == "ablated":
        yield f"{name} needs logits of each modality; head {head.name} has none. {head.cure('unimodal')}"
    if "additive" in asked and not head.additive:
        yield (
            f"{name} needs a head whose unimodal logits add up to the joint ones; head {head.name} is not one. "
            f"{head.cure('additive')}"
        )
    if "evidence" in asked and not head.evidential:
        yield (
            f"{name} needs a head that gives opinions (logits that are log alpha); head {head.name} does not. "
            f"{head.cure('evidence')}"
        )
    if "staged" in asked and not head.couples:
        yield f"{name} needs a head that acts between encoder stages; head {head.name} does not. {head.cure('staged')}"
    if "mean_gates" in asked and not head.mean_gates:
        yield (
            f"{name} needs a head with gates between encoder stages, whose running means can stand in for them; head "
            f"{head.name} has none. {head.cure('mean_gates')}"
        )


def unsuited(needs: Needs, training: Training) -> Iterator[str]:
    """Why a strategy cannot train under these settings."""
    if "plain_steps" in needs.requires and (options := bent(training)):
        yield f"{needs.name} as set follows the steps as they are taken: leave out {' and '.join(options)}."
    if "double_backward" in needs.requires and training.compile:
        yield f"{needs.name} differentiates its steps twice, which compiled encoders cannot: leave out train.compile."


def unsuited_head(head: HeadFacts, training: Training) -> Iterator[str]:
    """Why a head cannot be trained under these settings."""
    whole = [f"train.{k}" for k in ("micro_batch", "compile") if getattr(training, k)]
    if head.couples and whole:
        yield (
            f"head {head.name} acts between the stages of the encoders, so that they are not run one by one: leave "
            f"out {' and '.join(whole)}."
        )


def unsuited_device(training: Training, device: str) -> Iterator[str]:
    """Why these settings cannot be used on a device."""
    if training.tf32 and not device.startswith("cuda"):
        yield f"train.tf32 is a mode of CUDA GPUs, and this run is on {device}: leave it out."


# ---------------------------------------------------------------------- for a run
def check_requirements(
    name: str, strategy: Strategy, model: MultimodalModel, *, has_meta_set: bool, processes: int
) -> None:
    """Check that a model and its data have what a strategy requires.

    Args:
        name: the strategy's name in messages.
        strategy: the strategy.
        model: the model.
        has_meta_set: whether there is a meta set.
        processes: number of processes.

    Raises:
        Incompatible: something is missing; the message names it.
    """
    _refuse(unmet(_needs(name, strategy), _facts(model.head), len(model.modalities), processes=processes))
    asked = strategy.claims.requires
    if "equal_dims" in asked and len(set(model.head.dims.values())) > 1:
        raise Incompatible(f"{name} needs features of one width, but they have {model.head.dims}.")
    if "slice" in asked and not has_meta_set:
        raise Incompatible(
            f"{name} learns from a meta set (slice), and none was given. Pass slice=: labelled batches, as those of train, that "
            "the network is not trained on."
        )


def check_engine(name: str, strategy: Strategy, model: MultimodalModel, training: Training, device: str) -> None:
    """Check that the numerical settings suit strategy, head and device.

    Args:
        name: the strategy's name in messages.
        strategy: the strategy.
        model: the model.
        training: the settings.
        device: the device, e.g. "cuda:0".

    Raises:
        Incompatible: they do not; the message gives the reason.
    """
    _refuse(unsuited(_needs(name, strategy), training))
    _refuse(unsuited_head(_facts(model.head), training))
    _refuse(unsuited_device(training, device))


def _refuse(reasons: Iterable[str]) -> None:
    if (reason := next(iter(reasons), None)) is not None:
        raise Incompatible(reason)


def _needs(name: str, strategy: Strategy) -> Needs:
    claims = strategy.claims
    return Needs(name, claims.requires, claims.min_modalities, claims.max_modalities, claims.single_process)


def _facts(head: FusionHead) -> HeadFacts:
    declared = (head.how, head.additive, head.evidential, head.couples, head.mean_gates)
    return HeadFacts(type(head).__name__, *declared, cures=head.cures)
