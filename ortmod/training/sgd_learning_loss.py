"""Losses: small graphs of (expected, predicted[, weight]) that give the sum over the rows and one score per row.

A step divides the sum once, by the number of rows of the batch or by the sum of their weights. With d = predicted - expected, w
the weight
of a row and sums over the columns of a row:

| class | convention="onnxcustom" | "sklearn" | "torch" (mean over columns) |
|---|---|---|---|
| SquareLearningLoss | w d^2 / 2 | w d^2 / 2 | w d^2 |
| AbsoluteLearningLoss | w abs(d) | w abs(d) | w abs(d) |
| ElasticLearningLoss | w (l1 abs(d) + l2 d^2) | the same | the same |
| HuberLearningLoss | w (d^2 / 2 if abs(d) <= delta else delta (abs(d) - delta / 2)) | the same | the same |
| NegLogLearningLoss | w (softplus(s) - y s), s the raw score | the same | the same |
| CrossEntropyLearningLoss | - w log softmax(s)[y] | the same | the same (no columns) |

onnxcustom divides by the batch size it was constructed with; scikit-learn's MLP divides by the sum of weights, and reports the
square
loss divided by the number of outputs, too, though its gradient is not.
"""

from typing import Any

import numpy as np
import onnx
import torch

from ortmod.training import graphs
from ortmod.training._params import Parameters, accepted, checked_choice, checked_number
from ortmod.training._pieces import built, evaluate
from ortmod.training.excs import DataError, ParameterError

CONVENTIONS = ("onnxcustom", "sklearn", "torch")


class BaseLearningLoss(Parameters):
    """A loss. Subclass it with `build_onnx_function(...)` that returns a ModelProto (or ONNX text, or an onnxscript function) of
    inputs
    (expected, predicted) or (expected, predicted, weight) and outputs (sum over the rows[, scores of the rows]). The arguments
    it takes of
    `opset`, `dtype`, `weighted` are given by name."""

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32, weighted: bool = False) -> onnx.ModelProto:
        raise NotImplementedError(f"{type(self).__name__} must define build_onnx_function")

    def build_onnx_score_function(
        self, opset: int | None = None, dtype: Any = np.float32, weighted: bool = False
    ) -> onnx.ModelProto:
        """The same graph with the scores of the rows as its only output."""
        proto = built(self, opset=opset, dtype=dtype, weighted=weighted)
        if len(proto.graph.output) < 2:
            raise ParameterError(f"[train] {type(self).__name__} has no scores: its graph has one output")
        del proto.graph.output[0]
        return proto

    def check_labels(self, name: str, labels: torch.Tensor, columns: int | None) -> None:
        """Raises DataError where a loss does not know some of the labels; `columns`: those of what is predicted, if known."""

    def build_onnx_functions(self) -> dict[str, Any]:
        graphs = {"loss": built(self)}
        if "weighted" in accepted(self.build_onnx_function, {"weighted": True}):
            graphs["weighted_loss"] = built(self, weighted=True)
        return graphs

    def loss_gradient(self, expected: Any, predicted: Any, weight: Any = None) -> tuple[Any, Any]:
        """The sum of the loss over the rows, of shape (1,), and its gradient by `predicted`, derived from the graph."""
        return evaluate(self, expected, predicted, weight, gradient=True)

    def loss_scores(self, expected: Any, predicted: Any, weight: Any = None) -> Any:
        """The weighted loss of each row, of shape (n, 1)."""
        return evaluate(self, expected, predicted, weight, gradient=False)

    @staticmethod
    def select(class_name: Any, **kwargs: Any) -> "BaseLearningLoss":
        """A loss by instance, class name or alias."""
        if isinstance(class_name, BaseLearningLoss):
            return class_name
        for cls, names in _ALIASES.items():
            if isinstance(class_name, str | type) and class_name in (*names, cls, cls.__name__):
                return cls(**kwargs)
        known = ", ".join(repr(n) for names in _ALIASES.values() for n in names)
        raise ParameterError(f"[train] learning_loss: got {class_name!r}, expected a BaseLearningLoss or one of {known}")


def _check_classes(name: str, labels: torch.Tensor, classes: int | None) -> None:
    if not labels.numel():
        return
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or (classes is not None and high >= classes):
        up_to = "" if classes is None else f" to {classes - 1}"
        raise DataError(f'[train] "{name}": got labels from {low} to {high}, expected 0{up_to}; number the classes from 0')


