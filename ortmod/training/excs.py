"""Exceptions and warnings of training."""

from ortmod._errors import DeviceError, OrtmodError


class DataError(OrtmodError, ValueError):
    """Rows, labels or weights that cannot be used: NaN, another number of columns, negative weights, unknown labels."""


class ParameterError(OrtmodError, ValueError):
    """An argument that does not fit."""


class ConvergenceError(OrtmodError):
    """The loss is not finite. Weights and states are those before the epoch in which that happened."""


class ConvergenceWarning(UserWarning):
    """The same, where the caller asked for no exception."""


class EvaluationError(OrtmodError):
    """The loss of the validation data is not finite."""


ProviderError = DeviceError  # onnxcustom's name of it
