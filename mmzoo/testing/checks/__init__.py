"""The contract checks, by the kind of thing that they check. Importing the package registers them all."""

from mmzoo.testing.checks import (
    behaviour,
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
    strategy,
    tripwire,
)

MODULES = (
    strategy,
    requirements,
    imports,
    tripwire,
    hooks,
    behaviour,
    head,
    head_samples,
    encoder,
    evaluation,
    finishing,
    processes,
    device,
)
