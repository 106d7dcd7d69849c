"""Arrays in and out: numpy, torch or DLPack, and back in the kind that came."""

import math
from typing import Any

import numpy as np
import torch

from ortmod._errors import DTypeError


def to_tensor(value: Any) -> torch.Tensor:
    """A tensor over the memory of the value where possible."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    elif not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        return torch.from_dlpack(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        if array.dtype.name == "bfloat16":  # of ml_dtypes
            return to_tensor(array.view(np.int16)).view(torch.bfloat16)
        raise DTypeError(f"[train] data: got elements of type {array.dtype}, expected numbers; convert them first")
    if not array.flags.writeable or any(s < 0 for s in array.strides) or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as a numpy array; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def to_array_as_is(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as a numpy array of the same element type; bfloat16 is that of the package ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is not torch.bfloat16:
        return tensor.numpy()
    try:
        import ml_dtypes
    except ImportError:
        raise DTypeError(
            "[checkpoint] numpy has no bfloat16: install ml_dtypes, or save the state and read it as tensors with "
            "ortmod.training.checkpoint.load"
        ) from None
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def all_finite(tensor: torch.Tensor) -> bool:
    """Neither NaN nor infinity; a finite sum says so without another tensor of that size."""
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def like(tensor: torch.Tensor, example: Any) -> Any:
    """The tensor as the example's kind."""
    return tensor if isinstance(example, torch.Tensor) else to_array(tensor)
