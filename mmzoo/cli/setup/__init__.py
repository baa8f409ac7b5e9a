"""Commands about the installation and the tools around it: doctor, schema, completion. No torch at import."""

from __future__ import annotations

import argparse
from importlib import import_module

#: command -> what it does, in a line
COMMANDS = {
    "doctor": "check the installation: versions, device, plugins, stores, disk, and what each data set lacks",
    "schema": "print the JSON schema of suite files, for editors",
    "completion": "print the script that makes a shell complete commands, methods, data sets and settings",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help=COMMANDS["doctor"],
        description="Checks the installation and prints what it found. Exit code 1 when something is broken; an optional package "
        "or a data set that is not there is not.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    commands.add_parser(
        "schema",
        help=COMMANDS["schema"],
        description="Prints the JSON schema of the files that `mmzoo bench --suite` reads, with the methods, data sets and settings "
        "that are installed: mmzoo schema > suite.schema.json. An editor with a YAML language server completes from it after "
        "the line `# yaml-language-server: $schema=suite.schema.json`.",
    )
    completion = commands.add_parser(
        "completion",
        help=COMMANDS["completion"],
        description='Prints a shell script. In ~/.bashrc: eval "$(mmzoo completion bash)"; in ~/.zshrc: '
        'eval "$(mmzoo completion zsh)". Requires argcomplete: pip install "mmzoo[completion]".',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    for name in COMMANDS:
        commands.choices[name].set_defaults(command=lambda given, name=name: _run(name, given))


def _run(name: str, arguments: argparse.Namespace) -> int:
    return int(import_module(f"mmzoo.cli.setup.{name}").run(arguments))
