"""Execute the notebooks of the documentation, each in an empty folder, and keep what they print.

    python benchmarks/notebooks.py             # run all, keep the outputs
    python benchmarks/notebooks.py --check     # run all, keep nothing: does each still run?

Needs `pip install 'mmzoo[notebooks]'`. Paths of this machine and times are taken out of the outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from mmzoo.cli.site.notebooks import faults

NOTEBOOKS = Path(__file__).resolve().parents[1] / "mmzoo" / "docs" / "notebooks"


def run(path: Path) -> Any:
    """The notebook with the outputs of a run in an empty folder. Raises what a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        home = Path(folder) / "home"
        os.environ |= {
            "MMZOO_HOME": str(home),
            "MMZOO_PLUGINS": "agreement",
            "MMZOO_WORKERS": "1",
            "COLUMNS": "120",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # the mmzoo of this Python
        }
        work = Path(folder) / "work"
        work.mkdir()
        NotebookClient(
            notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(work)}}
        ).execute()
        for cell in notebook.cells:
            cell.metadata = {}
            cell.id = f"cell{notebook.cells.index(cell)}"
            if cell.cell_type == "code":
                cell.outputs = joined([told(o, folder) for o in cell.outputs])
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def told(output: Any, folder: str) -> Any:
    """An output without what differs between machines."""
    text = json.dumps(output).replace(f"{folder}/work/", "").replace(f"{folder}/work", ".").replace(folder, "")
    text = re.sub(r"\\u001b\[[0-9;]*m", "", text).replace("\\r\\n", "\\n")  # colours, and the line ends of a terminal
    text = re.sub(r"\b\d+(\.\d+)? (ms|s|seconds)\b", "… s", text)
    return nbformat.from_dict(json.loads(text))


def joined(outputs: list[Any]) -> list[Any]:
    """Pieces of one stream as one output; what goes to stderr (progress, warnings) is left out."""
    found: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if found and output.get("name") == "stdout" == found[-1].get("name"):
            found[-1]["text"] += output["text"]
        else:
            found.append(output)
    for output in found:
        if output.get("name") == "stdout":  # of lines that a terminal writes over, the last stays
            output["text"] = re.sub(r"[^\n]*\r", "", output["text"]).replace("\x1b[K", "")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="keep no outputs")
    parser.add_argument("names", nargs="*", help="notebooks (default: all)")
    arguments = parser.parse_args()
    failed = False
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if arguments.names and path.stem not in arguments.names:
            continue
        notebook = run(path)
        with tempfile.TemporaryDirectory() as folder:
            ran = Path(folder) / path.name
            ran.write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")
            wrong = [*faults(ran)]
            print("\n".join([f"{path.name}: ran", *wrong]), flush=True)
            failed = failed or bool(wrong)
            if not (arguments.check or wrong):
                path.write_text(ran.read_text(encoding="utf-8"), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
