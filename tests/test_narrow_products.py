"""Products with a few columns take ways of their own in the small matrix kernel: all layouts and biases against torch."""

import itertools

import onnx.parser
import pytest
import torch

from ortmod import _C
from ortmod._model import load


@pytest.mark.parametrize("trans_a, trans_b", itertools.product((0, 1), (0, 1)))
@pytest.mark.parametrize("bias", ["none", "row", "full", "column"])
def test_products_of_few_columns(trans_a, trans_b, bias):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for m, k, n in itertools.product((2, 5, 16, 300), (1, 7, 33, 300), (1, 2, 3, 4, 5)):
        a, b = random(*((k, m) if trans_a else (m, k))), random(*((n, k) if trans_b else (k, n)))
        c = {"none": None, "row": random(n), "full": random(m, n), "column": random(m, 1)}[bias]
        third = "" if c is None else f", double[{', '.join(map(str, c.shape))}] C"
        text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g (double[a, b] A, double[c, d] B{third}) => (double[m, n] Y) {{
            Y = Gemm<transA = {trans_a}, transB = {trans_b}, alpha = 1.5, beta = 0.5>(A, B{"" if c is None else ", C"})
        }}"""
        got = _C.run(_C.Executable(load(onnx.parser.parse_model(text))), [a, b] + ([] if c is None else [c]))[0]
        expected = 1.5 * (a.t() if trans_a else a) @ (b.t() if trans_b else b)
        torch.testing.assert_close(got, expected if c is None else expected + 0.5 * c, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("trans_a, trans_b", itertools.product((0, 1), (0, 1)))
@pytest.mark.parametrize("element", ["float", "double"])
def test_products_between_small_and_blas(element, trans_a, trans_b):
    """Sizes on both sides of where our kernels give way: inner blocks, many rows, a transposed B with few rows and with many."""
    generator = torch.Generator().manual_seed(0)
    for m, k, n in ((256, 300, 10), (1000, 70, 10), (40, 200, 130), (64, 520, 97), (200, 784, 100), (1030, 40, 33)):
        a = torch.randn(*((k, m) if trans_a else (m, k)), generator=generator, dtype=torch.float64)
        b = torch.randn(*((n, k) if trans_b else (k, n)), generator=generator, dtype=torch.float64)
        bias = torch.randn(n, generator=generator, dtype=torch.float64)
        text = f"""<ir_version: 8, opset_import: ["" : 15]>
        g ({element}[a, b] A, {element}[c, d] B, {element}[{n}] C) => ({element}[m, n] Y) {{
            P = Gemm<transA = {trans_a}, transB = {trans_b}>(A, B, C)
            Y = Relu(P)
        }}"""
        dtype = torch.float32 if element == "float" else torch.float64
        got = _C.run(_C.Executable(load(onnx.parser.parse_model(text))), [t.to(dtype) for t in (a, b, bias)])[0]
        expected = ((a.t() if trans_a else a) @ (b.t() if trans_b else b) + bias).relu()
        tolerance = 1e-4 if element == "float" else 1e-10
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=10 * tolerance)
