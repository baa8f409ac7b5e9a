"""The contract checks, by the kind of thing that they check. Importing the package registers them all."""

from mmzoo.testing.checks import (
    behaviour,
    device,
    encoder,
    evaluation,
    finishing,
    head,
    hooks,
    imports,
    processes,
    strategy,
    tripwire,
)

MODULES = (strategy, imports, tripwire, hooks, behaviour, head, encoder, evaluation, finishing, processes, device)
