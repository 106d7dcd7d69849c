"""Makes any ONNX graph trainable: gradients as standard ONNX, run by a compiled plan, used from torch."""

from ortmod._check import check_torch

check_torch()

from ortmod import _C, _fake  # noqa: E402, F401
from ortmod._errors import (  # noqa: E402
    DeviceError,
    DTypeError,
    GradientError,
    ModelError,
    OrtmodError,
    RunError,
    ShapeError,
    UnsupportedOpError,
)
from ortmod.gradient import build_gradient  # noqa: E402
from ortmod.module import OnnxModule  # noqa: E402
from ortmod.ops import explain, register_gradient, supported_ops  # noqa: E402
from ortmod.ortmodule import ORTModule  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "DTypeError",
    "DeviceError",
    "GradientError",
    "ModelError",
    "ORTModule",
    "OnnxModule",
    "OrtmodError",
    "RunError",
    "ShapeError",
    "UnsupportedOpError",
    "build_gradient",
    "explain",
    "register_gradient",
    "supported_ops",
]
