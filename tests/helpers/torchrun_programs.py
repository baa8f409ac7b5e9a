"""Programs that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: the program itself, but in float64, without linear probes, and with an end at the start of epoch DIE in the second process
PROGRAM = """
import os, signal, sys
from dataclasses import replace
from mmzoo.evaluation import predictions
from mmzoo.benchmark.execution import building
from mmzoo.training.run import Run

load, build, epoch = building.load_data, building.build_model, Run.train_epoch

def load_data(*given):
    data = load(*given)
    return replace(data, inputs={m: x.double() for m, x in data.inputs.items()})

def train_epoch(run):
    if os.environ.get("DIE") == str(run.epoch) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    epoch(run)

building.load_data, building.build_model = load_data, lambda *given: build(*given).double()
predictions.fit_probe = lambda features, target, n: lambda z: z.new_zeros(len(z), n)
Run.train_epoch = train_epoch
from mmzoo.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
METHODS = """
from mmzoo.api import Strategy

class Single(Strategy):
    single_process = "it says so"

class Stumbles(Strategy):
    def epoch_start(self, run):
        import torch.distributed as dist
        if dist.is_initialized() and dist.get_rank() == 1:
            1 / 0

class Apart(Strategy):
    def gradients(self, step, out, grads):
        for group in grads: grads.scale(group, out.logits.detach().softmax(-1).max())
"""
PAIRS = """
import json, os, signal, socket, sys, time
import program
import mmzoo.benchmark.execution.session, mmzoo.benchmark.execution.nonzero_ranks

def pair(argv, **env):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env |= {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids, codes = [], {}
    for rank in range(2):
        if not (pid := os.fork()):
            for fd, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os.environ.update({**env, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            code = program.main(argv)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    while len(codes) < 2:
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            time.sleep(0.2)
            for other in set(pids) - set(codes):
                os.kill(other, signal.SIGTERM)
    read = lambda name: [open(f"{name}.{rank}").read() for rank in range(2)]
    return {"codes": [codes[pid] for pid in pids], "out": read("out"), "err": read("err")}

asked = json.loads(sys.argv[1])
bad = ["bench", "--method", "ogmm", "--datasets", "mfeat", "--out", "bad"]
print(json.dumps({"died": pair(asked, DIE="1"), "again": pair(asked), "bad": pair(bad)}))
"""
ASKED = (
    "--datasets",
    "mfeat",
    "--seeds",
    "1",
    "--epochs",
    "2",
    "--no-references",
    "--device",
    "cpu",
    "--keep-weights",
    "--checkpoint-every",
    "0",
)


def start(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python program in the place of this module."""
    here = {**os.environ, "MMZOO_PLUGINS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, *command], cwd=place, env=here, capture_output=True, text=True, timeout=1200)
