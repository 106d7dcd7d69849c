"""What a user may give as a model, and the torch names of its element types."""

import math
import os
from typing import Any

import torch

from ortmod import _C
from ortmod._errors import ModelError

ONNX_TO_TORCH = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}
Raw = tuple[int, tuple[int, ...], bytes]  # element type, dims, data
_LARGE, _WIDEST = 1 << 16, 16  # bytes of data worth taking apart, of an element
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
TORCH_TO_ONNX = {torch_type: code for code, torch_type in ONNX_TO_TORCH.items()}


def load(model: Any, check: bool = True, foreign: bool = False) -> _C.Model:
    """The graph of a path, bytes, ModelProto or anything with SerializeToString(), in canonical form; `check=False`: as written;
    `foreign`: unknown operators of other domains stay (for graphs that another runtime runs)."""
    if isinstance(model, _C.Model):
        return model
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        return _C.Model.from_file(path, foreign=foreign) if check else _C.Model.unchecked_from_file(path)
    if hasattr(model, "model_proto"):  # torch.onnx.ONNXProgram
        model = model.model_proto
    given: dict[str, Raw] = {}
    if getattr(getattr(model, "DESCRIPTOR", None), "full_name", "") == "onnx.ModelProto":
        model, given = _apart(model)
    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    if isinstance(model, bytes | bytearray | memoryview):
        data = bytes(model)
        if check:
            return _C.Model.from_bytes(data, given=given, foreign=foreign)
        return _C.Model.unchecked_from_bytes(data, given=given)
    raise ModelError(f"[import] model: got {type(model).__name__}, expected a path, bytes or an onnx.ModelProto")


def _apart(proto: Any) -> tuple[Any, dict[str, Raw]]:
    """A ModelProto without the data of its large initializers, and these: nothing large is written and read again, and the whole
    may be larger than the 2 GiB that protobuf writes."""
    large = {i: raw for i, tensor in enumerate(proto.graph.initializer) if (raw := _large(tensor)) is not None}
    if not large:
        return proto, {}
    shell = type(proto)()
    _copy_fields(proto, shell, but="graph")
    _copy_fields(proto.graph, shell.graph, but="initializer")
    given = {}
    for i, tensor in enumerate(proto.graph.initializer):
        copy = shell.graph.initializer.add()
        if i in large and tensor.name not in given:
            copy.name, copy.data_type = tensor.name, tensor.data_type
            copy.dims.extend(tensor.dims)
            given[tensor.name] = large[i]
        else:
            copy.CopyFrom(tensor)
    return shell, given


def _large(tensor: Any) -> Raw | None:
    """The data of an initializer that is not small and has raw data of the right length and nothing else."""
    dims = tuple(tensor.dims[:])
    if math.prod(dims) < _LARGE // _WIDEST:  # most of many
        return None
    kind = ONNX_TO_TORCH.get(tensor.data_type)
    size = math.prod(dims) * kind.itemsize if kind is not None else 0
    if size < _LARGE or min(dims, default=0) < 0 or tensor.data_location or not tensor.HasField("raw_data"):
        return None
    if any(len(getattr(tensor, field)) for field in _TYPED):
        return None
    raw = tensor.raw_data
    return (tensor.data_type, dims, raw) if len(raw) == size else None


def _copy_fields(source: Any, to: Any, but: str) -> None:
    """Every field of a message but one, which is not touched."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name == but:
            continue
        if hasattr(value, "extend"):
            getattr(to, name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(to, name).CopyFrom(value)
        else:
            setattr(to, name, value)


def listed_inputs(model: Any) -> list[str]:
    """The inputs as the file lists them, initializers that have a place among them, too."""
    model = getattr(model, "model_proto", model)
    if isinstance(model, _C.Model):
        return []
    if isinstance(model, str | os.PathLike):
        return _C.listed_inputs_of_file(os.fspath(model))
    if hasattr(model, "graph"):
        return [value.name for value in model.graph.input]
    return _C.listed_inputs(bytes(model) if not hasattr(model, "SerializeToString") else model.SerializeToString())


def type_text(value: tuple) -> str:
    """`float32[batch, 3]` for a value's (element type, dims, kind)."""
    code, dims, kind = value
    name = str(ONNX_TO_TORCH.get(code, f"type {code}")).removeprefix("torch.")
    text = name if dims is None else f"{name}[{', '.join(dim_text(d) for d in dims)}]"
    return ("{}", "sequence({})", "optional({})", "map({})")[kind].format(text)


def dim_text(dim: Any) -> str:
    if dim is None:
        return "?"
    if isinstance(dim, tuple):
        return f"({dim_text(dim[1])}{dim[0]}{dim_text(dim[2])})"
    return str(dim)
