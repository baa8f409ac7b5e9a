"""mmzoo data shared: what the modalities of a data set share, and so whether matching them can help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmzoo.evaluation.shared_variation import Correlation


def add_shared(add_parser: Callable[..., Any]) -> None:
    parser = add_parser(
        "shared",
        help="measure what the modalities of a data set share beyond the class",
        description=(
            "Trains a unimodal model of each modality and correlates the features of the validation samples within classes: along the "
            "directions that tell classes apart (content) and along the others (context). Matching of samples can help where "
            "content is shared; where context alone is, it harms."
        ),
    )
    parser.add_argument("data", metavar="NAME", help="a data set, as for bench, or FILE.yaml")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the training runs (default: 0)")
    parser.add_argument(
        "--out", metavar="DIR", default="mmzoo-shared", help="folder of the runs (default: mmzoo-shared)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    parser.set_defaults(command=_shared)


def _shared(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.shared import shared_by
    from mmzoo.evaluation.shared_variation import MOST

    pairs = shared_by(arguments.data, seed=arguments.seed, out=arguments.out, device=arguments.device)
    print(
        f"{arguments.data}: correlation of trained unimodal features within classes, validation samples, seed {arguments.seed}"
    )
    for pair in pairs:
        print(f"  {pair.first} - {pair.second} ({pair.shared.n:,} samples)")
        print(f"    content: {_words(pair.shared.content)}")
        print(f"    context: {_words(pair.shared.context)}")
    print(
        "  value, [95 % of the values of pairs permuted within each class], p. Each is the first canonical correlation "
        f"of at most {MOST} directions, fitted on one half of the samples and taken on the other. Trained features are not linear in "
        "the shared variables: values are lower than in the inputs, and content also appears as context."
    )
    return 0


def _words(found: Correlation | None) -> str:
    if found is None:
        return "no such directions"
    said = "shared" if found.decided else "no more than chance"
    low, high = found.chance
    return f"{found.value:.2f} [{low:+.2f}, {high:+.2f}], p {found.p:.3f}: {said}"
