"""Rows: comparison, logic and bits."""

import numpy as np
from oracle import Case, F, R

T, F_ = True, False
A, B = np.array([T, T, F_, F_]), np.array([T, F_, T, F_])
BIG = np.array([1, 2**63 + 5, 2**63 + 5], np.uint64)
INF, NAN = float("inf"), float("nan")


def row(op, inputs, attrs=None, **more):
    return Case(op, inputs, attrs, wrt=[], **more)


CASES = [
    *[row(op, [R(2, 3), R(3)]) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")],
    *[row(op, [F([1.0, 2.0, NAN]), F([1.0, 3.0, 1.0])]) for op in ("Equal", "Less", "Greater", "LessOrEqual")],
    *[row(op, [[1, 2, 3], [2]]) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")],
    row("Less", [R(2, 3), R(2, 1)], opset=7),
    row("Greater", [R(2, 3), R(2, 1)], opset=7),
    row("Equal", [[1, 2, 3], [[2], [3]]], opset=7),
    row("Equal", [A, B]),
    row("Less", [BIG, np.array([2**63 + 5, 3, 2**63 + 6], np.uint64)]),
    row("GreaterOrEqual", [np.array([1, 60000], np.uint16), np.array([2], np.uint16)], expect=lambda a, b: a >= b),
    row("Equal", [R(2), R(3)], error="cannot be broadcast"),
    row("Less", [R(2), np.array([1, 2])], error="different types: got int64"),
    row("And", [A, B]),
    row("Or", [A, B]),
    row("Xor", [A, B[:, None]]),
    row("Not", [A]),
    row("And", [R(2), A[:2]], error="not accepted by this operator"),
    row("Not", [R(2)], error="not accepted by this operator"),
    row("IsNaN", [F([1.0, NAN, INF, -INF])]),
    row("IsInf", [F([1.0, NAN, INF, -INF])]),
    row("IsInf", [F([1.0, NAN, INF, -INF])], {"detect_negative": 0}),
    row("IsInf", [F([1.0, NAN, INF, -INF])], {"detect_positive": 0}),
    row("IsInf", [F([1.0, NAN, INF, -INF])], {"detect_positive": 0, "detect_negative": 0}),
    row("BitwiseAnd", [np.array([6, 12], np.int32), np.array([3], np.int32)]),
    row("BitwiseOr", [np.array([6, 12], np.uint16), np.array([3], np.uint16)]),
    row("BitwiseXor", [[6, 12], [3]]),
    row("BitwiseNot", [np.array([6, 200], np.uint8)]),
    row("BitwiseNot", [np.array([6, 40000], np.uint16)]),
    row("BitwiseAnd", [R(2), R(2)], error="not accepted by this operator"),
    row("BitShift", [np.array([16, 4, 1], np.uint8), np.array([1, 2, 3], np.uint8)], {"direction": "LEFT"}),
    row("BitShift", [BIG, np.array([1], np.uint64)], {"direction": "RIGHT"}),
    row("BitShift", [np.array([[16], [4]], np.uint32), np.array([1, 2, 3], np.uint32)], {"direction": "RIGHT"}, opset=11),
    row(
        "BitShift",
        [np.array([-16, -16, 7, 7], np.int32), np.array([2, 40, 2, -1], np.int32)],
        {"direction": "RIGHT"},
        opset=28,
        expect=lambda x, y: np.array([-4, -1, 1, 0], np.int32),
    ),
    row("BitShift", [np.array([1], np.uint8), np.array([1], np.uint8)], {"direction": "UP"}, error="unknown direction"),
]
