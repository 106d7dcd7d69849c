"""Blocks that stack operators, losses and optimizers on a model, and end in forward, training and optimizer models."""

from ortmod.training.onnxblock import blocks, loss, optim
from ortmod.training.onnxblock._accessor import base, custom_op_library, empty_base
from ortmod.training.onnxblock.block import ForwardBlock, TrainingBlock
from ortmod.training.onnxblock.blocks import Block
from ortmod.training.onnxblock.checkpoint import load_checkpoint_to_model, save_checkpoint

__all__ = [
    "Block",
    "ForwardBlock",
    "TrainingBlock",
    "base",
    "blocks",
    "custom_op_library",
    "empty_base",
    "load_checkpoint_to_model",
    "loss",
    "optim",
    "save_checkpoint",
]
