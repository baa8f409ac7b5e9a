"""Benches that several tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.taught_benches import no_probe

from mmzoo.benchmark.execution import session
from mmzoo.cli import main
from mmzoo.evaluation import predictions

SMALL = ("--seeds", "1", "--epochs", "2", "--device", "cpu")
BENCH = ("bench", "--method", "umt", "--baselines", "ume", *SMALL)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one small bench with teachers; tests must not change them."""
    out = tmp_path_factory.mktemp("taught") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMZOO_PLUGINS", "")
        patch.setattr(predictions, "fit_probe", no_probe)
        assert main([*BENCH, "--no-references", "--out", str(out)]) == 0
    return out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the runs that are trained from now on."""
    seen: list[str] = []
    real = session.Session.train_and_score

    def watched(self: Any) -> Any:
        seen.append(self.planned.label)
        return real(self)

    monkeypatch.setattr(session.Session, "train_and_score", watched)
    return seen
