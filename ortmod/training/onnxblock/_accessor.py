"""The model that blocks stack on: one at a time in a process."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from ortmod._errors import ModelError

_OLDEST_IR = 10  # of a model made from nothing; older runtimes read it, too


class ModelAccessor:
    """What `base` and `empty_base` hand out: the model that blocks manipulate, and where its external data is."""

    def __init__(self, model: onnx.ModelProto, path: str | None = None) -> None:
        self.model = model
        self._path = path
        self.depth = 0  # of calls of blocks within calls of blocks

    @property
    def path(self) -> str:
        if self._path is None:
            raise ModelError("[onnxblock] the model has no path: pass model_path= to onnxblock.base")
        return self._path

    @property
    def has_path(self) -> bool:
        return self._path is not None


_current: ModelAccessor | None = None
_library: os.PathLike | str | None = None


def current() -> ModelAccessor:
    if _current is None:
        raise ModelError(
            "[onnxblock] there is no model to build on: call blocks within `with onnxblock.base(model):` or `empty_base()`"
        )
    return _current


def library() -> os.PathLike | str | None:
    return _library


@contextmanager
def _active(accessor: ModelAccessor) -> Iterator[ModelAccessor]:
    global _current
    if _current is not None:
        raise ModelError("[onnxblock] Base onnx model already exists. Cannot create multiple ModelAccessors.")
    _current = accessor
    try:
        yield accessor
    finally:
        _current = None


@contextmanager
def base(model: onnx.ModelProto, model_path: str | None = None) -> Iterator[ModelAccessor]:
    """Blocks called within manipulate a copy of `model`; read it from the handle's `.model`.

    Args:
        model: the base model.
        model_path: where it was read from; needed if its weights are still external data.

    Raises:
        ModelError: there is no model, or another one is active.
    """
    if model is None:
        raise ModelError("[onnxblock] Base onnx model cannot be None; use onnxblock.empty_base() to build a model from nothing")
    with _active(ModelAccessor(copy.deepcopy(model), model_path)) as accessor:
        yield accessor


@contextmanager
def empty_base(opset_version: int | None = None) -> Iterator[ModelAccessor]:
    """Blocks called within build a new model of this opset (default: the newest)."""
    opset = opset_version or onnx.defs.onnx_opset_version()
    model = onnx.ModelProto(
        ir_version=max(_OLDEST_IR, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], True))
    )
    model.producer_name = "ortmod"
    model.graph.name = "graph"
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    with _active(ModelAccessor(model)) as accessor:
        yield accessor


@contextmanager
def custom_op_library(custom_op_library_path: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """Models built within may use the operators of a library of the stock onnxruntime."""
    global _library
    if _library is not None:
        raise ModelError("[onnxblock] CustomOp library already set. Cannot set multiple custom op libraries.")
    if not os.path.exists(custom_op_library_path):
        raise ModelError(f"[onnxblock] Custom op library path {custom_op_library_path} does not exist.")
    _library = custom_op_library_path
    try:
        yield custom_op_library_path
    finally:
        _library = None
