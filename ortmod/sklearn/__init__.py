"""Estimators of scikit-learn's kind over ONNX graphs: networks by their layers, or any graph."""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ImportError("ortmod.sklearn needs scikit-learn >= 1.6, which is not installed: pip install scikit-learn")

from ortmod.sklearn._errors import DataError, DivergenceError, EstimatorError, ParameterError  # noqa: E402
from ortmod.sklearn.classifier import OnnxClassifier  # noqa: E402
from ortmod.sklearn.regressor import OnnxRegressor  # noqa: E402

__all__ = ["DataError", "DivergenceError", "EstimatorError", "OnnxClassifier", "OnnxRegressor", "ParameterError"]
