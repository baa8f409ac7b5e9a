"""Notebooks as pages of the site. No torch, no Jupyter: a notebook is JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmzoo.io.json_file import read_json


def as_markdown(path: Path) -> str:
    """A notebook as Markdown: text as it is, code and what it printed in blocks."""
    parts = [f"*This page is the notebook `{path.name}`, with the outputs of its last run.*"]
    for cell in read_json(path)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        shell = text.startswith("!") or text.startswith("%%bash")
        parts.append(f"```{'bash' if shell else 'python'}\n{text}\n```")
        if printed := "".join(map(_text, cell["outputs"])):
            parts.append(f"```text\n{printed.rstrip()}\n```")
    title = next(i for i, part in enumerate(parts) if part.startswith("# "))
    heading, _, rest = parts[title].partition("\n")
    return "\n\n".join([heading, parts[0], rest.strip(), *parts[1:title], *parts[title + 1 :], ""])


def faults(path: Path) -> Iterator[str]:
    """What is wrong with the outputs that are kept: a code cell or a command that was not run, not in order, or failed."""
    code = [c for c in read_json(path)["cells"] if c["cell_type"] == "code"]
    if [c["execution_count"] for c in code] != list(range(1, len(code) + 1)):
        yield f"{path.name} was not run from top to bottom"
    for cell in code:
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"{path.name}: {output['ename']}: {output['evalue']}"
            for line in re.findall(
                r"^(?:mmzoo: (?!wrote|warning|\d+ rows)|ls: |(?:\S*/)?(?:ba)?sh: ).*", _text(output), re.MULTILINE
            ):
                yield f"{path.name}: {line}"


def _text(output: Mapping[str, Any]) -> str:
    """What one output leaves on a terminal: without colours, and of a line that was rewritten its last form."""
    told = output.get("text") or output.get("data", {}).get("text/plain", "")
    return re.sub(r"\x1b\[[0-9;]*m|[^\n]*\r(?=[^\r\n])", "", "".join(told))
