"""Estimators of scikit-learn's kind over ONNX graphs: networks by their layers, or any graph."""

from ortmod.sklearn._errors import DataError, DivergenceError, EstimatorError, ParameterError
from ortmod.sklearn.classifier import OnnxClassifier
from ortmod.sklearn.regressor import OnnxRegressor

__all__ = ["DataError", "DivergenceError", "EstimatorError", "OnnxClassifier", "OnnxRegressor", "ParameterError"]
