"""Third-party packages: installed ones of many kinds of brokenness, in processes of their own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.site_packages import HEADER, LISTS, Site

from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import Entry, plugins
from mmzoo.testing import CheckFailed, check_installed, run_program


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


BROKEN = {
    "no-import": ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "no-syntax": ("def f(:\n", "SyntaxError: invalid syntax"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: it called sys.exit(3)"),
    "times-out": ("raise TimeoutError('no answer')\n", "TimeoutError: no answer"),
    "no-list": (
        HEADER + "@hookimpl\ndef mmzoo_catalogue():\n    return 7\n",
        "mmzoo_catalogue returned int, not a list",
    ),
    "no-entries": (HEADER + "@hookimpl\ndef mmzoo_catalogue():\n    return [{'name': 'x'}]\n", "returned a dict among"),
    "raises": (HEADER + "@hookimpl\ndef mmzoo_catalogue():\n    raise RuntimeError('no')\n", "RuntimeError: no"),
    "misspelt": (HEADER + "@hookimpl\ndef mmzoo_catalog():\n    return []\n", "unknown hook 'mmzoo_catalog'"),
    "signature": (HEADER + "@hookimpl\ndef mmzoo_catalogue(extra):\n    return []\n", "extra"),
    "no-registry": (LISTS, "cannot read"),
}


def test_broken_packages_are_reported_and_the_others_work(site: Site) -> None:
    for dist, (code, _) in BROKEN.items():
        site.install(dist, code, registry=None)
    site.install("faulty", LISTS, registry="strategies:\n  a: {summary: A.}\n  b: {summary: B., path: 3}\nhead: {}\n")
    site.install("zz-good", "print('noise on the way in')\n" + LISTS)
    found = site.report()
    for dist, (_, reason) in BROKEN.items():
        assert found[dist]["status"] == "failed" and found[dist]["entries"] == 0, dist
        assert reason in found[dist]["reason"], found[dist]["reason"]
        assert found[dist]["version"] == "1.2"
    for fault in ("3 faults", "line 2: strategies.a: path is missing", "line 3: strategies.b.path", "line 4: head: "):
        assert fault in found["faulty"]["reason"]
    assert found["zz-good"] == {**found["zz-good"], "status": "loaded", "entries": 2, "hooks": ["mmzoo_catalogue"]}

    listed = site.run("list", "--json")
    assert listed.returncode == 0 and "noise" in listed.stderr
    names = {e["name"] for e in json.loads(listed.stdout)["methods"]}
    assert {"mine", "ogm"} <= names
    shown = site.run("plugins")
    assert shown.returncode == 0 and "Traceback" not in shown.stdout + shown.stderr
    assert "no-syntax 1.2: failed" in shown.stdout


def test_a_slow_package_is_left_out_in_time(site: Site) -> None:
    site.install("slow-import", "import time\ntime.sleep(60)\n")
    site.install("slow-list", HEADER + "import time\n@hookimpl\ndef mmzoo_catalogue():\n    time.sleep(60)\n")
    site.install("quick", LISTS)
    began = time.monotonic()
    found = site.report(MMZOO_PATIENCE="0.5")
    assert time.monotonic() - began < 20
    for name in ("slow-import", "slow-list"):
        assert found[name]["status"] == "slow"
        assert "longer than 0.5 s" in found[name]["reason"] and "MMZOO_PATIENCE" in found[name]["reason"]
    assert found["quick"]["status"] == found["mmzoo"]["status"] == "loaded"


def test_a_name_clash_leaves_the_bare_name_with_the_built_in(site: Site) -> None:
    site.install(
        "clash",
        LISTS,
        registry=(
            "strategies:\n  ogm: {summary: Another OGM., path: 'mmzoo.strategies.plain:Plain'}\n"
            "methods:\n  ogm: {summary: Another OGM., strategy: ogm, head: concat}\n"
            "  lost: {summary: Lost., strategy: nowhere, head: concat}\n"
            "  wrong: {summary: Wrong., strategy: ogm, head: concat, args: {alpha: 1}}\n"
            "  odd: {summary: Odd., strategy: ogm, head: concat, args: {1: 1}}\n"
        ),
    )
    found = site.report()["clash"]
    assert found["status"] == "loaded" and found["entries"] == 2
    notes = "\n".join(found["notes"])
    assert "method 'ogm' of clash is taken by mmzoo; use clash/ogm" in notes
    assert "methods/clash/lost is left out: no strategy 'nowhere'." in notes
    assert "methods/clash/odd is left out: " in notes
    assert "methods/clash/wrong is left out: no parameter of strategy ogm 'alpha'" in notes
    listed = {e["name"]: e for e in json.loads(site.run("list", "methods", "--json").stdout)["methods"]}
    assert listed["ogm"]["package"] == "mmzoo" and listed["clash/ogm"]["package"] == "clash"
    assert "Another OGM." in site.run("show", "clash/ogm").stdout
    assert "Another OGM." not in site.run("show", "ogm").stdout
    done = site.run(
        "bench",
        "--method",
        "clash/ogm",
        "--baselines",
        "ogm",
        "--no-references",
        "--set",
        "ogm.alpha=0.7",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        "out",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(site.run("report", "out", "--format", "json").stdout)["rows"]
    parts = {r["label"]: r["spec"]["parts"][0] for r in rows}
    # Its recipe means its own strategy, and the setting is that of the built-in method alone.
    assert parts["clash/ogm"]["strategy"] == "clash/ogm" and parts["clash/ogm"]["params"] == {}
    assert parts["ogm[alpha=0.7]"]["params"]["alpha"] == 0.7


def test_two_entry_points_of_one_package_do_not_disturb_each_other(site: Site) -> None:
    points = "[mmzoo]\na = double\nb = double\nc = double.more\n"
    site.install("double", LISTS, points=points)
    (site.root / "double" / "more.py").write_text("", encoding="utf-8")
    done = json.loads(site.run("plugins", "--json").stdout)
    states = {p["source"] + " " + p["status"]: p for p in done if p["name"] == "double"}
    assert set(states) == {"double loaded", "double failed", "double.more loaded"}
    assert "registered already" in states["double failed"]["reason"]
    assert states["double loaded"]["entries"] == 2
    assert any("implements no hook" in n for n in states["double.more loaded"]["notes"])


COMMANDS = (
    HEADER
    + """
