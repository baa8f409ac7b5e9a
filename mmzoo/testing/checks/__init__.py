"""The contract checks, by the kind of thing that they check. Importing the package registers them all."""

from mmzoo.testing.checks import (
    behaviour,
    dataset,
    device,
    encoder,
    evaluation,
    finishing,
    head,
    head_samples,
    hooks,
    imports,
    processes,
    requirements,
    slips,
    strategy,
)

MODULES = (
    slips,
    strategy,
    requirements,
    imports,
    hooks,
    behaviour,
    head,
    head_samples,
    encoder,
    evaluation,
    finishing,
    processes,
    device,
    dataset,
)
