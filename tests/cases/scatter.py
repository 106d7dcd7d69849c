"""Rows: scatters with every reduction, OneHot, TensorScatter."""

import numpy as np
import torch
from oracle import Case, F, R

F2 = ("float64", "float32")
IDX = np.array([[1, 0, -1], [0, 2, 1]])
TIES = np.array([[0, 0, 1], [0, 2, 1]])
ND = np.array([[0, 1], [2, -1]])
NDTIES = np.array([[0], [2], [0]])


def nd(reduce):
    def run(x, i, u):
        rows = i[:, 0, None].expand(-1, x.shape[1])
        return x.scatter_reduce(0, rows, u, reduce) if reduce != "sum" else x.scatter_add(0, rows, u)

    return run


def reduced(reduce, axis):
    return lambda x, i, u: x.scatter_reduce(axis, i, u, reduce)


CASES = [
    Case("ScatterElements", [R(3, 4), IDX, R(2, 3)], torch=lambda x, i, u: x.scatter(0, i % 3, u)),
    Case(
        "ScatterElements",
        [R(3, 4), np.array([[1, 3], [0, 1], [2, 0]]), R(3, 2)],
        {"axis": -1},
        opset=11,
        torch=lambda x, i, u: x.scatter(1, i, u),
        dtypes=F2,
    ),
    Case("ScatterElements", [R(3, 3), TIES, R(2, 3)], {"reduction": "add"}, torch=reduced("sum", 0)),
    Case("ScatterElements", [R(3, 3), TIES, R(2, 3)], {"reduction": "mul", "axis": 1}, torch=reduced("prod", 1)),
    Case(
        "ScatterElements",
        [F([2.0, 3, 4]), [0, 0, 1, 1, 2], F([0.0, 5, 0, 0, 2])],
        {"reduction": "mul"},
        const=[],
        torch=reduced("prod", 0),
        second=False,
    ),
    Case("ScatterElements", [R(3, 3), TIES, R(2, 3)], {"reduction": "max"}, torch=reduced("amax", 0)),
    Case(
        "ScatterElements",
        [F([1.0, 3, 0]), [0, 0, 1, 1], F([1.0, 0.5, 3, 3])],
        {"reduction": "max"},
        const=[],
        fd=False,
        torch=reduced("amax", 0),
    ),
    Case("ScatterElements", [R(3, 3), TIES, R(2, 3)], {"reduction": "min", "axis": 1}, torch=reduced("amin", 1)),
    Case("ScatterElements", [R(3), [3], R(1)], error="index out of range: got 3"),
    Case("ScatterElements", [R(3), [1, 2], R(1)], error="indices and updates differ in shape"),
    Case(
        "Scatter",
        [R(3, 4), np.array([[1, 0, 2], [0, 2, 1]]), R(2, 3)],
        opset=9,
        torch=lambda x, i, u: x.scatter(0, i, u),
        dtypes=F2,
    ),
    Case("ScatterND", [R(3, 4, 2), ND, R(2, 2)], torch=lambda x, i, u: x.index_put((i[:, 0], i[:, 1]), u)),
    Case("ScatterND", [R(3, 4), NDTIES, R(3, 4)], {"reduction": "add"}, torch=nd("sum")),
    Case("ScatterND", [R(3, 4), NDTIES, R(3, 4)], {"reduction": "mul"}, torch=nd("prod")),
    Case("ScatterND", [R(3, 4), NDTIES, R(3, 4)], {"reduction": "max"}, torch=nd("amax")),
    Case("ScatterND", [R(3, 4), NDTIES, R(3, 4)], {"reduction": "min"}, opset=18, torch=nd("amin")),
    Case(
        "ScatterND", [R(3, 4), np.array([[2], [0]]), R(2, 4)], opset=11, torch=lambda x, i, u: x.index_put((i[:, 0],), u), dtypes=F2
    ),
    Case("ScatterND", [R(3, 4), np.array([[3]]), R(1, 4)], error="index out of range: got 3"),
    Case("ScatterND", [R(3, 4), np.array([[1]]), R(1, 3)], error="updates have the wrong shape"),
    Case(
        "OneHot",
        [np.array([[1, -1], [5, 0]]), np.array(3), F([0.5, 2.0])],
        torch=lambda i, d, v: torch.where(torch.tensor([[[0, 1, 0], [0, 0, 1]], [[0, 0, 0], [1, 0, 0]]]) > 0, v[1], v[0]),
    ),
    Case(
        "OneHot",
        [np.array([0, 2]), np.array(3), F([0.0, 1.0])],
        {"axis": 0},
        opset=9,
        dtypes=F2,
        torch=lambda i, d, v: torch.where(torch.tensor([[1, 0], [0, 0], [0, 1]]) > 0, v[1], v[0]),
    ),
    Case(
        "TensorScatter",
        [R(2, 4, 3), R(2, 2, 3), [2, 0]],
        torch=lambda x, u, w: torch.stack([torch.cat([x[0, :2], u[0]]), torch.cat([u[1], x[1, 2:]])]),
    ),
    Case(
        "TensorScatter",
        [R(2, 4, 3), R(2, 2, 3), [3, 1]],
        {"mode": "circular"},
        torch=lambda x, u, w: torch.stack([torch.cat([u[0, 1:], x[0, 1:3], u[0, :1]]), torch.cat([x[1, :1], u[1], x[1, 3:]])]),
    ),
    Case("TensorScatter", [R(2, 4, 3), R(2, 2, 3)], torch=lambda x, u: torch.cat([u, x[:, 2:]], 1)),
]
