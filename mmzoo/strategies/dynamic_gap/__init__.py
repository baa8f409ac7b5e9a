"""Dynamic gap: classification and matching of modalities, weighted against each other over time.

`strategy` holds the training strategy, `losses` what it minimises, `learners`, `implicit` and `forward` how the weight
alpha changes, `released` the rules of the authors' scripts, and `settings` the parameters of all of them. To add a way
to learn alpha, write a `Learner` and name it in `strategy.learner_of`.
"""

from mmzoo.strategies.dynamic_gap.learners import Learner, heuristic, stepwise
from mmzoo.strategies.dynamic_gap.released import released_alpha, released_step, released_surrogate
from mmzoo.strategies.dynamic_gap.strategy import DynamicGap

__all__ = [
    "DynamicGap",
    "Learner",
    "heuristic",
    "released_alpha",
    "released_step",
    "released_surrogate",
    "stepwise",
]
