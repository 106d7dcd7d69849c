"""Rows: activation functions."""

import numpy as np
import torch
import torch.nn.functional as tf
from oracle import Case, F, R

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
EXTREME = [-1000.0, -100.0, 100.0, 1000.0]


def f32(v):
    """A number as a float attribute holds it."""
    return float(np.float32(v))


def hard_sigmoid(a, b):
    return lambda x: torch.clamp(x * f32(a) + f32(b), 0, 1)


def shrink(lam, bias):
    return lambda x: torch.where(x < -lam, x + bias, torch.where(x > lam, x - bias, torch.zeros_like(x)))


def swish(a):
    return lambda x: x * torch.sigmoid(a * x)


def prelu(x, s):
    return torch.where(x > 0, x, x * s)


CASES = [
    Case("Relu", [R(3, 4)], torch=tf.relu),
    Case("Relu", [F([-1.0, 0.0, 2.0])], torch=tf.relu, fd=False),
    Case("Relu", [R(3, 4)], torch=tf.relu, opset=7),
    Case("Relu", [np.array([-3, 4], np.int32)]),
    Case("LeakyRelu", [R(3, 4)], torch=lambda x: tf.leaky_relu(x, f32(0.01))),
    Case("LeakyRelu", [R(3, 4)], {"alpha": 0.25}, torch=lambda x: tf.leaky_relu(x, 0.25), opset=7),
    Case("LeakyRelu", [F([-1.0, 0.0, 2.0])], {"alpha": 0.25}, torch=lambda x: tf.leaky_relu(x, 0.25), fd=False),
    Case("PRelu", [R(2, 3, 4), R(3, 1)], torch=prelu),
    Case("PRelu", [R(2, 3), R(1)], torch=prelu, opset=7),
    Case("PRelu", [R(2, 3), R(2, 3)], torch=prelu),
    Case("PRelu", [R(2, 1), R(2, 3)], error="slope must broadcast"),
    Case("Elu", [R(3, 4)], torch=tf.elu),
    Case("Elu", [R(3, 4)], {"alpha": 1.5}, torch=lambda x: tf.elu(x, 1.5), opset=7),
    Case("Elu", [F(EXTREME)], torch=tf.elu, fd=False),
    Case("Elu", [F([0.0, -1.0])], {"alpha": 1.5}, torch=lambda x: tf.elu(x, 1.5), fd=False, second=False),
    Case("Selu", [R(3, 4)], torch=lambda x: SELU_GAMMA * tf.elu(x, SELU_ALPHA)),
    Case("Selu", [R(3, 4)], {"alpha": 1.5, "gamma": 2.0}, torch=lambda x: 2 * tf.elu(x, 1.5), opset=7),
    Case("Selu", [F(EXTREME)], {"alpha": 1.5, "gamma": 2.0}, torch=lambda x: 2 * tf.elu(x, 1.5), fd=False),
    Case("Celu", [R(3, 4)], torch=tf.celu),
    Case("Celu", [R(3, 4)], {"alpha": 2.0}, torch=lambda x: tf.celu(x, 2.0)),
    Case("Celu", [F(EXTREME)], {"alpha": 0.5}, torch=lambda x: tf.celu(x, 0.5), fd=False),
    Case("ThresholdedRelu", [R(3, 4)], {"alpha": 0.5}, torch=lambda x: tf.threshold(x, 0.5, 0)),
    Case("ThresholdedRelu", [F([0.5, 1.0, 2.0])], torch=lambda x: tf.threshold(x, 1, 0), fd=False, opset=10),
    Case("HardSigmoid", [R(3, 4)], torch=hard_sigmoid(0.2, 0.5)),
    Case("HardSigmoid", [R(3, 4)], {"alpha": 0.75, "beta": 0.25}, torch=hard_sigmoid(0.75, 0.25), opset=7),
    Case("HardSwish", [F([-4.0, -2.0, 1.0, 2.9, 5.0])], torch=tf.hardswish),
    Case("HardSwish", [R(3, 4)], torch=tf.hardswish, opset=14),
    Case("Mish", [R(3, 4)], torch=tf.mish),
    Case("Mish", [F(EXTREME)], torch=tf.mish, fd=False, second=False),
    Case("Softplus", [R(3, 4)], torch=tf.softplus),
    Case("Softplus", [F(EXTREME)], torch=tf.softplus, fd=False),
    Case("Softplus", [R(3, 4)], torch=tf.softplus, opset=7),
    Case("Softsign", [R(3, 4)], torch=tf.softsign),
    Case("Softsign", [R(3, 4)], torch=tf.softsign, opset=7),
    Case("Shrink", [R(3, 4)], {"lambd": 0.5, "bias": 0.25}, torch=shrink(0.5, 0.25)),
    Case("Shrink", [R(3, 4)], {"lambd": 0.25}, torch=lambda x: tf.hardshrink(x, 0.25)),
    Case("Shrink", [F([-0.5, 0.5, 1.0])], torch=shrink(0.5, 0), fd=False),
    Case("Gelu", [R(3, 4)], torch=tf.gelu),
    Case("Gelu", [R(3, 4)], {"approximate": "tanh"}, torch=lambda x: tf.gelu(x, approximate="tanh")),
    Case("Gelu", [F(EXTREME)], torch=tf.gelu, fd=False),
    Case("Gelu", [F(EXTREME)], {"approximate": "tanh"}, torch=lambda x: tf.gelu(x, approximate="tanh"), fd=False),
    Case("Gelu", [R(3)], {"approximate": "fast"}, error="unknown approximation"),
    Case("Swish", [R(3, 4)], torch=tf.silu),
    Case("Swish", [R(3, 4)], {"alpha": 1.5}, torch=swish(1.5)),
    Case("Swish", [F(EXTREME)], torch=tf.silu, fd=False),
    Case("SwiGLU", [R(3, 4), R(3, 4)], torch=lambda a, b: tf.silu(a) * b),
    Case("SwiGLU", [R(3, 4), R(3, 4)], {"alpha": 0.5}, torch=lambda a, b: swish(0.5)(a) * b),
    Case("SwiGLU", [R(3, 4), R(4)], error="differ in shape"),
]
