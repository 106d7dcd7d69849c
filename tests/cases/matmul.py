"""Rows: matrix products."""

import numpy as np
import torch
from oracle import Case, R


def gemm(a, b, c=None, alpha=1.0, beta=1.0, ta=False, tb=False):
    y = alpha * ((a.T if ta else a) @ (b.T if tb else b))
    return y if c is None else y + beta * c


def int8(*shape, low=-8, high=8, dtype=np.int8):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


CASES = [
    Case("MatMul", [R(3, 4), R(4, 5)], torch=torch.matmul),
    Case("MatMul", [R(3, 4), R(4, 5)], opset=7, torch=torch.matmul),
    Case("MatMul", [R(4), R(4)], torch=torch.matmul),
    Case("MatMul", [R(4), R(4, 5)], torch=torch.matmul),
    Case("MatMul", [R(4), R(2, 3, 4, 5)], torch=torch.matmul),
    Case("MatMul", [R(3, 4), R(4)], torch=torch.matmul),
    Case("MatMul", [R(2, 6, 3, 4), R(4)], torch=torch.matmul),
    Case("MatMul", [R(2, 3, 4), R(4, 5)], torch=torch.matmul),
    Case("MatMul", [R(2, 6, 3, 4), R(4, 5)], torch=torch.matmul),
    Case("MatMul", [R(3, 4), R(2, 4, 5)], torch=torch.matmul),
    Case("MatMul", [R(3, 4), R(2, 6, 4, 5)], torch=torch.matmul),
    Case("MatMul", [R(2, 3, 4), R(2, 4, 5)], torch=torch.matmul),
    Case("MatMul", [R(6, 1, 3, 4), R(2, 4, 5)], torch=torch.matmul),
    Case("MatMul", [R(1, 3, 4), R(2, 4, 1)], torch=torch.matmul),
    Case("MatMul", [R(2, 0, 4), R(4, 5)], torch=torch.matmul, fd=False, unknown=""),
    Case("MatMul", [R(3, 0), R(0, 5)], torch=torch.matmul, fd=False, unknown=""),
    Case("MatMul", [R(3, 4), R(5, 6)], dynamic=False, error="inner dimensions differ: got .*3.*4.* and .*5.*6"),
    Case("MatMul", [R(2, 3, 4), R(3, 4, 5)], dynamic=False, error="cannot be broadcast"),
    Case("Gemm", [R(3, 4), R(4, 5), R(5)], torch=gemm),
    Case("Gemm", [R(3, 4), R(4, 5)], torch=gemm),
    Case("Gemm", [R(3, 4), R(4, 5), R(3, 5)], {"alpha": 0.5, "beta": -2.0}, torch=lambda a, b, c: gemm(a, b, c, 0.5, -2.0)),
    Case("Gemm", [R(4, 3), R(4, 5), R(3, 1)], {"transA": 1}, torch=lambda a, b, c: gemm(a, b, c, ta=True)),
    Case("Gemm", [R(3, 4), R(5, 4), R(1, 5)], {"transB": 1}, torch=lambda a, b, c: gemm(a, b, c, tb=True)),
    Case(
        "Gemm",
        [R(4, 3), R(5, 4), R(1)],
        {"transA": 1, "transB": 1, "alpha": 1.5},
        torch=lambda a, b, c: gemm(a, b, c, 1.5, ta=True, tb=True),
    ),
    Case("Gemm", [R(3, 4), R(4, 5), R()], torch=gemm),
    Case("Gemm", [R(3, 4), R(4, 5), R(5)], {"beta": 0.0}, torch=lambda a, b, c: gemm(a, b) + 0 * c),
    Case("Gemm", [R(3, 4), R(4, 5), R(5)], {"alpha": 0.0}, torch=lambda a, b, c: 0 * gemm(a, b) + c),
    Case("Gemm", [R(3, 4), R(5, 4), R(5)], {"transB": 1}, opset=7, torch=lambda a, b, c: gemm(a, b, c, tb=True)),
    Case("Gemm", [R(3, 4), R(5, 4), R(5)], {"transB": 1}, opset=9, torch=lambda a, b, c: gemm(a, b, c, tb=True)),
    Case("Gemm", [R(3, 4), R(5, 6), R(6)], dynamic=False, error="inner dimensions differ"),
    Case("Gemm", [R(3, 4), R(4, 6), R(5)], dynamic=False, error="C must broadcast to the product: got .*5.*expected .*3.*6"),
    Case("Gemm", [R(2, 3, 4), R(4, 6)], dynamic=False, error="Gemm takes matrices"),
    Case("Einsum", [R(3, 4), R(4, 5)], {"equation": "ij,jk->ik"}, torch=lambda a, b: torch.einsum("ij,jk->ik", a, b)),
    Case("Einsum", [R(3, 4), R(4, 5)], {"equation": "ij,jk"}, torch=lambda a, b: torch.einsum("ij,jk", a, b)),
    Case(
        "Einsum",
        [R(2, 3, 4), R(2, 4, 5)],
        {"equation": "b i j, b j k -> b k i"},
        torch=lambda a, b: torch.einsum("bij,bjk->bki", a, b),
    ),
    Case(
        "Einsum", [R(2, 1), R(3, 4)], {"equation": "ij,jk->ik"}, dynamic=False, torch=lambda a, b: torch.einsum("ij,jk->ik", a, b)
    ),
    Case(
        "Einsum", [R(2, 4), R(1, 5)], {"equation": "ij,jk->ik"}, dynamic=False, torch=lambda a, b: torch.einsum("ij,jk->ik", a, b)
    ),
    Case("Einsum", [R(3, 4)], {"equation": "ij->ji"}, torch=lambda a: torch.einsum("ij->ji", a)),
    Case("Einsum", [R(3, 4)], {"equation": "ij->i"}, torch=lambda a: torch.einsum("ij->i", a)),
    Case("Einsum", [R(3, 4)], {"equation": "ij->"}, torch=lambda a: torch.einsum("ij->", a)),
    Case("Einsum", [R(4, 4)], {"equation": "ii->i"}, torch=lambda a: torch.einsum("ii->i", a)),
    Case("Einsum", [R(4, 4)], {"equation": "ii"}, torch=lambda a: torch.einsum("ii", a)),
    Case(
        "Einsum",
        [R(2, 6, 3, 4), R(4, 5)],
        {"equation": "...ij,jk->...ik"},
        torch=lambda a, b: torch.einsum("...ij,jk->...ik", a, b),
    ),
    Case(
        "Einsum",
        [R(2, 1, 3, 4), R(6, 4, 5)],
        {"equation": "...ij,...jk->...ik"},
        torch=lambda a, b: torch.einsum("...ij,...jk->...ik", a, b),
        expect=lambda a, b: np.einsum("...ij,...jk->...ik", a, b),
        stock=False,
    ),
    Case("Einsum", [R(3), R(4), R(5)], {"equation": "a,b,c->cab"}, torch=lambda a, b, c: torch.einsum("a,b,c->cab", a, b, c)),
    Case(
        "Einsum",
        [R(2, 3, 4), R(4, 5), R(5, 2)],
        {"equation": "abc,cd,de->ae"},
        torch=lambda a, b, c: torch.einsum("abc,cd,de->ae", a, b, c),
    ),
    Case("Einsum", [R(3, 4), R(4, 5)], {"equation": "ij,jkl->ik"}, dynamic=False, error="does not fit the rank"),
    Case("Einsum", [R(3, 4)], {"equation": "ij,jk->ik"}, dynamic=False, error="2 terms, expected one per operand: got 1"),
    Case("MatMulInteger", [int8(3, 4), int8(4, 5)]),
    Case("MatMulInteger", [int8(3, 4, low=0, dtype=np.uint8), int8(4, 5), np.uint8(3), np.int8(-2)]),
]
