"""mmzoo docs: the pages of the documentation that come with the package. No torch at import."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from mmzoo.errors import BadValue, unknown


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "docs",
        help="print a page of the documentation",
        description="Prints a page of the documentation as Markdown; without NAME, lists the pages. --build writes all of it as "
        "a site, with a page for each installed method: pip install 'mmzoo[docs]'.",
    )
    parser.add_argument("page", metavar="NAME", nargs="?", help="the name of a page, e.g. methods")
    parser.add_argument("--build", metavar="DIR", help="write the documentation site; open DIR/index.html")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.build is not None:
        return _build(arguments)
    found = pages()
    if arguments.page is None:
        width = max(map(len, found))
        for name, page in found.items():
            print(f"{name:{width}}  {_title(page)}")
        print("Print one: mmzoo docs NAME")
        return 0
    name = arguments.page.removesuffix(".md")
    if name not in found and _of_site(name, found):
        raise BadValue(
            f"the page {name} is made for the site: mmzoo docs --build DIR writes it. In the terminal, mmzoo list and mmzoo show NAME "
            "have what the catalogue has, and help() in Python what the reference has."
        )
    if name not in found:
        raise unknown("page", arguments.page, found)
    print(found[name].read_text(encoding="utf-8"), end="")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from mmzoo.cli.site.build import build
    from mmzoo.registry.plugins import catalogue

    if arguments.page is not None:
        raise BadValue("--build writes all pages: leave NAME out.")
    out = Path(arguments.build)
    if out.exists() and not (out / ".buildinfo").is_file() and (out.is_file() or any(out.iterdir())):
        raise BadValue(f"--build {out}: something else is there. Name an empty or a new folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadValue(f"--build {out}: {error.strerror or error}. Name a folder that you may write to.") from None
    with resources.as_file(resources.files("mmzoo").joinpath("docs")) as sources:
        build(catalogue(), sources, out)
    print(f"The site is in {out}. Open {out / 'index.html'}.")
    return 0


def pages() -> dict[str, Traversable]:
    """name -> file, of all pages, in alphabetical order."""
    files = (f for f in resources.files("mmzoo").joinpath("docs").iterdir() if f.name.endswith(".md"))
    return {f.name.removesuffix(".md"): f for f in sorted(files, key=lambda f: f.name)}


def _of_site(name: str, found: Mapping[str, Traversable]) -> bool:
    """Whether a page is one that only the site has: the index links to it, or to others of its folder."""
    linked = set(re.findall(r"\]\(([\w/]+)\.md", found["index"].read_text(encoding="utf-8"))) - set(found)
    return name in linked or name.partition("/")[0] in {other.partition("/")[0] for other in linked if "/" in other}


def _title(page: Traversable) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