class _RowLoss(BaseLearningLoss):
    convention: str
    _text, _total = "", "total"
    _integer_labels = False

    def _values(self) -> dict[str, Any]:
        return {}

    def _scale(self) -> tuple[str, dict[str, Any]]:
        return ("scale_elements", {}) if self.convention == "torch" else ("scale_none", {})

    def _check(self) -> None:
        checked_choice("convention", self.convention, CONVENTIONS)

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32, weighted: bool = False) -> onnx.ModelProto:
        self._check()
        common = {"dtype": dtype, "opset": opset}
        scale, factors = self._scale()
        label = "int64" if self._integer_labels else ("float", "double")[graphs.element_type(dtype) == 11]
        return graphs.graph(
            "loss_weighted" if weighted else "loss",
            name=self._text,
            L=label,
            losses=graphs.text(self._text, **self._values(), **common),
            total=graphs.text(self._total),
            scale=graphs.text(scale, **factors, **common),
            **common,
        )


class SquareLearningLoss(_RowLoss):
    """Half the square of the difference, summed; see the module for the conventions."""

    _text, _total = "square_loss", "total_square"

    def __init__(self, convention: str = "onnxcustom") -> None:
        self.convention = convention
        self._check()

    def _scale(self) -> tuple[str, dict[str, Any]]:
        return super()._scale() if self.convention == "torch" else ("scale_factor", {"factor": 0.5})


class AbsoluteLearningLoss(_RowLoss):
    """The absolute difference, summed."""

    _text = "absolute_loss"

    def __init__(self, convention: str = "onnxcustom") -> None:
        self.convention = convention
        self._check()


class ElasticLearningLoss(_RowLoss):
    """l1_weight abs(d) + l2_weight d^2, summed."""

    _text = "elastic_loss"

    def __init__(self, l1_weight: float = 0.5, l2_weight: float = 0.5, convention: str = "onnxcustom") -> None:
        self.l1_weight = l1_weight
        self.l2_weight = l2_weight
        self.convention = convention
        self._check()

    def _check(self) -> None:
        super()._check()
        checked_number("l1_weight", self.l1_weight)
        checked_number("l2_weight", self.l2_weight)

    def _values(self) -> dict[str, Any]:
        return {"l1_weight": float(self.l1_weight), "l2_weight": float(self.l2_weight)}


class HuberLearningLoss(_RowLoss):
    """d^2 / 2 up to delta, delta (abs(d) - delta / 2) beyond; torch's HuberLoss, scikit-learn's huber with epsilon = delta."""

    _text = "huber_loss"

    def __init__(self, delta: float = 1.0, convention: str = "onnxcustom") -> None:
        self.delta = delta
        self.convention = convention
        self._check()

    def _check(self) -> None:
        super()._check()
        checked_number("delta", self.delta, 1e-30)

    def _values(self) -> dict[str, Any]:
        return {"delta": float(self.delta)}


class NegLogLearningLoss(_RowLoss):
    """Binary log loss of a raw score s and a label y in {0, 1} (int64): softplus(s) - y s, whose gradient is sigmoid(s) - y.

    onnxcustom clips the probability to [eps, 1 - eps]; this form needs no clipping and does not lose the gradient of rows that
    are far off, so
    `eps` only has to be a valid bound."""

    _text = "neg_log_loss"
    _integer_labels = True

    def __init__(self, eps: float = 1e-5, probability_function: str = "sigmoid", convention: str = "onnxcustom") -> None:
        self.eps = eps
        self.probability_function = probability_function
        self.convention = convention
        self._check()

    def _check(self) -> None:
        super()._check()
        checked_number("eps", self.eps, 0.0, 0.5)
        checked_choice("probability_function", self.probability_function, ("sigmoid",))

    def check_labels(self, name: str, labels: torch.Tensor, columns: int | None) -> None:
        _check_classes(name, labels, 2)


class CrossEntropyLearningLoss(BaseLearningLoss):
    """Multi-class log loss of raw scores (n, k) and class numbers (n,), int64: minus the logarithm of the softmax at the class."""

    def __init__(self, convention: str = "onnxcustom") -> None:
        self.convention = convention
        self._check()

    def _check(self) -> None:
        checked_choice("convention", self.convention, CONVENTIONS)

    def check_labels(self, name: str, labels: torch.Tensor, columns: int | None) -> None:
        _check_classes(name, labels, columns)

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32, weighted: bool = False) -> onnx.ModelProto:
        self._check()
        if opset is not None and opset < 12:
            raise ParameterError(f"[train] opset: got {opset}, expected at least 12, the first with SoftmaxCrossEntropyLoss")
        return graphs.graph("cross_entropy_loss" + "_weighted" * weighted, name="cross_entropy_loss", dtype=dtype, opset=opset)


_ALIASES: dict[Any, tuple[str, ...]] = {
    SquareLearningLoss: ("square_error", "square", "squared_error", "l2"),
    AbsoluteLearningLoss: ("absolute_error", "absolute", "l1"),
    ElasticLearningLoss: ("elastic_error", "elastic"),
    NegLogLearningLoss: ("log", "neglog", "logloss", "log_loss"),
    HuberLearningLoss: ("huber",),
    CrossEntropyLearningLoss: ("cross_entropy",),
}
