"""Rows: reductions, ArgMax and ArgMin, running sums and products."""

import numpy as np
import torch
from oracle import Case, F, R, U

INF = float("inf")


def dims(x, axes):
    return tuple(range(x.dim())) if axes is None else tuple(axes)


def prod(x, axes, keep):
    for a in sorted((a % x.dim() for a in dims(x, axes)), reverse=True):
        x = x.prod(a, keepdim=keep)
    return x


def of_nothing(x, _):
    """logsumexp whose gradient is 0, not NaN, where all is -inf."""
    nothing = (x == -INF).all(1, keepdim=True)
    y = torch.where(nothing, torch.zeros_like(x), x).logsumexp(1, True)
    return torch.where(nothing, torch.full_like(y, -INF), y)


TORCH = {
    "ReduceSum": lambda x, axes, keep: x.sum(dims(x, axes), keep),
    "ReduceMean": lambda x, axes, keep: x.mean(dims(x, axes), keep),
    "ReduceMax": lambda x, axes, keep: x.amax(dims(x, axes), keep),
    "ReduceMin": lambda x, axes, keep: x.amin(dims(x, axes), keep),
    "ReduceProd": prod,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(dims(x, axes), keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, dims(x, axes), keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(dims(x, axes), keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(dims(x, axes), keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(dims(x, axes), keep),
}


def drawn(op, *shape):
    return U(0.5, 2, *shape) if op == "ReduceLogSum" else R(*shape)


def new(op, shape, axes, keep=1, **more):
    """Axes as an input."""
    inputs = [drawn(op, *shape)] + ([axes] if axes is not None else [])
    return Case(op, inputs, {"keepdims": keep}, torch=lambda x, *_: TORCH[op](x, axes, bool(keep)), **more)


def old(op, shape, axes, keep=1, opset=7, **more):
    """Axes as an attribute."""
    attrs = {"keepdims": keep, **({"axes": axes} if axes is not None else {})}
    return Case(op, [drawn(op, *shape)], attrs, torch=lambda x: TORCH[op](x, axes, bool(keep)), opset=opset, **more)


def rows(op):
    return [
        new(op, (2, 3, 4), [1]),
        new(op, (2, 3, 4), [-1, 0], keep=0),
        new(op, (2, 3), None),
        new(op, (2, 3), None, keep=0),
        old(op, (2, 3, 4), [0, 2], keep=0),
        old(op, (2, 3), None, opset=11),
        old(op, (3, 2), [0], opset=12),
    ]


NOOP = {"noop_with_empty_axes": 1}

CASES = [
    *[case for op in TORCH for case in rows(op)],
    Case("ReduceSum", [R()], {"keepdims": 0}, torch=lambda x: x * 1),
    Case("ReduceSum", [R(2, 3), np.zeros(0, np.int64)], NOOP, torch=lambda x, a: x * 1),
    Case("ReduceSum", [R(2, 3), np.zeros(0, np.int64)], {"keepdims": 0}, torch=lambda x, a: x.sum()),
    Case("ReduceMean", [R(2, 3), np.zeros(0, np.int64)], {"keepdims": 0}, torch=lambda x, a: x.mean()),
    Case("ReduceMean", [R(2, 3)], NOOP, torch=lambda x: x * 1),
    Case("ReduceL2", [R(2, 3)], NOOP, torch=lambda x: x.abs()),
    Case("ReduceMax", [R(2, 3)], NOOP, torch=lambda x: x * 1),
    Case("ReduceSumSquare", [R(2, 3)], {**NOOP, "keepdims": 0}, torch=lambda x: x * x),
    Case("ReduceSum", [R(0, 3), [0]], torch=lambda x, a: x.sum(0, True), unknown="forward"),
    Case("ReduceSum", [R(0, 3), [1]], {"keepdims": 0}, torch=lambda x, a: x.sum(1)),
    Case("ReduceMax", [R(0, 3), [0]], wrt=[], expect=lambda x, a: np.full((1, 3), -INF), opset=20),
    Case("ReduceMin", [R(0, 3), [0]], {"keepdims": 0}, wrt=[], expect=lambda x, a: np.full((3,), INF), opset=20),
    Case("ReduceLogSumExp", [R(0, 3), [0]], wrt=[], expect=lambda x, a: np.full((1, 3), -INF)),
    Case("ReduceMax", [F([[1.0, 3.0, 3.0]]), [1]], torch=lambda x, a: x.amax(1, True), fd=False),
    Case("ReduceMin", [F([[1.0, 1.0, 3.0]]), [1]], {"keepdims": 0}, torch=lambda x, a: x.amin(1), fd=False),
    Case("ReduceProd", [F([[2.0, 0.0, 3.0], [0.0, 0.0, 5.0], [1.0, 2.0, 3.0]]), [1]], torch=lambda x, a: x.prod(1, True)),
    Case("ReduceL1", [F([-1.0, 0.0, 2.0])], torch=lambda x: x.abs().sum(0, True), fd=False),
    Case(
        "ReduceL2",
        [F([[0.0, 0.0], [3.0, 4.0]]), [1]],
        torch=lambda x, a: x.norm(dim=1, keepdim=True),
        fd=False,
        second=False,
    ),
    Case(
        "ReduceLogSumExp",
        [F([[1000.0, 999.0], [-1000.0, 0.0]]), [1]],
        torch=lambda x, a: x.logsumexp(1, True),
        fd=False,
    ),
    Case("ReduceLogSumExp", [F([[-INF, -INF], [-INF, 0.0]]), [1]], torch=of_nothing, fd=False, second=False),
    Case("ReduceSum", [[[1, 2], [3, 4]], [0]], {"keepdims": 0}),
    Case("ReduceMax", [np.array([[1, 2], [3, 4]], np.int32), [0]], {"keepdims": 0}),
    Case(
        "ReduceMax",
        [np.array([[True, False], [False, False]]), [1]],
        expect=lambda x, a: x.max(1, keepdims=True),
        opset=20,
    ),
    Case("ReduceMean", [np.array([[1, 2], [4, 5]], np.int32), [0]], {"keepdims": 0}),
    Case("ReduceProd", [np.array([[1, 2], [3, 4]], np.int32), [0]], {"keepdims": 0}),
    Case("ReduceL2", [np.array([[3, 4], [6, 8]], np.int32), [1]], {"keepdims": 0}),
    Case("ReduceSum", [R(2, 3), [2]], error="axis out of range: got 2 for rank 2"),
    Case("ReduceSum", [R(2, 3), [1, -1]], error="named twice"),
    Case("ReduceMax", [R(2, 3)], {"axes": [-3]}, opset=13, error="axis out of range"),
    *[
        Case(op, [R(3, 4)], attrs, wrt=[])
        for op in ("ArgMax", "ArgMin")
        for attrs in ({"axis": 1}, {"axis": -2, "keepdims": 0}, {"axis": 1, "select_last_index": 1})
    ],
    Case("ArgMax", [F([[1.0, 3.0, 3.0]])], {"axis": 1}, wrt=[]),
    Case("ArgMax", [F([[1.0, 3.0, 3.0]])], {"axis": 1, "select_last_index": 1}, wrt=[]),
    Case("ArgMin", [np.array([[3, 1, 1]], np.int32)], {"axis": 1}),
    Case("ArgMax", [R(3, 4)], {"axis": 1}, opset=7, wrt=[]),
    Case("ArgMax", [R(3, 4)], {"axis": 2}, error="axis out of range"),
    Case("CumSum", [R(3, 4), 1], torch=lambda x, a: x.cumsum(1)),
    Case("CumSum", [R(3, 4), [-2]], {"reverse": 1}, torch=lambda x, a: x.flip(0).cumsum(0).flip(0)),
    Case("CumSum", [R(4), 0], {"exclusive": 1}, torch=lambda x, a: x.cumsum(0) - x, opset=11),
    Case("CumSum", [R(4), 0], {"exclusive": 1, "reverse": 1}, torch=lambda x, a: x.flip(0).cumsum(0).flip(0) - x),
    Case("CumSum", [[1, 2, 3], 0]),
    Case("CumSum", [R(3, 4), 2], error="axis out of range"),
    Case("CumProd", [R(3, 4), 1], torch=lambda x, a: x.cumprod(1)),
    Case("CumProd", [R(3, 4), 0], {"reverse": 1}, torch=lambda x, a: x.flip(0).cumprod(0).flip(0)),
    Case("CumProd", [U(0.5, 2, 4), 0], {"exclusive": 1}, torch=lambda x, a: x.cumprod(0) / x),
    Case(
        "CumProd",
        [F([[2.0, 0.0, 3.0, 0.0, 2.0], [2.0, 3.0, 0.0, 4.0, 5.0]]), 1],
        torch=lambda x, a: x.cumprod(1),
        second=False,
    ),
]
