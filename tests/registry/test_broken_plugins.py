"""Ten broken packages at once: each is caught with its culprit named, and none hurts a bench of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.site_packages import HEADER, LISTS, Site

STRATEGY = '''
import torch
from mmzoo.api import Strategy


class Mine(Strategy):
    """{name}."""

    def __init__(self):
        self.seen, self.kept = 0, None

{body}
'''
REGISTRY = """\
strategies:
  {name}: {{summary: A strategy., path: "{module}.mine:Mine"}}
methods:
  {name}: {{summary: A strategy., strategy: {name}, head: concat}}
"""
#: dist -> code of its module, and what `mmzoo plugins` says of it
LISTING = {
    "import-error": ("import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
    "wrong-signature": (HEADER + "@hookimpl\ndef mmzoo_catalogue(extra):\n    return []\n", "extra"),
    "misspelt-hook": (HEADER + "@hookimpl\ndef mmzoo_catalog():\n    return []\n", "unknown hook 'mmzoo_catalog'"),
    "other-api": (LISTS, "it was made for mmzoo >=99, and this is"),
}
#: name -> body of the strategy, the check that fails, and a word of what it says
TRAINING = {
    "edits_features": (
        "    def features(self, step, feats):\n        return {m: z.detach().mul_(0.5) + 0 * z for m, z in feats.items()}",
        "check_purity",
        "edited in place",
    ),
    "stale_state": (
        "    def updated(self, step, out, terms):\n        self.seen += 1\n"
        "    def losses(self, step, out, terms):\n"
        "        return {**terms, 'stale/x': self.seen * out.logits.square().mean()}",
        "check_resume",
        "seen",
    ),
    "reads_test": (
        "    def setup(self, run):\n        from mmzoo.data.datasets.mfeat import load\n        self.kept = load().target",
        "check_imports",
        "mmzoo.data.datasets.mfeat.load",
    ),
    "wrong_shape": (
        "    def losses(self, step, out, terms):\n        return {**terms, 'wrong/x': out.logits}",
        "check_terms",
        "not",
    ),
    "not_a_number": (
        "    def losses(self, step, out, terms):\n        return {**terms, 'nan/x': out.logits.mean() * float('nan')}",
        "check_terms",
        "nan",
    ),
    "misspelt_method": ("    def on_epoch_start(self, run):\n        pass", "construction", "epoch_start"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"))
    for dist, (code, _) in LISTING.items():
        site.install(dist, code)
    metadata = site.root / "other_api-1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: mmzoo>=99\n")
    for name, (body, _, _) in TRAINING.items():
        _install(site, name, body)
    _install(site, "ogm", "")  # a name that is taken
    _install(site, "sound", "    def losses(self, step, out, terms):\n        return terms")
    return site


def _install(site: Site, name: str, body: str) -> None:
    dist = f"pack-{name.replace('_', '-')}"
    module = dist.replace("-", "_")
    site.install(dist, LISTS, registry=REGISTRY.format(name=name, module=module))
    (site.root / module / "mine.py").write_text(STRATEGY.format(name=name, body=body), encoding="utf-8")


def test_what_is_broken_when_it_is_listed_is_reported(site: Site) -> None:
    found = site.report()
    for dist, (_, reason) in LISTING.items():
        assert found[dist]["status"] == "failed" and reason in found[dist]["reason"], found[dist]
    assert any("method 'ogm' of pack-ogm is taken by mmzoo; use pack-ogm/ogm" in n for n in found["pack-ogm"]["notes"])
    assert all(found[f"pack-{n.replace('_', '-')}"]["status"] == "loaded" for n in (*TRAINING, "sound"))


@pytest.mark.parametrize("name", TRAINING)
def test_what_is_broken_in_training_is_found_by_its_check(site: Site, name: str) -> None:
    _, check, said = TRAINING[name]
    done = site.run(
        "check", f"strategies/{name}", "--json", "--only", check if check.startswith("check_") else "purity"
    )
    assert done.returncode == 1, done.stderr
    (part,) = json.loads(done.stdout)
    failed = {c["name"]: c["reason"] for c in part["checks"] if c["status"] == "failed"}
    assert check in failed and said in failed[check], failed


def test_a_bench_of_all_keeps_the_rows_of_the_sound_ones(site: Site, tmp_path: Path) -> None:
    def rows(*methods: str) -> dict[str, dict]:
        out = str(tmp_path / str(len(methods)))
        done = site.run(
            "bench",
            "--method",
            "ogm",
            "--baselines",
            ",".join(methods),
            "--no-references",
            "--seeds",
            "1",
            "--epochs",
            "1",
            "--out",
            out,
        )
        assert done.returncode in (0, 1), done.stderr
        return {r["label"]: r for r in json.loads(site.run("report", out, "--format", "json").stdout)["rows"]}

    every, alone = rows("sound", "pack-ogm/ogm", *TRAINING), rows("sound")
    assert {"ogm", "sound"} <= set(every), list(every)
    for label in ("ogm", "sound"):
        assert every[label]["metrics"] == alone[label]["metrics"] and every[label]["status"] == "ok"
    assert every["not_a_number"]["status"] == "diverged"
    for name, said in (
        ("wrong_shape", "the loss term 'wrong/x' has the shape (64, 10)"),
        ("misspelt_method", "pack_misspelt_method"),
    ):
        assert every[name]["status"] == "failed" and said in every[name]["reason"], every[name]
