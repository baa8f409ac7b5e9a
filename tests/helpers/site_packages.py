"""A folder of installed packages, broken or not, and mmzoo run where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmzoo.registry import plugins

ROOT = Path(plugins.__file__).resolve().parent.parent
GOOD_REGISTRY = """\
strategies:
  mine: {summary: Mine., path: "mmzoo.strategies.plain:Plain"}
methods:
  mine: {summary: Mine., strategy: mine, head: concat}
"""
HEADER = "from mmzoo.registry import read_entries\nfrom mmzoo.registry.hookspecs import hookimpl\n"
LISTS = HEADER + "@hookimpl\ndef mmzoo_catalogue():\n    return read_entries(__name__, 'DIST')\n"


class Site:
    """A folder of installed packages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self, dist: str, code: str, *, registry: str | None = GOOD_REGISTRY, points: str | None = None) -> None:
        module = dist.replace("-", "_")
        package = self.root / module
        package.mkdir()
        (package / "__init__.py").write_text(code.replace("DIST", dist), encoding="utf-8")
        if registry is not None:
            (package / "registry.yaml").write_text(registry, encoding="utf-8")
        info = self.root / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n", encoding="utf-8")
        text = f"[mmzoo]\n{module} = {module}\n" if points is None else points
        (info / "entry_points.txt").write_text(text, encoding="utf-8")

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`mmzoo ARGUMENTS` where these packages are installed; anything else that is installed is left out."""
        names = ",".join(p.name.partition("-1.2")[0] for p in self.root.glob("*.dist-info"))
        full = {**os.environ, "PYTHONPATH": f"{self.root}{os.pathsep}{ROOT}", "MMZOO_PLUGINS": names, **env}
        return subprocess.run(
            [sys.executable, "-m", "mmzoo", *arguments], env=full, capture_output=True, text=True, cwd=self.root
        )

    def report(self, **env: str) -> dict[str, dict[str, Any]]:
        done = self.run("plugins", "--json", **env)
        assert done.returncode == 0, done.stderr
        return {p["name"]: p for p in json.loads(done.stdout) if p["status"] != "off"}
