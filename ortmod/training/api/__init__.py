"""The runtime of training artifacts: parameters, steps, updates and checkpoints, on ortmod's engine."""

from ortmod.training.api.checkpoint_state import CheckpointState, Parameter, Parameters, Properties
from ortmod.training.api.lr_scheduler import CosineLRScheduler, LinearLRScheduler
from ortmod.training.api.module import Module
from ortmod.training.api.optimizer import Optimizer

__all__ = [
    "CheckpointState",
    "CosineLRScheduler",
    "LinearLRScheduler",
    "Module",
    "Optimizer",
    "Parameter",
    "Parameters",
    "Properties",
]
