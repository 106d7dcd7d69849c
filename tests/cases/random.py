"""Rows: Dropout where it draws nothing; random draws are in tests/test_random.py."""

import numpy as np
import torch
from oracle import Case, F, R


def same(x, *_):
    return x * 1


def masked(x, *_):
    return x * 1, torch.ones(x.shape, dtype=torch.bool)


TRUE, FALSE = np.array(True), np.array(False)

CASES = [
    Case("Dropout", [R(2, 3)], torch=same),
    Case("Dropout", [R(2, 3)], {"ratio": 0.25}, torch=same, opset=7),
    Case("Dropout", [R(2, 3)], {"ratio": 0.25}, torch=same, opset=10),
    Case("Dropout", [R(2, 3), F(0.25), FALSE], torch=masked, wrt=[0], outputs=2, opset=12),
    Case("Dropout", [R(2, 3), F(0.25), TRUE], const=[1, 2], expect=same, wrt=[0], unknown="", opset=13),
    Case("Dropout", [R(2, 3), F(0.0), TRUE], torch=masked, wrt=[0], outputs=2, training=True, second=False),
    Case("Dropout", [R(0, 3)], torch=same),
    Case("Dropout", [R(2, 3), F(1.5)], const=[1], wrt=[0], error="ratio out of range"),
    Case("Multinomial", [R(3)], wrt=[], error="expected rank 2"),
]
