"""The pages of the documentation, their blocks of code, and their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import mmzoo

DOCS = Path(mmzoo.__file__).parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shell_commands(text: str) -> list[list[str]]:
    """The commands of all bash blocks, each as its words: without comments, `cd`, `export`, and where the output goes."""
    lines = re.sub(r"(^|\s)#.*$", "", "\n".join(blocks(text, "bash")).replace("\\\n", " "), flags=re.MULTILINE)
    lines = re.sub(r'eval "\$\((.*)\)"', r"\1", lines).replace("<your fork>", "FORK")
    found = [shlex.split(re.sub(r" > .*", "", line)) for line in re.split(r"\n|&&", lines)]
    return [words for words in found if words and words[0] not in ("cd", "export")]


def commands(text: str) -> list[list[str]]:
    """The words of the mmzoo commands of all bash blocks, each without `mmzoo`."""
    return [words[1:] for words in shell_commands(text) if words[0] == "mmzoo"]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and MyST make them."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower().replace("`", "")).strip().replace(" ", "-") for h in headings}


def dead_links(pages: Mapping[str, str], assets: frozenset[str] = frozenset()) -> Iterator[str]:
    """The links between pages that lead nowhere. pages: name below the root -> text. assets: files that are no pages."""
    for name, text in pages.items():
        bare = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(<?([^()\s>]+)>?\)", bare):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            parts: list[str] = []
            for part in (PurePosixPath(name).parent / path).parts if path else PurePosixPath(name).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            found = "/".join(parts)
            if found not in pages and found not in assets:
                yield f"{name}: {target}"
            elif anchor and found in pages and anchor not in anchors(pages[found]):
                yield f"{name}: {target} (no such heading)"
