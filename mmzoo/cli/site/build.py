"""Build the documentation site with Sphinx: `mmzoo docs --build DIR`. Needs no network; a warning is an error."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmzoo import __version__
from mmzoo.cli.site.generated import pages as generated
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import Catalogue

#: modules of the reference: file -> title, modules
REFERENCE = {
    "python": ("Python interface", ("mmzoo.api", "mmzoo.loops.attached", "mmzoo.loops.branches")),
    "functional": ("Functional interface", ("mmzoo.functional",)),
    "benchmark": ("Benchmarks from Python", ("mmzoo.benchmark.python", "mmzoo.benchmark.pretrained")),
    "testing": ("Testing a package", ("mmzoo.testing",)),
}
#: names of torch that docstrings and signatures mention, and the pages that describe them
TORCH = {
    "torch.Tensor": "tensors.html",
    "torch.Generator": "generated/torch.Generator.html",
    "torch.device": "tensor_attributes.html",
    "torch.dtype": "tensor_attributes.html",
    "torch.nn.Module": "generated/torch.nn.Module.html",
    "torch.nn.Parameter": "generated/torch.nn.parameter.Parameter.html",
    "torch.nn.parameter.Parameter": "generated/torch.nn.parameter.Parameter.html",
    "torch.optim.Optimizer": "optim.html",
    "torch.optim.optimizer.Optimizer": "optim.html",
}
TORCH_SITE = "https://docs.pytorch.org/docs/stable/"


def build(catalogue: Catalogue, sources: Path, out: Path) -> None:
    """Write the site. Raises BadValue where Sphinx is missing, MmzooError where a page has a fault."""
    try:
        import furo  # noqa: F401
        import myst_parser  # noqa: F401
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
        from sphinx.util.docutils import docutils_namespace
    except ImportError as error:
        raise BadValue(f"the site needs {error.name}. Install it: pip install 'mmzoo[docs]'") from None
    with tempfile.TemporaryDirectory(prefix="mmzoo-site-") as folder:
        work = Path(folder)
        write_sources(catalogue, sources, work)
        settings = {**_settings(), "intersphinx_mapping": {"torch": (TORCH_SITE, str(work / "torch.inv"))}}
        told = io.StringIO()
        try:
            with docutils_namespace():
                app = Sphinx(
                    str(work),
                    None,
                    str(out),
                    str(work / ".doctrees"),
                    "html",
                    settings,
                    None,
                    told,
                    warningiserror=True,
                )
                app.connect("autodoc-process-docstring", _escaped, priority=400)  # before napoleon
                app.build()
        except SphinxError as error:
            raise MmzooError(f"the site has a fault: {str(error).replace(str(work), 'docs')}") from error
    if app.statuscode:
        faults = re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue()).replace(str(work), "docs")
        raise MmzooError(f"the site has faults:\n{faults.rstrip()}")


def write_sources(catalogue: Catalogue, sources: Path, work: Path) -> None:
    """All pages of the site as Markdown below a folder: ours, the catalogue's, the reference, and what belongs to the tree."""
    for page in sources.rglob("*"):
        if page.is_file() and page.suffix in (".md", ".ipynb", ".csv", ".png", ".svg"):
            target = work / page.relative_to(sources)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, target)
    made = {**generated(catalogue), **dict(_reference()), **dict(_notebooks(sources))}
    changes = sources.parents[1] / "CHANGELOG.md"
    text = (
        changes.read_text(encoding="utf-8") if changes.is_file() else "# Changelog\n\nIt comes with the source tree.\n"
    )
    made["changelog.md"] = text
    for name, text in made.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text, encoding="utf-8")
    index = work / "index.md"
    index.write_text(with_toctree(index.read_text(encoding="utf-8")), encoding="utf-8")
    for page in work.rglob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace("```mermaid", "```text"), encoding="utf-8")
    _write_inventory(work / "torch.inv")


def with_toctree(index: str) -> str:
    """The front page with a table of contents: under each heading, the pages that it links to."""
    parts = re.split(r"^## (.*)$", index, flags=re.MULTILINE)
    lines = [parts[0]]
    for heading, body in zip(parts[1::2], parts[2::2]):
        linked = [p.removesuffix(".md") for p in re.findall(r"\]\(([\w/.-]+\.md)\)", body)]
        tree = ["```{toctree}", ":hidden:", f":caption: {heading}", "", *dict.fromkeys(linked), "```"] if linked else []
        lines += [f"## {heading}{body}", *tree, ""]
    return "\n".join(lines)


def site_pages(catalogue: Catalogue, sources: Path) -> dict[str, str]:
    """Name of a page below the root of the site -> its Markdown, of all that links may lead to."""
    ours = {p.relative_to(sources).as_posix(): p.read_text(encoding="utf-8") for p in sources.rglob("*.md")}
    return {
        **ours,
        **generated(catalogue),
        **dict(_reference()),
        **dict(_notebooks(sources)),
        "changelog.md": "# Changelog\n",
    }


def _reference() -> Iterator[tuple[str, str]]:
    for name, (title, modules) in REFERENCE.items():
        lines = [f"# {title}", ""]
        for module in modules:
            lines += [f"## `{module}`", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
        yield f"reference/{name}.md", "\n".join(lines)


def _notebooks(sources: Path) -> Iterator[tuple[str, str]]:
    """Notebooks as pages: their text, code and printed outputs."""
    from mmzoo.cli.site.notebooks import as_markdown

    for path in sorted(sources.rglob("*.ipynb")):
        yield f"{path.relative_to(sources).with_suffix('.md').as_posix()}", as_markdown(path)


def _settings() -> dict[str, Any]:
    return {
        "project": "mmzoo",
        "release": __version__,
        "copyright": "the mmzoo developers, Apache-2.0",
        "extensions": ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"],
        "html_theme": "furo",
        "html_title": f"mmzoo {__version__}",
        "html_show_sourcelink": False,
        "html_copy_source": False,
        "myst_heading_anchors": 4,
        "autodoc_typehints": "description",
        "napoleon_use_ivar": True,
        "default_role": "py:obj",
        "autodoc_member_order": "bysource",
        "suppress_warnings": ["misc.highlighting_failure"],
        "exclude_patterns": ["**.ipynb", ".doctrees"],
        "intersphinx_timeout": 5,
    }


def _escaped(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: outside `code`, stars, bars and trailing underscores are what they look like."""
    for i, line in enumerate(lines):
        parts = re.split("(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def _write_inventory(path: Path) -> None:
    """The names of torch in the form of intersphinx, so that links need no network when the site is built."""
    head = "# Sphinx inventory version 2\n# Project: torch\n# Version: stable\n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{name} py:class 1 {page}#{name} -\n" for name, page in TORCH.items()]
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
