"""mmzoo gradcam: where an encoder of a kept run looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.errors import BadValue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "gradcam",
        help="Grad-CAM pictures of a kept run",
        description="Grad-CAM of one modality of a run that kept its weights (mmzoo bench --keep-weights), for items of its test "
        "split and their true class, as a PNG: each item, and the heat over it.",
    )
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="the folder of the run: DIR/runs/RUN_ID")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--items", metavar="N,...", help="positions in the test split, from 0")
    chosen.add_argument("--draw", metavar="N", type=int, default=4, help="so many items drawn by --seed (default: 4)")
    add("--seed", metavar="N", type=int, default=0, help="of the draw (default: 0)")
    add("--modality", metavar="NAME", help="default: the first with images, else with video, else with spectrograms")
    add("--branch", action="store_true", help="explain the modality's own logits instead of the fused ones")
    add(
        "--stage", metavar="N", type=int, help="the map after this stage of the encoder, from 0 (default: the last one)"
    )
    add("--trust-code", action="store_true", help="execute the Python files that the run names")
    add("-o", "--output", metavar="FILE", default="gradcam.png", help="default: gradcam.png")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.heat_maps import figure_png, heat_of_run
    from mmzoo.io.files import write_bytes

    if arguments.seed < 0:
        raise BadValue(f"--seed must be at least 0, not {arguments.seed}.")
    maps, items = heat_of_run(
        Path(arguments.run_folder),
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
    print(f"wrote {out}: {maps.label}, test items {', '.join(map(str, items))}")
    return 0


def _items(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdigit() for p in parts):
        raise BadValue(f"--items must be whole numbers, 0,3,8 say, not {text!r}.")
    return [int(p) for p in parts]
