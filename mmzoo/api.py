"""The one import for plugin authors and for researchers with a loop of their own."""

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.head import FusionHead, conditioners, mean_over_present
from mmzoo.core.model import MultimodalModel
from mmzoo.core.readouts import Projected, Steps, to_one_width
from mmzoo.core.values import Batch, Lazy, Outputs, Pass
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.errors import BadValue, Incompatible, MmzooError
from mmzoo.evaluation.complexity import complexity
from mmzoo.evaluation.scores import evaluate_modalities
from mmzoo.trackers.base import Tracker
from mmzoo.training.composition import Chain, Window, Wrapper
from mmzoo.training.config import Training
from mmzoo.training.gradients import Grads
from mmzoo.training.run import Run
from mmzoo.training.step import Step
from mmzoo.training.strategy import Group, Strategy, Terms

__all__ = [
    "BadValue",
    "Batch",
    "Chain",
    "DataModule",
    "Encoder",
    "FusionHead",
    "Grads",
    "Group",
    "Incompatible",
    "InputSpec",
    "Lazy",
    "Loader",
    "MmzooError",
    "MultimodalModel",
    "Outputs",
    "Pass",
    "Projected",
    "Run",
    "Step",
    "Steps",
    "Strategy",
    "Terms",
    "Tracker",
    "Training",
    "Window",
    "Wrapper",
    "complexity",
    "conditioners",
    "evaluate_modalities",
    "mean_over_present",
    "to_one_width",
]
