"""TMC, ETMC and DOMFN keep the contract beyond their defaults."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mmzoo.api import Strategy
from mmzoo.heads.evidential import Evidential
from mmzoo.heads.separate import Separate
from mmzoo.registry import BUILT_IN, built_in_path, read_entries
from mmzoo.strategies.domfn import DOMFN
from mmzoo.strategies.tmc import TMC
from mmzoo.testing import check_strategy
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, train

CHECKS = (
    "check_purity",
    "check_terms",
    "check_modality_order",
    "check_sample_order",
    "check_micro_batches",
    "check_batch_of_one",
    "check_missing_classes",
    "check_zero_inputs",
    "check_large_logits",
    "check_absent_modalities",
    "check_alternating_company",
    "check_prediction",
    "check_company",
    "check_no_waiting",
)


@pytest.mark.parametrize(
    ("strategy", "head"),
    [
        (DOMFN(pretrain=0), Separate),
        (DOMFN(pretrain=0, tau=0.005), None),
        (DOMFN(pretrain=0, squash="sigmoid", tau=0.01, reference="joint", fallback="amended"), Separate),
        (DOMFN(pretrain=0, tau=0.005, fallback="amended"), partial(Separate, join="max", hidden=0)),
        (TMC(anneal=1, fit="mse"), None),
        (TMC(anneal=1), partial(Evidential, evidence="exp", pseudo=True)),
    ],
)
def test_contract_beyond_the_defaults(strategy: Strategy, head: Any) -> None:
    """The first epochs of DOMFN are all that the usual checks get to see."""
    check_strategy(strategy, head=head, draws=2, only=CHECKS)


def test_heads_say_in_the_catalogue_whether_they_are_evidential() -> None:
    for entry in read_entries(built_in_path(), BUILT_IN):
        if entry.kind == "heads":
            assert entry.extra.get("evidential", False) == entry.load().evidential, entry.name


def test_four_views_train_through_the_whole_loop() -> None:
    task = make_task(4)
    run = build_run(task, TMC(anneal=2), build_model(task, partial(Evidential, pseudo=True)))
    before = weights(run.model)
    first, last = train(run, 1), train(run, 25)
    assert last["loss/tmc/audio"] < 0.7 * first["loss/tmc/audio"]
    assert difference(before, weights(run.model)) is not None
