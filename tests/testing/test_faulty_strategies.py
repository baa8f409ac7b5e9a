"""Each check of a strategy catches the fault that it is there for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.catching import is_caught
from helpers.faulty_finishes import DrawsAfterTraining, FinishesNothing, FinishesOnce
from helpers.faulty_strategies import (
    AloneOnly,
    BatchRanking,
    BrokenGradients,
    ClassMean,
    CompleteItems,
    Converted,
    Costly,
    CountingLosses,
    CountsPredictions,
    Detached,
    Deviation,
    DrawingOutputs,
    DrawsFromNumpy,
    DrawsInGradients,
    Dropping,
    EveryModality,
    Exponential,
    FillsGradients,
    FirstItem,
    FirstModality,
    ForgetfulOutputs,
    ForkedState,
    GradModeOff,
    HiddenState,
    InPlaceFeatures,
    InputNorm,
    Lists,
    LiveState,
    MovesWeights,
    MovingStatistics,
    NotANumber,
    NotNeutral,
    OwnBackward,
    Peeking,
    PeekingCopy,
    Positional,
    RankedByNorm,
    SharedContainer,
    Smuggled,
    TrainsInSetup,
    TwoOnly,
    Unkept,
    Unowned,
    UnownedRanking,
    Unprefixed,
    UnsavableState,
    Vector,
    Waits,
    WrongDeclaration,
)
from helpers.peeking_strategies import (
    LooksAtAllFrames,
    LooksAtCallers,
    LooksAtObjects,
    LooksAtReferrers,
    LooksAtTracebacks,
    LooksByAnotherProgram,
    LooksIntoResults,
    LooksIntoStores,
    LooksUpTheStack,
    MapsAsStorage,
    MapsStores,
    MapsUnderItsOwnName,
    ReadsTest,
)
from helpers.slips import SLIPS
from torch import Tensor

from mmzoo.api import Strategy
from mmzoo.registry import user_classes
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.testing import check_strategy
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.report import CHECKS

DRAWS = 4
FAULTS: Sequence[tuple[str, type[Strategy], str]] = [
    ("check_construction", Positional, "alpha is not"),
    ("check_construction", Unkept, "no attribute alpha"),
    ("check_construction", Converted, "0.6 against 1.2"),
    ("check_construction", SharedContainer, "same object as seen"),
    ("check_construction", WrongDeclaration, "neutral names 'beta'"),
    ("check_neutral", NotNeutral, "differs by up to"),
    ("check_resume", HiddenState, "not in its state: steps"),
    ("check_state", LiveState, "total differs by up to 3"),
    ("check_state", UnsavableState, "torch.load(weights_only=True) refuses it"),
    ("check_fork", ForkedState, "strategy.counts"),
    ("check_isolation", Peeking, "holds holdout"),
    ("check_isolation", PeekingCopy, "a copy of test features"),
    ("check_tripwire", LooksAtObjects, "it looks at gc.get_objects (peeking_strategies.py:"),
    ("check_tripwire", LooksAtReferrers, "it looks at gc.get_referrers"),
    ("check_tripwire", LooksUpTheStack, "it looks at the frames of its callers"),
    ("check_tripwire", LooksAtCallers, "it looks at the frames of its callers"),
    ("check_tripwire", LooksAtTracebacks, "(tb_frame)"),
    ("check_tripwire", LooksIntoStores, "it looks at the file or folder"),
    ("check_tripwire", LooksIntoResults, "predictions.npz"),
    ("check_tripwire", LooksAtAllFrames, "it looks at sys._current_frames"),
    ("check_tripwire", MapsStores, "index.csv (peeking_strategies.py:"),
    ("check_tripwire", MapsUnderItsOwnName, "index.csv (peeking_strategies.py:"),
    ("check_tripwire", MapsAsStorage, "index.csv (peeking_strategies.py:"),
    ("check_tripwire", LooksByAnotherProgram, "by another program"),
    ("check_imports", ReadsTest, "ReadsTest uses mmzoo.data.datasets.mfeat"),
    ("check_cost", Costly, "it took 9"),
    ("check_cost", Smuggled, "it took 9"),
    ("check_modalities", TwoOnly, "not enough values to unpack"),
    ("check_purity", InPlaceFeatures, "edited in place: feature audio, feature image"),
    ("check_purity", CountingLosses, "calls"),
    ("check_purity", DrawingOutputs, "logits differs"),
    ("check_purity", MovingStatistics, "running_mean differs"),
    ("check_purity", GradModeOff, "grad mode: True against False"),
    ("check_terms", NotANumber, "extra/value is nan"),
    ("check_terms", Vector, "extra/value is not"),
    ("check_terms", Dropping, "'company/size' is gone"),
    ("check_terms", Unowned, "task"),
    ("check_terms", Unprefixed, "added 'size'"),
    ("check_terms", Detached, "no gradient"),
    ("check_gradients", MovesWeights, "head.bias differs"),
    ("check_gradients", BrokenGradients, "not finite: head.bias"),
    (
        "check_no_waiting",
        Waits,
        "`losses` leaves the values of tensors where they are\nseen: it uses a number taken out",
    ),
    ("check_no_waiting", Lists, "it uses tolist"),
    ("check_random_streams", DrawsInGradients, "random state changed: torch"),
    ("check_random_streams", DrawsFromNumpy, "random state changed: numpy"),
    ("check_frozen", FillsGradients, "audio: "),
    ("check_prediction", BatchRanking, "differs by up to"),
    ("check_prediction", UnownedRanking, "row sums"),
    ("check_prediction", CountsPredictions, "predictions: "),
    ("check_modality_order", FirstModality, "in the order"),
    ("check_sample_order", FirstItem, "differs by up to"),
    ("check_micro_batches", OwnBackward, "differs by up to"),
    ("check_batch_of_one", Deviation, "not finite"),
    ("check_missing_classes", ClassMean, "not finite"),
    ("check_zero_inputs", InputNorm, "not finite"),
    ("check_large_logits", Exponential, "not finite"),
    ("check_absent_modalities", CompleteItems, "not finite"),
    ("check_company", AloneOnly, "exactly like the companion strategy"),
    ("check_company", Dropping, "exactly like this strategy by itself"),
    ("check_company", ForgetfulOutputs, "exactly like this strategy by itself"),
    ("check_alternating_company", EveryModality, "KeyError"),
    ("check_window", TrainsInSetup, "differs by up to"),
    ("check_finish", DrawsAfterTraining, "torch differs"),
    ("check_finish", FinishesNothing, "yielded nothing"),
    ("check_finish", FinishesOnce, "logits"),
    ("check_ablations", RankedByNorm, "with none kept the model's answers are not finite"),
]


@pytest.mark.filterwarnings("ignore:(var|std)\\(\\). degrees of freedom")
@pytest.mark.parametrize(("check", "cls", "seen"), FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_strategy_is_caught(check: str, cls: type[Strategy], seen: str) -> None:
    is_caught(check_strategy(cls, only=[check], draws=DRAWS, raise_failures=False), check, seen)


@pytest.mark.parametrize("folder", ["", "package"])
def test_what_a_module_reads_when_it_is_imported_is_caught(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    text = "import sys\nfrom pathlib import Path\nfrom mmzoo.api import Strategy\n"
    text += "DATA = (Path(sys.modules['mmzoo'].__file__).parent / 'data/datasets/mfeat.npz').read_bytes()\n"
    if folder:
        (place / "__init__.py").touch()
        (place / "beside.py").touch()
        text = "from . import beside\n" + text
    (place / "at_import.py").write_text(text + "class AtImport(Strategy):\n    'Reads all.'\n")
    monkeypatch.syspath_prepend(tmp_path)
    if folder:
        cls = importlib.import_module("package.at_import").AtImport
    else:
        cls = user_classes.load(str(place / "at_import.py"), "AtImport")
    is_caught(
        check_strategy(cls, only=["check_tripwire"], raise_failures=False), "check_tripwire", "mfeat.npz (at_import.py:"
    )
    assert sys.modules[cls.__module__].AtImport is cls


@pytest.mark.parametrize(
    ("check", "broken", "cls"),
    [
        ("check_requirements", "mmzoo.training.run.check_requirements", JointUnimodal),
        ("check_owners", "mmzoo.training.composition.check_owners", DynamicGap),
    ],
)
def test_a_refusal_that_does_not_come_is_caught(
    check: str, broken: str, cls: type[Strategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, lambda *args, **kwargs: None)
    is_caught(check_strategy(cls, only=[check], raise_failures=False), check, "")


@pytest.mark.parametrize(
    ("do", "seen"),
    [
        (lambda x, y: x.sum().item(), "a number"),
        (lambda x, y: float(x.detach().sum()), "a number"),
        (lambda x, y: 1 if x.sum() > 0 else 2, "a number"),
        (lambda x, y: x.cpu(), "cpu"),
        (lambda x, y: x.detach().numpy(), "numpy"),
        (lambda x, y: x[y > 0], "nonzero"),
        (lambda x, y: x.index_put((y > 0,), x[:2]), "nonzero"),
        (lambda x, y: torch.equal(x, x), "torch.equal"),
        (lambda x, y: torch.bincount(y, minlength=3), "bincount"),
        (lambda x, y: F.one_hot(y), "a number"),
        (lambda x, y: x.repeat_interleave(y, 0), "repeat_interleave"),
        (lambda x, y: x.new_zeros(2).tolist(), "tolist"),
        (lambda x, y: F.cross_entropy(x, y).backward(), None),
        (lambda x, y: F.one_hot(y, 3), None),
        (lambda x, y: x[[0, 1]] + torch.where(x > 0, x, 0.0)[:2], None),
        (lambda x, y: x.index_put((y > 0,), x.sum()), None),
        (lambda x, y: bool(torch.rand(()) < 0.5), None),
        (lambda x, y: ["abc"[i] for i in torch.randperm(3)] and torch.tensor([0.5]).tolist(), None),
    ],
)
def test_what_a_gpu_would_have_to_wait_for(do: Callable[[Tensor, Tensor], Any], seen: str | None) -> None:
    x, y = torch.ones(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    with Reads() as reads:
        do(x, y)
    assert reads.found == [] if seen is None else [f for f in reads.found if f.startswith(seen)]


def test_every_strategy_check_has_caught_a_fault() -> None:
    tried = {check for check, _, _ in FAULTS} | {"check_requirements", "check_owners"}
    tried |= {"check_processes", "check_other_device"}  # in test_ranks, test_fake_device
    tried |= {check for check, *_ in SLIPS.values()}  # in test_slips
    assert tried == set(CHECKS["strategy"])
