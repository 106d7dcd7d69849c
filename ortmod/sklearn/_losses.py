"""Losses of linear models beside those of `ortmod.training`, and the names by which estimators know losses."""

from typing import Any

from ortmod.training._params import checked_number
from ortmod.training.sgd_learning_loss import (
    AbsoluteLearningLoss,
    BaseLearningLoss,
    CrossEntropyLearningLoss,
    HuberLearningLoss,
    NegLogLearningLoss,
    SquareLearningLoss,
    _RowLoss,
)


class HingeLearningLoss(_RowLoss):
    """max(0, 1 - t s) of a raw score s and t = 2 y - 1 for a label y in {0, 1} (int64), summed over columns, or its square."""

    _integer_labels = True

    def __init__(self, squared: bool = False, convention: str = "sklearn") -> None:
        self.squared = squared
        self.convention = convention
        self._check()

    @property
    def _text(self) -> str:  # type: ignore[override]
        return "squared_hinge_loss" if self.squared else "hinge_loss"


class EpsilonInsensitiveLearningLoss(_RowLoss):
    """max(0, abs(d) - epsilon), summed over columns."""

    _text = "epsilon_insensitive_loss"

    def __init__(self, epsilon: float = 0.1, convention: str = "sklearn") -> None:
        self.epsilon = epsilon
        self.convention = convention
        self._check()

    def _check(self) -> None:
        super()._check()
        checked_number("epsilon", self.epsilon)

    def _values(self) -> dict[str, Any]:
        return {"epsilon": float(self.epsilon)}


REGRESSION: dict[str, type[BaseLearningLoss]] = {
    "squared_error": SquareLearningLoss,
    "absolute_error": AbsoluteLearningLoss,
    "huber": HuberLearningLoss,
    "epsilon_insensitive": EpsilonInsensitiveLearningLoss,
}
CLASSIFICATION = ("log_loss", "binary_log_loss", "hinge", "squared_hinge")


def classification_loss(name: str, columns: int) -> BaseLearningLoss:
    """`log_loss` is the softmax of several columns; the others take each column for itself, one class against the rest."""
    if name == "log_loss" and columns > 1:
        return CrossEntropyLearningLoss()
    if name in ("log_loss", "binary_log_loss"):
        return NegLogLearningLoss()
    return HingeLearningLoss(squared=name == "squared_hinge")
