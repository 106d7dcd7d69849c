"""Arrays in and out: numpy, torch or DLPack, and back in the kind that came."""

import math
from typing import Any

import numpy as np
import torch

from ortmod._errors import DTypeError
from ortmod._model import ONNX_TO_TORCH
from ortmod.training.excs import DataError

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # of which torch knows no common types


def to_tensor(value: Any, name: str = "data") -> torch.Tensor:
    """A tensor over the memory of the value where possible; `name`: of the value in errors."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_meta or value.is_complex():
            raise DTypeError(
                f"[train] {name}: got a tensor of {value.dtype} ({value.layout}, {value.device}), expected real numbers, dense"
            )
        return value.detach()
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError(f"[train] {name}: got masked elements; drop or fill these rows first")
    elif not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        return torch.from_dlpack(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        if array.dtype.name == "bfloat16":  # of ml_dtypes
            return to_tensor(array.view(np.int16)).view(torch.bfloat16)
        raise DTypeError(f"[train] {name}: got elements of type {array.dtype}, expected numbers; convert them first")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.flags.writeable or any(s < 0 for s in array.strides) or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def to_column(value: Any, name: str, t: Any) -> torch.Tensor:
    """The data of an input of the type `t` = (element type, dims, kind); numbers that do not fit into it are refused, a second
    dimension of one column is added or dropped."""
    tensor = to_tensor(value, f'"{name}"')
    wanted = ONNX_TO_TORCH[t[0]]
    floats = tensor.dtype.is_floating_point
    if floats and not all_finite(tensor):
        raise DataError(f'[train] "{name}" contains NaN or infinity; drop or fill these rows first')
    if floats and not wanted.is_floating_point and bool((tensor != tensor.round()).any()):
        raise DTypeError(f'[train] "{name}": got numbers that are not whole, expected {wanted}')
    given, tensor = tensor, tensor.to(wanted)
    narrower = given.dtype not in _UNSIGNED and torch.promote_types(given.dtype, wanted) != wanted
    if floats and narrower and wanted.is_floating_point and not all_finite(tensor):
        raise DataError(f'[train] "{name}": got numbers beyond {wanted}, up to {given.abs().max().item():.3g}; scale them first')
    if narrower and not wanted.is_floating_point and wanted != torch.bool and bool((tensor.to(given.dtype) != given).any()):
        raise DataError(f'[train] "{name}": got numbers beyond {wanted}, up to {given.abs().max().item():.3g}')
    rank = None if t[1] is None else len(t[1])
    if rank == 2 and tensor.dim() == 1:
        tensor = tensor.reshape(-1, 1)
    elif rank == 1 and tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor.reshape(-1)
    return tensor.contiguous()


def rows_of(value: Any) -> int | None:
    """The rows of an array or a list; None for a single number."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return len(value) if hasattr(value, "__len__") else None
    return int(shape[0]) if len(shape) else None


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


def float_type(name: str, dtype: Any) -> torch.dtype:
    """A torch type of floats, given as torch or numpy type or by its name."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, getattr(dtype, "__name__", str(dtype)), None)
    if found not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise DTypeError(f"[train] {name}: got {dtype!r}, expected torch.float32, float64, bfloat16 or float16")
    return found
