"""`mmzoo schema`: the JSON schema of suites. No torch."""

from __future__ import annotations

import argparse
import json
from typing import Any


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.config.suite_schema import suite_schema
    from mmzoo.registry.plugins import catalogue

    print(json.dumps(suite_schema(catalogue(), _described()), indent=1))
    return 0


def _described() -> dict[str, str]:
    """Key of a suite -> what `mmzoo bench --help` says of the option."""
    from mmzoo.cli.bench import add_run_options
    from mmzoo.cli.bench.options import add_spec_options

    notes = _Notes()
    add_spec_options(notes)
    add_run_options(notes.add_argument)
    return {**notes.helps, "set": notes.helps["settings"]}


class _Notes:
    """Stands in for a parser, and keeps what each option says of itself under the name that it has in a suite."""

    def __init__(self) -> None:
        self.helps: dict[str, str] = {}

    def add_argument(self, *names: str, help: str, dest: str | None = None, **_: Any) -> None:
        for name in names:
            self.helps[dest or name.lstrip("-").replace("-", "_")] = help
