"""Errors of the estimators; each is also the ValueError that scikit-learn documents."""

from collections.abc import Iterator
from contextlib import contextmanager

from ortmod._errors import DTypeError, OrtmodError
from ortmod.training.excs import ConvergenceError, DataError, ParameterError

__all__ = ["DataError", "DivergenceError", "EstimatorError", "ParameterError", "typed"]


class DivergenceError(ConvergenceError, ValueError):
    """The loss is not finite; the estimator is what it was before the call."""


class EstimatorError(OrtmodError, NotImplementedError):
    """A fitted estimator that cannot go on training here."""


@contextmanager
def typed() -> Iterator[None]:
    """What scikit-learn's own checks of data say, under the types of ortmod."""
    try:
        yield
    except OrtmodError:
        raise
    except ValueError as error:
        raise DataError(f"[data] {error}") from None
    except TypeError as error:
        raise DTypeError(f"[data] {error}") from None
