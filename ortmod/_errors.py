"""The one family of errors; each is also the builtin kind that fits it."""


class OrtmodError(RuntimeError):
    """Base of all errors of ortmod. Messages read `[stage] what is wrong: got ..., expected ... (where); what to do`."""


class ModelError(OrtmodError, ValueError):
    """A model that cannot be read safely or contradicts itself, or a name that it does not have."""


class UnsupportedOpError(OrtmodError, NotImplementedError):
    """Operators that ortmod does not know; all of a model are named at once."""


class GradientError(OrtmodError):
    """A gradient that does not exist: an operator without a rule, a weight that no gradient reaches."""


class ShapeError(OrtmodError, ValueError):
    """Sizes that do not fit."""


class DTypeError(OrtmodError, TypeError):
    """Element types or kinds of tensors that do not fit."""


class DeviceError(OrtmodError):
    """Tensors on different devices, or on one that ortmod does not run on."""


class RunError(OrtmodError):
    """A failure while a graph runs: an index out of range, an exhausted limit."""


def said(error: Exception) -> str:
    """What an error says; onnx's parser gives bytes."""
    words = error.args[0] if error.args else ""
    return words.decode(errors="replace") if isinstance(words, bytes) else str(words)
