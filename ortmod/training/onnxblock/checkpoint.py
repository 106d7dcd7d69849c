"""Checkpoints of lists of TensorProto, and back into a model."""

import os
from typing import Any

import onnx
import torch

from ortmod._errors import ModelError
from ortmod._model import ONNX_TO_TORCH
from ortmod.training import checkpoint


def save_checkpoint(
    parameters: tuple[list[onnx.TensorProto], list[onnx.TensorProto]],
    path_to_checkpoint: str | os.PathLike,
    nominal_checkpoint: bool = False,
) -> None:
    """Writes (trainable, frozen) parameters; `nominal_checkpoint`: their names and types without values."""
    if parameters is None:
        raise ModelError("[checkpoint] No checkpoint parameters provided.")
    trainable, frozen = parameters
    values = {tensor.name: (tensor_of(tensor), trains) for part, trains in ((trainable, True), (frozen, False)) for tensor in part}
    state = checkpoint.State(
        {name: value for name, (value, _) in values.items()}, [name for name, (_, trains) in values.items() if trains]
    )
    checkpoint.save(state, path_to_checkpoint, nominal=nominal_checkpoint)


def load_checkpoint_to_model(path_to_checkpoint: str | os.PathLike, model: onnx.ModelProto) -> None:
    """Gives the model's initializers the values that the checkpoint has under their names."""
    values = checkpoint.load(path_to_checkpoint).parameters
    for tensor in model.graph.initializer:
        if tensor.name not in values:
            continue
        value = values[tensor.name]
        if ONNX_TO_TORCH[tensor.data_type] != value.dtype or list(value.shape) != list(tensor.dims):
            raise ModelError(
                f'[checkpoint] "{tensor.name}": the checkpoint has {value.dtype}{list(value.shape)}, the model expects '
                f"{ONNX_TO_TORCH[tensor.data_type]}{list(tensor.dims)}"
            )
        raw = checkpoint.raw_bytes(value)
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, list(tensor.dims), raw, raw=True))


def tensor_of(tensor: onnx.TensorProto) -> torch.Tensor:
    array: Any = onnx.numpy_helper.to_array(tensor)
    dtype = ONNX_TO_TORCH[tensor.data_type]
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.astype("float32")).to(dtype)
    return torch.from_numpy(array.copy()).to(dtype)