@hookimpl
def mmzoo_commands(subparsers):
    def greet(arguments):
        print("hello")
    subparsers.add_parser("greet").set_defaults(command=greet)
    subparsers.add_parser("idle")
"""
)
BAD_COMMANDS = HEADER + "@hookimpl\ndef mmzoo_commands(subparsers):\n    subparsers.add_parser('bench')\n"
WORSE_COMMANDS = HEADER + "@hookimpl\ndef mmzoo_commands(subparsers):\n    raise SystemExit(4)\n"


def test_commands_of_packages(site: Site) -> None:
    site.install("greets", COMMANDS, registry=None)
    site.install("usurps", BAD_COMMANDS, registry=None)
    site.install("leaves", WORSE_COMMANDS, registry=None)
    done = site.run("greet")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    idle = site.run("idle")
    assert idle.returncode == 2 and "set_defaults(command=...)" in idle.stderr and "Traceback" not in idle.stderr
    found = site.report()
    for name in ("leaves", *(("usurps",) if sys.version_info >= (3, 11) else ())):
        assert any("its commands are left out" in n for n in found[name]["notes"]), name
    assert site.run("bench", "--help").returncode == 0


def test_metadata_that_is_missing_costs_nothing_but_the_name(site: Site) -> None:
    site.install("bare", LISTS)
    (site.root / "bare-1.2.dist-info" / "METADATA").unlink()
    found = site.report(MMZOO_PLUGINS="bare")
    assert found["bare"]["status"] == "loaded" and found["mmzoo"]["status"] == "loaded"


def test_a_package_is_left_out_by_the_environment(site: Site) -> None:
    site.install("some-pkg", LISTS)
    everything = json.loads(site.run("plugins", "--json", MMZOO_PLUGINS="").stdout)
    assert [p["status"] for p in everything if p["name"] == "some-pkg"] == ["off"]
    assert site.report(MMZOO_PLUGINS="Some_Pkg, other")["some-pkg"]["status"] == "loaded"


# ---------------------------------------------------------------------- in this process
def test_a_broken_catalogue_of_our_own_is_an_error_and_no_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "built_in_path", lambda: tmp_path / "registry.yaml")
    with pytest.raises(MmzooError, match=r"registry\.yaml"):
        plugins.load()


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_patience_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MMZOO_PATIENCE", given)
    with pytest.raises(BadValue, match="MMZOO_PATIENCE must be a positive number of seconds"):
        plugins.patience()


def test_an_entry_points_file_that_cannot_be_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Any]:
        raise ValueError("not enough values")

    monkeypatch.setattr(plugins, "_entry_points", fail)
    loaded = plugins.load()
    assert [p.status for p in loaded.plugins] == ["loaded", "failed"]
    assert "not enough values" in loaded.plugins[1].reason
    assert isinstance(loaded.catalogue.get("methods", "ogm"), Entry)


def test_a_package_sees_that_it_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"mmzoo-nowhere is installed.*\n.*not found"):
        check_installed("mmzoo-nowhere", tmp_path)
    with pytest.raises(CheckFailed, match=r"mmzoo show nothing succeeds\n.*exit code 2\n.*nothing"):
        run_program("show", "nothing", cwd=tmp_path)
