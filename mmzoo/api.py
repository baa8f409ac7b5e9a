"""The one import for plugin authors and for researchers with a loop of their own."""

from mmzoo.complexity import complexity
from mmzoo.data.datamodule import DataModule, Loader
from mmzoo.encoder import Encoder, InputSpec
from mmzoo.errors import BadValue, Incompatible, MmzooError
from mmzoo.evaluation import evaluate_modalities
from mmzoo.gradients import Grads
from mmzoo.head import FusionHead, conditioners, mean_over_present
from mmzoo.model import MultimodalModel
from mmzoo.readouts import Projected, Steps, to_one_width
from mmzoo.run import Run
from mmzoo.strategy import Chain, Group, Strategy, Terms, Window, Wrapper
from mmzoo.tracker import Tracker
from mmzoo.training import Training
from mmzoo.types import Batch, Lazy, Outputs, Pass, Step

__all__ = [
    "BadValue", "Batch", "Chain", "DataModule", "Encoder", "FusionHead", "Grads", "Group", "Incompatible", "InputSpec",
    "Lazy", "Loader", "MmzooError", "MultimodalModel", "Outputs", "Pass", "Projected", "Run", "Step", "Steps", "Strategy",
    "Terms", "Tracker", "Training", "Window", "Wrapper", "complexity", "conditioners", "evaluate_modalities",
    "mean_over_present", "to_one_width",
]  # fmt: skip
