"""The non-zero ranks of a distributed run: they train what rank 0 hands out, and write nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.execution.building import Kit, build_model, data_of, set_threads
from mmzoo.benchmark.execution.device import check_device
from mmzoo.benchmark.execution.fitting import Fitting, Watcher
from mmzoo.benchmark.execution.team import Team
from mmzoo.config.identity import check_identity
from mmzoo.config.spec import RunSpec
from mmzoo.core.precision import tf32
from mmzoo.registry import Catalogue
from mmzoo.registry.plugins import catalogue
from mmzoo.training.loop import fit


def job_of(
    spec: RunSpec, teachers: Mapping[str, RunSpec], *, device: str, micro_batch: int | None, eval_batch: int
) -> dict[str, Any]:
    """All that a non-zero rank needs to know of a run, as plain data."""
    return {
        "spec": spec.as_dict(),
        "teachers": {m: t.as_dict() for m, t in teachers.items()},
        "device": device.partition(":")[0],
        "micro_batch": micro_batch,
        "eval_batch": eval_batch,
    }


def follow(team: Team) -> int:
    """Do jobs until the first process has no more. Returns its exit code."""
    while "end" not in (job := team.next_order()):
        device = check_device(job["device"])
        with contextlib.suppress(Exception), team.together(device):  # rank 0 says what came of it
            _train(team, catalogue(), job, device)
        memory.free(device)
    return int(job["end"])


def _train(team: Team, catalogue: Catalogue, job: Mapping[str, Any], device: str) -> None:
    spec = RunSpec.from_dict(job["spec"])
    check_identity(catalogue, spec)
    whole = data_of(catalogue, spec)
    kit = Kit(catalogue, spec, whole, device, share=team.share)
    teachers = {m: build_model(catalogue, RunSpec.from_dict(t), whole.only([m])) for m, t in job["teachers"].items()}
    set_threads(kit.model, device)
    training = spec.training.replace(micro_batch=job["micro_batch"])
    with tf32(spec.training.tf32):
        fitting = Fitting(kit, training, team, eval_batch=job["eval_batch"])
        run, selection, _ = fitting.begin(teachers, None, Watcher())
        fit(run, **fitting.loop(run, selection, Watcher()))
