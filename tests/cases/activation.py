"""Rows: activation functions."""

import torch.nn.functional as tf
from oracle import Case, F, R

CASES = [
    Case("Relu", [R(3, 4)], torch=tf.relu),
    Case("Relu", [F([-1.0, 0.0, 2.0])], torch=tf.relu, fd=False),
]
