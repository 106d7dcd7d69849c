"""Losses, penalties, updates and schedules as ONNX text, forward only: the gradient builder derives every gradient."""

from functools import cache, lru_cache
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import onnx
import onnx.parser
import torch

from ortmod._errors import DTypeError, ModelError, said
from ortmod._model import TORCH_TO_ONNX

OPSET = 15
LEAST_OPSET = 9  # Constant of integers
TYPES = {1: "float", 11: "double"}


@cache
def _template(name: str) -> Template:
    return Template((files(__package__) / f"{name}.onnxtxt").read_text(encoding="utf-8"))


def element_type(dtype: Any) -> int:
    """The ONNX code of float32 or float64, given as numpy, torch or ONNX type."""
    if isinstance(dtype, torch.dtype):
        code = TORCH_TO_ONNX[dtype]
    else:
        code = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if code not in TYPES:
        raise DTypeError(f"[compose] dtype: got {dtype}, expected float32 or float64")
    return code


def _filled(template: Template, dtype: Any, opset: int | None, values: dict[str, Any]) -> str:
    """Numbers are written so that they are read back exactly."""
    code = element_type(dtype)
    opset = opset or OPSET
    if not isinstance(opset, int) or opset < LEAST_OPSET:
        raise ModelError(
            f"[compose] opset: got {opset!r}, expected {LEAST_OPSET} or more; graphs of other opsets are composed all the same"
        )
    by_attribute = opset < 13  # how ReduceSum is told to sum the columns
    columns = {
        "columns": "" if by_attribute else "each = Constant <value = int64[1] {1}> ()",
        "of_columns": ", axes = [1]" if by_attribute else "",
        "by_columns": "" if by_attribute else ", each",
    }
    filled = {key: repr(float(v)) if isinstance(v, float) else str(v) for key, v in values.items()}
    return template.substitute({"T": TYPES[code], "code": code, "opset": opset, **columns, **filled})


def text(name: str, /, *, dtype: Any = np.float32, opset: int | None = None, **values: Any) -> str:
    """The text of a file with its places filled in."""
    return _filled(_template(name), dtype, opset, values)


@lru_cache(256)
def _parsed(source: str) -> bytes:
    try:
        return onnx.parser.parse_model(source).SerializeToString()
    except onnx.parser.ParseError as error:
        raise ModelError(f"[import] the text of the graph cannot be read: {said(error)}") from error


def parse(source: str) -> onnx.ModelProto:
    return onnx.load_from_string(_parsed(source))


def graph(name: str, /, **values: Any) -> onnx.ModelProto:
    """The graph of a file."""
    return parse(text(name, **values))


def fill(source: str, /, *, dtype: Any = np.float32, opset: int | None = None, **values: Any) -> onnx.ModelProto:
    """The graph of a text with places, as the files have them."""
    return parse(_filled(Template(source), dtype, opset, values))
