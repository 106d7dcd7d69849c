"""Penalties: small graphs of one weight (and the rows that the loss is divided by) that give a number added to the mean loss.

| convention | ElasticLearningPenalty adds to the mean loss of a batch |
|---|---|
| "onnxcustom" | (l1 sum abs(w) + l2 sum w^2) / rows |
| "sklearn" (MLP: alpha = l2) | (l1 sum abs(w) + l2 / 2 sum w^2) / rows |
| "torch" (weight_decay = l2) | l1 sum abs(w) + l2 / 2 sum w^2 |

Its gradient goes through the update like that of the loss, so it is scaled by the rate. (onnxcustom applies it unscaled, before
the step.)
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from ortmod.training import graphs
from ortmod.training._params import Parameters, checked_choice, checked_number
from ortmod.training._pieces import built
from ortmod.training.excs import ParameterError

CONVENTIONS = ("onnxcustom", "sklearn", "torch")


class BaseLearningPenalty(Parameters):
    """A penalty. Subclass it with `build_onnx_function(...)` that returns a graph (weight[, rows]) -> (penalty); `weights` are
    the names or
    globs of the weights it applies to (None: all that are trained)."""

    weights: Sequence[str] | None = None

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto | None:
        raise NotImplementedError(f"{type(self).__name__} must define build_onnx_function")

    def build_onnx_functions(self) -> dict[str, Any]:
        return {"penalty": built(self)} if self.build_onnx_function() is not None else {}

    def chosen(self, trained: Sequence[str]) -> list[str]:
        """The trained weights that it applies to."""
        if self.weights is None:
            return list(trained)
        globs = [self.weights] if isinstance(self.weights, str) else list(self.weights)
        for pattern in globs:
            if not fnmatch.filter(trained, pattern):
                raise ParameterError(
                    f"[train] weights of the penalty: got {pattern!r}, which is none of the trained weights {', '.join(trained)}"
                )
        return [name for name in trained if any(fnmatch.fnmatchcase(name, pattern) for pattern in globs)]

    @staticmethod
    def select(class_name: Any, **kwargs: Any) -> "BaseLearningPenalty":
        """A penalty by instance, class name or alias; None is no penalty."""
        if isinstance(class_name, BaseLearningPenalty):
            return class_name
        if class_name in (None, "", NoLearningPenalty, "NoLearningPenalty"):
            return NoLearningPenalty(**kwargs)
        if class_name in ("elastic", "l1l2", ElasticLearningPenalty, "ElasticLearningPenalty"):
            return ElasticLearningPenalty(**kwargs)
        raise ParameterError(
            f"[train] learning_penalty: got {class_name!r}, expected a BaseLearningPenalty, None, 'elastic' or 'l1l2'"
        )


class NoLearningPenalty(BaseLearningPenalty):
    """No penalty."""

    def __init__(self) -> None:
        pass

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto | None:
        return None


class ElasticLearningPenalty(BaseLearningPenalty):
    """l1 and l2 norms of the weights; see the module for the conventions. `weights`: names or globs (None: all that are
    trained)."""

    def __init__(
        self, l1: float = 0.5, l2: float = 0.5, weights: Sequence[str] | None = None, convention: str = "onnxcustom"
    ) -> None:
        self.l1 = l1
        self.l2 = l2
        self.weights = weights
        self.convention = convention
        self._check()

    def _check(self) -> None:
        checked_choice("convention", self.convention, CONVENTIONS)
        checked_number("l1", self.l1)
        checked_number("l2", self.l2)

    def build_onnx_function(self, opset: int | None = None, dtype: Any = np.float32) -> onnx.ModelProto:
        self._check()
        name = "elastic_penalty" if self.convention == "torch" else "elastic_penalty_per_row"
        half = 1.0 if self.convention == "onnxcustom" else 0.5
        return graphs.graph(name, name=name, l1=float(self.l1), l2=half * self.l2, dtype=dtype, opset=opset)
