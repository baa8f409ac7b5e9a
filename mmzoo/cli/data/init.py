"""mmzoo data init: a first manifest for a table. No torch at import."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.errors import BadValue
from mmzoo.io.files import write_bytes
from mmzoo.io.regular import check_regular


def run_init(arguments: argparse.Namespace) -> int:
    from mmzoo.data.own.guessing import guessed

    table = Path(arguments.table)
    check_regular(table, "table")
    target = table.with_name(table.name.split(".")[0] + ".yaml") if arguments.to is None else Path(arguments.to)
    if target.suffix not in (".yaml", ".yml"):
        raise BadValue(f"--to {target}: the name of a manifest ends in .yaml.")
    if target.exists():
        raise BadValue(f"{target} is there already and stays as it is. Name another file with --to, or remove it.")
    if target.parent.absolute() != table.parent.absolute():
        raise BadValue(f"--to {target}: write the manifest beside its table, in {table.parent}.")
    text = guessed(table)
    write_bytes(target, text.encode())
    print(text, end="")
    print(f"Written to {target}. Next: mmzoo data check {target}")
    return 0
