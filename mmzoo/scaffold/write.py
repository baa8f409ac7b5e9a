"""Fills the templates and writes a package. No torch."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from mmzoo import __version__
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import KINDS, Catalogue

#: kind -> the parts that a package of it has
PARTS: Mapping[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in ("strategy", "head", "encoder", "dataset")},
    "plugin": ("strategy", "head", "encoder", "dataset"),
}
_USAGE = {
    "strategy": "mmzoo bench --method {name} --baselines ogm,pmr",
    "head": "mmzoo bench --method plain@{name} --baselines concat",
    "encoder": "mmzoo show encoders/{name}",
    "dataset": "mmzoo bench --method dynamic_gap_lb --baselines ogm,pmr --datasets {name}",
}


def write_package(kind: str, name: str, where: Path, catalogue: Catalogue) -> Path:
    """A folder with a complete package; it is there whole or not at all.

    Raises BadValue for a name that cannot be used or is taken, and where the folder is there already.
    """
    _check_name(name, catalogue)
    folder = where / name.replace("_", "-")
    if folder.exists():
        raise BadValue(f"{folder} is there already. Choose another name, or another place with --dir.")
    try:
        where.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=where))
    except OSError as error:
        raise MmzooError(
            f"cannot write to {where}: {error.strerror or error}. Choose another place with --dir."
        ) from None
    try:
        _fill(draft, kind, name)
        draft.chmod(0o755)
        os.replace(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def _check_name(name: str, catalogue: Catalogue) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name == "mmzoo":
        raise BadValue(f"{name!r} is no usable name: write it in lower_snake_case, e.g. my_method.")
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        raise BadValue(f"{name!r} is the name of a Python package that is installed. Choose another name.")
    for kind in KINDS:
        if catalogue.has(kind, name):
            holder = catalogue.get(kind, name)
            raise BadValue(f"{name!r} is taken by {kind}/{holder.name} of {holder.package}. Choose another name.")


def _fill(folder: Path, kind: str, name: str) -> None:
    """Write all files of a package into an empty folder."""
    words = _words(kind, name)
    templates = resources.files("mmzoo.scaffold") / "templates"
    package, module = templates / "package", folder / name
    module.mkdir()
    (folder / "tests").mkdir()
    for file in ("pyproject.toml", "README.md"):
        _write(folder / file, package / f"{file}.tmpl", words)
    _write(module / "__init__.py", package / "__init__.py.tmpl", words)
    registry = ["schema: 1\n"]
    for part in PARTS[kind]:
        own = words if kind != "plugin" else _words(part, f"{name}_{part}") | {"module": name}
        _write(module / f"{own['name']}.py", templates / part / "part.py.tmpl", own)
        _write(folder / "tests" / f"test_{own['name']}.py", templates / part / "test_part.py.tmpl", own)
        registry.append(Template((templates / part / "registry.yaml.tmpl").read_text("utf-8")).substitute(own))
    (module / "registry.yaml").write_text(_merged(registry), encoding="utf-8")


def _words(kind: str, name: str) -> dict[str, str]:
    """What the templates leave open."""
    major, minor = (int(n) for n in __version__.split(".")[:2])
    names = [name if kind != "plugin" else f"{name}_{part}" for part in PARTS[kind]]
    usage = "\n".join("    " + _USAGE[part].format(name=n) for part, n in zip(PARTS[kind], names))
    return {
        "name": name,
        "module": name,
        "dist": name.replace("_", "-"),
        "usage": usage,
        "cls": "".join(word.capitalize() for word in name.split("_")),
        "title": name.replace("_", " ").capitalize(),
        "mmzoo_low": f"{major}.{minor}",
        "mmzoo_high": f"{major}.{minor + 1}",
    }


def _write(path: Path, template: Traversable, words: Mapping[str, str]) -> None:
    path.write_text(Template(template.read_text("utf-8")).substitute(words), encoding="utf-8")


def _merged(pieces: list[str]) -> str:
    """One registry.yaml of several: the entries of each kind under one key, in the order in which the kinds first occur."""
    sections: dict[str, list[str]] = {}
    kind = ""
    for line in "".join(pieces).splitlines():
        if line and not line.startswith(" "):
            kind = line
            sections.setdefault(kind, [])
        elif line:
            sections[kind].append(line)
    return "\n\n".join("\n".join([kind, *lines]) for kind, lines in sections.items()) + "\n"
