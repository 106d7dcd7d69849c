"""Training of standalone ONNX graphs: losses, penalties, learning rates as small graphs; full and partial training."""

from ortmod.training.data_loader import OrtDataLoader
from ortmod.training.excs import ConvergenceError, ConvergenceWarning, DataError, EvaluationError, ParameterError, ProviderError
from ortmod.training.grad_helper import DerivativeOptions, onnx_derivative
from ortmod.training.onnx_function import function_onnx_graph, get_supported_functions
from ortmod.training.onnx_helper import add_loss_output, get_train_initializer, onnx_rename_weights, penalty_loss_onnx
from ortmod.training.optimizers import OrtGradientOptimizer
from ortmod.training.optimizers_partial import OrtGradientForwardBackwardOptimizer
from ortmod.training.ortgradient import OrtGradientForwardBackward, OrtGradientForwardBackwardFunction
from ortmod.training.sgd_learning_loss import (
    AbsoluteLearningLoss,
    BaseLearningLoss,
    CrossEntropyLearningLoss,
    ElasticLearningLoss,
    HuberLearningLoss,
    NegLogLearningLoss,
    SquareLearningLoss,
)
from ortmod.training.sgd_learning_penalty import BaseLearningPenalty, ElasticLearningPenalty, NoLearningPenalty
from ortmod.training.sgd_learning_rate import BaseLearningRate, LearningRateAdamW, LearningRateSGD, LearningRateSGDNesterov

__all__ = [
    "AbsoluteLearningLoss",
    "BaseLearningLoss",
    "BaseLearningPenalty",
    "BaseLearningRate",
    "ConvergenceError",
    "ConvergenceWarning",
    "CrossEntropyLearningLoss",
    "DataError",
    "DerivativeOptions",
    "ElasticLearningLoss",
    "ElasticLearningPenalty",
    "EvaluationError",
    "HuberLearningLoss",
    "LearningRateAdamW",
    "LearningRateSGD",
    "LearningRateSGDNesterov",
    "NegLogLearningLoss",
    "NoLearningPenalty",
    "OrtDataLoader",
    "OrtGradientForwardBackward",
    "OrtGradientForwardBackwardFunction",
    "OrtGradientForwardBackwardOptimizer",
    "OrtGradientOptimizer",
    "ParameterError",
    "ProviderError",
    "SquareLearningLoss",
    "add_loss_output",
    "function_onnx_graph",
    "get_supported_functions",
    "get_train_initializer",
    "onnx_derivative",
    "onnx_rename_weights",
    "penalty_loss_onnx",
]
