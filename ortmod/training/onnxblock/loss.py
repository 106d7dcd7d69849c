"""Losses as blocks: the elements of a loss come from the graph library, the reductions from blocks."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from ortmod._errors import ModelError
from ortmod.training import graphs
from ortmod.training.onnxblock import _proto as proto
from ortmod.training.onnxblock import blocks

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss"]

_CROSS_ENTROPY_OPSET = 12


def _checked(reduction: str) -> str:
    if reduction not in ("mean", "sum", "none"):
        raise ModelError(f'[onnxblock] Reduction {reduction} not supported. Expected "mean", "sum" or "none".')
    return reduction


class _Elementwise(blocks.Block):
    """The reduction of a loss of one element of the input and one of the target."""

    elements = ""
    shorthand = ""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self._reduction = _checked(reduction)

    def build(self, loss_input_name: str, target_name: str = "target") -> str:
        """Adds the loss; a new input `target_name` if the model has no such value. Returns the name of the loss."""
        value_type = blocks.type_of(self.base, loss_input_name)
        if not proto.exists(self.base, target_name):
            target_name = blocks.add_input(self.base, target_name, value_type)
        code = proto.element_type(self.base, loss_input_name)
        if code in graphs.TYPES:
            return self._reduce(self._losses(loss_input_name, target_name, code))
        both = [proto.node(self.base, "Cast", [name], to=TensorProto.FLOAT)[0] for name in (loss_input_name, target_name)]
        loss = self._reduce(self._losses(both[0], both[1], TensorProto.FLOAT))
        return proto.node(self.base, "Cast", [loss], output=f"{self.shorthand}.narrow", to=code)[0]

    def _losses(self, values: str, target: str, code: int) -> str:
        piece = proto.without_softplus(self._piece(code), code)
        return self._weighted(proto.Paste(self.base.graph).piece(piece, [values, target], f"{self.shorthand}.")[0], code)

    def _piece(self, code: int) -> onnx.ModelProto:
        fragment = graphs.text(self.elements, dtype=code)
        return graphs.graph("elements", dtype=code, name=self.shorthand, losses=fragment)

    def _weighted(self, losses: str, code: int) -> str:
        return losses

    def _reduce(self, losses: str) -> str:
        if self._reduction == "none":
            return losses
        op = "ReduceMean" if self._reduction == "mean" else "ReduceSum"
        return proto.node(self.base, op, [losses], output=f"{self.shorthand}.loss", keepdims=0)[0]


class MSELoss(_Elementwise):
    """reduce((input - target)^2).

    Args:
        reduction: "mean", "sum" or "none".
    """

    elements, shorthand = "square_loss", "mse"


class L1Loss(_Elementwise):
    """reduce(|input - target|).

    Args:
        reduction: "mean", "sum" or "none".
    """

    elements, shorthand = "absolute_loss", "l1"


class BCEWithLogitsLoss(_Elementwise):
    """Binary cross entropy of logits, written so that no logit overflows.

    Args:
        weight: factors of the elements' losses, of a shape that broadcasts to the input's.
        reduction: "mean", "sum" or "none".
        pos_weight: factors of the losses of positive targets, of a shape that broadcasts to the input's.
    """

    elements, shorthand = "neg_log_loss", "bce"

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self._weight, self._pos_weight = weight, pos_weight

    def _piece(self, code: int) -> onnx.ModelProto:
        if self._pos_weight is None:
            return super()._piece(code)
        name = proto.constant(self.base, "bceloss.pos_weight", _array(self._pos_weight), code)
        piece = graphs.graph("elements", dtype=code, name=self.shorthand, losses=graphs.text("positive_log_loss", dtype=code))
        for node in piece.graph.node:
            node.input[:] = [name if value == "pos_weight" else value for value in node.input]
        return piece

    def _weighted(self, losses: str, code: int) -> str:
        if self._weight is None:
            return losses
        weight = proto.constant(self.base, "bceloss.weight", _array(self._weight), code)
        return proto.node(self.base, "Mul", [losses, weight])[0]


class CrossEntropyLoss(blocks.Block):
    """Cross entropy of scores of shape [N, C, ...] and labels (int64) of shape [N, ...].

    Args:
        weight: a factor per class.
        reduction: "mean" (by the labels' weights, as in torch), "sum" or "none".
        ignore_index: a label that counts for nothing.
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", ignore_index: int | None = None) -> None:
        super().__init__()
        self._weight, self._reduction, self._ignore = weight, _checked(reduction), ignore_index

    def build(self, scores_input_name: str, labels_name: str = "labels") -> str:
        """Adds the loss; a new input `labels_name` if the model has no such value. Returns the name of the loss."""
        if proto.opset(self.base) < _CROSS_ENTROPY_OPSET:
            raise ModelError(
                f"[onnxblock] CrossEntropyLoss needs opset {_CROSS_ENTROPY_OPSET}: the model has {proto.opset(self.base)}; "
                'give opset="upgrade" to generate_artifacts, or convert the model with onnx.version_converter'
            )
        scores = blocks.type_of(self.base, scores_input_name)
        if not proto.exists(self.base, labels_name):
            labels_name = blocks.add_input(self.base, labels_name, self._labels(scores, scores_input_name))
        inputs = [scores_input_name, labels_name]
        if self._weight is not None:
            code = proto.element_type(self.base, scores_input_name)
            inputs.append(proto.constant(self.base, "celoss.weight", _array(self._weight), code))
        attributes: dict[str, Any] = {"reduction": self._reduction}
        if self._ignore is not None:
            attributes["ignore_index"] = self._ignore
        return proto.node(self.base, "SoftmaxCrossEntropyLoss", inputs, output="cross_entropy.loss", **attributes)[0]

    @staticmethod
    def _labels(scores: onnx.TypeProto, name: str) -> onnx.TypeProto:
        labels = onnx.TypeProto()
        labels.tensor_type.elem_type = TensorProto.INT64
        if scores.tensor_type.HasField("shape"):
            dims = scores.tensor_type.shape.dim
            if len(dims) < 2:
                raise ModelError(f'[onnxblock] CrossEntropyLoss of "{name}": got scores of rank {len(dims)}, expected [N, C, ...]')
            labels.tensor_type.shape.dim.extend(d for i, d in enumerate(dims) if i != 1)
        return labels


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
