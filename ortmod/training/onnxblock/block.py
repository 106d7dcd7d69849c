"""Blocks that end in a model: forward only, or training."""

import os
from abc import abstractmethod
from typing import Any

import onnx

from ortmod._errors import ModelError
from ortmod.training.onnxblock import _accessor as accessor
from ortmod.training.onnxblock import blocks
from ortmod.training.onnxblock._training import TrainingModels, build_models


def declare_outputs(model: onnx.ModelProto, outputs: Any) -> list[str]:
    """Makes these values the outputs of the model; LookupError if one does not exist."""
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    found = [onnx.ValueInfoProto(name=name, type=blocks.type_of(model, name)) for name in names]
    kept = {value.name for part in (found, model.graph.value_info, model.graph.input) for value in part}
    model.graph.value_info.extend(value for value in model.graph.output if value.name not in kept)
    del model.graph.output[:]
    model.graph.output.extend(found)
    return names


class ForwardBlock(blocks.Block):
    """A block whose result, the model up to what `build` returns, is a forward model.

    >>> class MyForwardBlock(ForwardBlock):
    >>>     def __init__(self):
    >>>         super().__init__()
    >>>         self.loss = onnxblock.loss.CrossEntropyLoss()
    >>>
    >>>     def build(self, loss_input_name: str):
    >>>         return self.loss(loss_input_name)
    """

    _model: onnx.ModelProto | None = None

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Adds to the model; returns the name of the graph output, or names."""

    def to_model_proto(self) -> onnx.ModelProto:
        """The forward model; RuntimeError before it is built."""
        if self._model is None:
            raise ModelError("[onnxblock] Please build the forward models first before trying to retrieve it.")
        return self._model

    def _finish(self, handle: accessor.ModelAccessor, result: Any) -> Any:
        declare_outputs(handle.model, result)
        blocks.check(handle.model)
        self._model = onnx.ModelProto()
        self._model.CopyFrom(handle.model)
        return result


class TrainingBlock(blocks.Block):
    """A block whose result is a training model and an eval model: the gradient of the first value that `build` returns, the loss.

    >>> class MyTrainingBlock(TrainingBlock):
    >>>     def __init__(self):
    >>>         super().__init__()
    >>>         self.loss = onnxblock.loss.CrossEntropyLoss()
    >>>
    >>>     def build(self, loss_input_name: str):
    >>>         return self.loss(loss_input_name)
    """

    opset = "keep"  # or "upgrade": to the lowest in which all gradients have a cheap form
    _models: TrainingModels | None = None
    _reached_only = False  # parameters that the loss does not reach are frozen, not refused

    def __init__(self) -> None:
        super().__init__()
        self._requires_grad: dict[str, bool] = {}

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Adds to the model; returns the name of the loss, or names of which the first is the loss."""

    def requires_grad(self, argument_name: str, value: bool = True) -> None:
        """Says whether a parameter trains or is frozen; the last word counts. Parameters not named stay constants of the models."""
        if not hasattr(self, "_requires_grad"):
            self._requires_grad = {}
        self._requires_grad[argument_name] = value

    def parameters(self) -> tuple[list[onnx.TensorProto], list[onnx.TensorProto]]:
        """Trainable and frozen parameters; RuntimeError before the model is built."""
        if self._models is None:
            raise ModelError("[onnxblock] Please build the training model first before trying to retrieve the parameters.")
        return self._models.parameters()

    def to_model_proto(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """Training and eval model; RuntimeError before they are built."""
        return self.models.training, self.models.eval

    @property
    def models(self) -> TrainingModels:
        if self._models is None:
            raise ModelError("[onnxblock] Please build the training and eval models first before trying to retrieve them.")
        return self._models

    def _finish(self, handle: accessor.ModelAccessor, result: Any) -> Any:
        names = declare_outputs(handle.model, result)
        blocks.check(handle.model)
        wanted = getattr(self, "_requires_grad", {})
        directory = os.path.dirname(os.path.abspath(handle.path)) if handle.has_path else ""
        trainable = [name for name, trains in wanted.items() if trains]
        frozen = [name for name, trains in wanted.items() if not trains]
        self._models = build_models(handle.model, names[0], trainable, frozen, directory, self.opset, self._reached_only)
        handle.model.CopyFrom(self._models.training)
        return result
