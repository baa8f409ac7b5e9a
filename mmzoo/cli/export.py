"""mmzoo export: a trained model as a folder of its own, or as a graph that runs without mmzoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.errors import BadValue

#: form -> what the file or folder is called where -o is not given
NAMES = {"folder": "model", "torch": "model.pt2", "onnx": "model.onnx"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="take a trained model away: a portable folder, torch.export or ONNX",
        description="The run must have kept its weights (bench --keep-weights). The folder has weights, configuration, class names, "
        "preprocessing, tokenizers and a model card; mmzoo.from_pretrained loads it. The graphs take a tensor for each input, "
        "give the scores of each class, and are checked against the model before they are kept.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", nargs="+", help="DIR/runs/ID, or DIR and ID; or a folder that --to folder wrote")
    add("--to", choices=tuple(NAMES), default="folder", help="the form (default: folder)")
    add("-o", "--out", metavar="PATH", help="where to (default: model, model.pt2 or model.onnx)")
    add("--license", default="", metavar="SPDX", help="the licence of the weights, for the card of a folder")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the model and say where it is."""
    from mmzoo.benchmark.applied import find_run
    from mmzoo.benchmark.exporting import export
    from mmzoo.benchmark.pretrained import from_pretrained, is_pretrained, save_pretrained
    from mmzoo.benchmark.trained import load_run

    given = arguments.run
    if len(given) > 2:
        raise BadValue(f"RUN is DIR/runs/ID, or DIR and ID: {len(given)} arguments were given.")
    folder = Path(given[0])
    alone = len(given) == 1 and is_pretrained(folder)
    trained = from_pretrained(folder) if alone else load_run(find_run(*given))
    out = Path(arguments.out or NAMES[arguments.to])
    if arguments.to == "folder":
        print(f"mmzoo: wrote {save_pretrained(trained, out, license=arguments.license)}")
        return 0
    worst = export(trained, out, arguments.to)
    print(f"mmzoo: wrote {out}; its scores differ from the model's by at most {worst:.1e}")
    return 0
