"""`mmzoo gradcam`: Grad-CAM heat maps of one encoder of a run with saved weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.errors import BadValue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "gradcam",
        help="draw Grad-CAM images for a run with saved weights",
        description="Draws Grad-CAM of one modality of a run with saved weights (mmzoo bench --keep-weights), for the "
        "true class of test samples, as a PNG: each sample, and the heat map over it.",
    )
    add = parser.add_argument
    add("run", nargs="+", metavar="RUN", help="the run: DIR/runs/ID, or DIR and ID")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--items", metavar="N,...", help="positions in the test split, from 0")
    chosen.add_argument(
        "--draw", metavar="N", type=int, default=4, help="number of samples drawn at random (default: 4)"
    )
    add("--seed", metavar="N", type=int, default=0, help="seed for --draw (default: 0)")
    add("--modality", metavar="NAME", help="default: the first with images, else with video, else with spectrograms")
    add("--branch", action="store_true", help="explain the modality's own logits instead of the fused ones")
    add(
        "--stage",
        metavar="N",
        type=int,
        help="compute the map after this stage of the encoder, from 0 (default: the last one)",
    )
    add("--trust-code", action="store_true", help="execute the Python files that the run names")
    add("-o", "--output", metavar="FILE", default="gradcam.png", help="default: gradcam.png")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.applied import find_run
    from mmzoo.benchmark.heat_maps import figure_png, heat_of_run
    from mmzoo.io.files import write_bytes

    if len(arguments.run) > 2:
        raise BadValue(f"RUN is DIR/runs/ID, or DIR and ID: {len(arguments.run)} arguments were given.")
    if arguments.seed < 0:
        raise BadValue(f"--seed must be at least 0, not {arguments.seed}.")
    maps, items = heat_of_run(
        find_run(*arguments.run),
        _items(arguments.items),
        arguments.modality,
        draw=arguments.draw,
        seed=arguments.seed,
        branch=arguments.branch,
        stage=arguments.stage,
        trust=arguments.trust_code,
    )
    out = Path(arguments.output)
    try:
        write_bytes(out, figure_png([maps]))
    except OSError as error:
        raise BadValue(f"the picture cannot be written to {out}: {error}. Name another file with -o.") from None
    print(f"wrote {out}: {maps.label}, test samples {', '.join(map(str, items))}")
    return 0


def _items(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdigit() for p in parts):
        raise BadValue(f"--items must be whole numbers, e.g. 0,3,8, not {text!r}.")
    return [int(p) for p in parts]
