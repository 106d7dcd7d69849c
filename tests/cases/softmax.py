"""Rows: Softmax, LogSoftmax, Hardmax."""

import numpy as np
import torch
from oracle import Case, F, R

INF = float("inf")


def joined(fn, axis):
    """Before opset 13: over all axes from `axis` on."""
    return lambda x: fn(x.flatten(axis % x.dim()), -1).view(x.shape)


CASES = [
    case
    for name, fn in (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax))
    for case in (
        Case(name, [R(3, 5)], torch=lambda x, fn=fn: fn(x, -1)),
        Case(name, [R(2, 3, 4, 5)], {"axis": 1}, torch=lambda x, fn=fn: fn(x, 1)),
        Case(name, [R(2, 3, 4)], {"axis": -2}, torch=lambda x, fn=fn: fn(x, -2)),
        Case(name, [R(2, 3, 4)], opset=7, torch=joined(fn, 1)),
        Case(name, [R(2, 3, 4)], {"axis": 2}, opset=11, torch=joined(fn, 2)),
        Case(name, [R(2, 3, 4)], {"axis": 0}, opset=12, torch=joined(fn, 0)),
        Case(name, [R(2, 3, 4)], {"axis": -2}, opset=11, torch=joined(fn, -2)),
        Case(name, [R(5)], {"axis": 0}, torch=lambda x, fn=fn: fn(x, 0)),
        Case(name, [F([[1e4, -1e4, 0.0], [-INF, 0.0, 1.0]])], torch=lambda x, fn=fn: fn(x, -1), fd=False, second=name == "Softmax"),
        Case(name, [R(0, 4)], torch=lambda x, fn=fn: fn(x, -1), fd=False, dynamic=False, stock=False),
        Case(name, [R(2, 3)], {"axis": 2}, dynamic=False, error="axis out of range: got 2 for rank 2"),
    )
] + [
    Case(
        "Softmax",
        [F([[-INF, -INF], [0.0, 1.0]])],
        wrt=[],
        expect=lambda x: np.array([[np.nan, np.nan], [1 / (1 + np.e), np.e / (1 + np.e)]]),
    ),
    Case("Hardmax", [F([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]])], fd=False, stock=False),
    Case("Hardmax", [R(2, 3, 4)], {"axis": 1}, fd=False, stock=False),
    Case(
        "Hardmax",
        [R(2, 3, 4)],
        opset=11,
        fd=False,
        stock=False,
        expect=lambda x: np.eye(12)[x.reshape(2, 12).argmax(1)].reshape(2, 3, 4),
    ),
]
