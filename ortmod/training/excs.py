"""Exceptions and warnings of training."""

from ortmod._errors import OrtmodError


class ConvergenceError(OrtmodError):
    """The loss is not finite. Weights and states are those before the epoch in which that happened."""


class ConvergenceWarning(UserWarning):
    """The same, where the caller asked for no exception."""


class EvaluationError(OrtmodError):
    """The loss of the validation data is not finite."""


class ProviderError(OrtmodError):
    """Data and model are on different devices, or on one that is not there."""
