"""The base class of training strategies: one object whose hooks take values and return values."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.core.values import Outputs, Pass
    from mmzoo.training.gradients import Grads
    from mmzoo.training.run import Run
    from mmzoo.training.step import Step

Terms = Mapping[str, Tensor]

#: The hooks and the arguments they are called with, in the order of a training pass.
HOOKS: Mapping[str, tuple[str, ...]] = {
    "setup": ("run",),
    "param_groups": ("groups",),
    "epoch_start": ("run",),
    "epoch_end": ("run", "metrics"),
    "window_end": ("run",),
    "plan": ("step", "passes"),
    "inputs": ("step", "inputs"),
    "features": ("step", "feats"),
    "outputs": ("step", "out"),
    "losses": ("step", "out", "terms"),
    "backward": ("step", "terms"),
    "gradients": ("step", "out", "grads"),
    "updated": ("step", "out", "terms"),
    "predict": ("out",),
    "finish": ("run",),
}
OWNABLE = frozenset({"task", "backward", "predict", "data", "finish"})
REQUIREMENTS = frozenset(
    {
        "unimodal",
        "additive",
        "evidence",
        "slice",
        "staged",
        "mean_gates",
        "double_backward",
        "plain_steps",
        "index",
        "equal_dims",
        "teachers",
    }
)


@dataclass(frozen=True)
class Group:
    """One named parameter group, before the optimizer exists.

    Args:
        params: its parameters.
        lr_scale: factor on the scheduled learning rate.
        weight_decay: weight decay.
    """

    params: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Claims:
    """All that a strategy declares about itself, as one value. `Strategy` documents the fields."""

    requires: frozenset[str]
    min_modalities: int
    max_modalities: int | None
    owns: frozenset[str]
    solo: bool
    single_process: str
    neutral: Mapping[str, Any] | None
    neutral_how: str
    cost: Mapping[str, float]
    stochastic: bool
    expected_failures: Mapping[str, str]


class Strategy:
    """Base of all strategies. Every hook returns its input unless overridden.

    Parameters are keyword-only arguments of `__init__`, stored as attributes of the same name. `state` names what is
    remembered from step to step. State changes only in setup, epoch_start, epoch_end, gradients and updated; a probe or
    a fork may call `inputs`, `features`, `outputs` and `losses` again.

    Class attributes declare properties of the method. If one depends on parameters, `__init__` sets an attribute of the
    same name. `claims` reads them as one value.

    Hooks receive these arguments:
        run: the `Run`: data, model, random streams, forwards outside the pass.
        step: the `Step`: the batch in its pass.
        groups: name -> `Group`, all parameters by named group.
        metrics: name -> score on the meta set, over all processes; empty unless `requires` names `slice`.
        passes: the passes planned for a batch.
        inputs: modality -> (B, ...), the inputs of the encoders.
        feats: modality -> (B, D_m), the features of the modalities that the pass feeds.
        out: the `Outputs`: joint and unimodal logits (B, C).
        terms: name -> scalar, the loss terms; their sum is minimised.
        grads: the `Grads`: gradients by named group.
    """

    #: what the method needs: any of REQUIREMENTS. double_backward: a training step is differentiated twice, so that its
    #: attention is that of mmzoo.bilevel.double_backward and no encoder is compiled; what is differentiated twice apart from
    #: the steps needs no mark. plain_steps: it follows the steps, and `bent` of mmzoo.training.config is refused.
    requires: frozenset[str] = frozenset()
    min_modalities: int = 1
    max_modalities: int | None = None
    #: what the method replaces rather than adds to: any of OWNABLE. Two owners of one thing cannot be chained.
    owns: frozenset[str] = frozenset()
    #: whether it is the whole of a method: neither chained with another nor put in a window
    solo: bool = False
    #: why several processes cannot train under it together, in words that end a sentence; empty where they can
    single_process: str = ""
    #: parameter values at which it equals plain training ("exact": bit for bit; "close": up to rounding), or None
    neutral: Mapping[str, Any] | None = None
    neutral_how: str = "exact"
    #: whole-model forwards and backwards a batch, on top of nothing (plain training: 1 and 1); what is done once an
    #: epoch instead goes under "forward_epoch" and "backward_epoch", and how often an epoch the whole meta set is gone
    #: through under "slice", how often in the whole run beside that under "slice_run"; how often
    #: all labelled samples are gone through in `finish` under "finish". Methods that compare sets of
    #: modalities (Run.coalitions) count one set in "forward" and "backward", which is all of them with most heads;
    #: "forward_coalition" and "backward_coalition" are what each of the other 2^M - 3 sets takes where the head acts
    #: between the stages of the encoders.
    cost: Mapping[str, float] = {"forward": 1, "backward": 1}
    #: the attributes that make up the state: tensors, numbers, strings and containers of them
    state: tuple[str, ...] = ()
    #: whether it draws random numbers for positions in a batch or among the parameters, so that reordering
    #: modalities or samples gives another, equally valid result
    stochastic: bool = False
    #: contract check -> why it cannot hold, by design of the method. Such a check runs all the same, and one that
    #: passes is a failure (mmzoo.testing).
    expected_failures: Mapping[str, str] = {}

    @property
    def claims(self) -> Claims:
        """What this strategy declares about itself with its present parameters."""
        return Claims(**{name: getattr(self, name) for name in CLAIMED})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(member):
                _check_hook(cls, name, member)
        for claim, known in (("requires", REQUIREMENTS), ("owns", OWNABLE)):
            if extra := set(getattr(cls, claim)) - known:
                raise TypeError(f"{cls.__name__}.{claim} has {sorted(extra)}; known are {sorted(known)}.")

    # 1-4: once, and around an epoch
    def setup(self, run: Run) -> None:
        """Called once, before the optimizer exists. May add modules and ask for teachers; must not train the model.

        On resume the state is already loaded, so that a method whose parameters grow adds them here.
        """

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        """Called once. May change learning-rate scale and weight decay by named group; must not drop a group."""
        return groups

    def epoch_start(self, run: Run) -> None:
        """Called before each epoch. May change own state and call run.edit, set_sampling, set_lr_scale, add_module."""

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Called after each epoch with the metrics on the meta set. May change own state."""

    def window_end(self, run: Run) -> None:
        """Called after `epoch_end` of the last epoch of a Window: revert what would outlast it (run.set_lr_scale)."""

    # 5-12: in each pass
    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        """Called for each batch: split, restrict or flag the passes."""
        return passes

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Called before the encoders: mix, mask or perturb inputs, not in place. Returns every modality."""
        return inputs

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Called after the encoders: drop or mix features, not in place; may set `step.keep`."""
        return feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        """Called after the head: replace both logits and unimodal, or later parts of a chain do not see the change."""
        return out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        """Called for the loss: add terms named `<strategy>/<what>`; scale or replace only what is owned."""
        return terms

    def backward(self, step: Step, terms: Terms) -> None:
        """Accumulates gradients (owner of `backward` only). Default: those of the sum of all terms."""
        step.run.backward(sum(terms.values()))  # type: ignore[arg-type]

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        """Called after backward and the average over processes, before clipping: change `.grad` through Grads."""

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        """Called after the optimizer step: change own state."""

    # 13: evaluation only
    def predict(self, out: Outputs) -> Outputs:
        """The decision rule (owner of `predict` only): the outputs with another `ranking`."""
        return out

    # 13: after training
    def finish(self, run: Run) -> Iterator[str]:
        """Called after the last epoch (owner of `finish` only): a generator that changes weights or own state in place.

        Each time it yields a name, the present model is scored on the validation set, which no hook sees. The best
        candidate is kept; ties go to the lower loss, then to the earlier one. The first call starts from the weights of
        the selected epoch, a second call from those of the last epoch if that is another one. Yield once before any
        change to let the result of training compete. `run.collect` gives the model's outputs for all labelled samples.
        """
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """A copy of the attributes that `state` names."""
        return {name: copy.deepcopy(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`.

        Raises:
            BadValue: its keys are not those of this strategy.
        """
        if set(state) != set(self.state):
            raise BadValue(f"state of {type(self).__name__} has {sorted(state)}; expected {sorted(self.state)}.")
        for name, value in state.items():
            setattr(self, name, copy.deepcopy(value))

    def params(self) -> dict[str, Any]:
        """The constructor's parameters with their present values."""
        init: Any = type(self).__init__
        names = () if init is object.__init__ else inspect.signature(init).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.params().items())})"


#: the names of all claims
CLAIMED = tuple(f.name for f in fields(Claims))
_OWN_METHODS = {"state_dict", "load_state_dict", "params"}
_PREFIXES = ("on_", "before_", "after_", "compute_", "get_")


def _check_hook(cls: type, name: str, member: Any) -> None:
    """Refuse a misspelt hook, or a hook with other arguments, when the class is made."""
    if name in HOOKS:
        given = tuple(inspect.signature(member).parameters)[1:]
        if given != HOOKS[name]:
            raise TypeError(
                f"{cls.__name__}.{name}({', '.join(given)}): the hook is called as {name}({', '.join(HOOKS[name])})."
            )
        return
    if name in _OWN_METHODS:
        return
    bare = name
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    synonyms = {"epoch_begin": "epoch_start", "loss": "losses", "grad": "gradients", "grads": "gradients"}
    close = [synonyms[bare]] if bare in synonyms else difflib.get_close_matches(bare, list(HOOKS), 1, cutoff=0.75)
    if close:
        raise TypeError(
            f"{cls.__name__}.{name} is not a hook and would never be called. Did you mean {close[0]!r}? "
            "Give a helper that only looks like a hook a leading underscore."
        )
