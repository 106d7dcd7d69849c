"""Values of steps over a few elements: programs by slots, small products, trivial reductions; output names."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

import ortmod

# One element, less than a vector, a vector and a bit, more than the small engine takes.
SIZES = (1, 3, 16, 17, 50, 64, 65, 200)


def outputs(text, arrays):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    for out in model.graph.output:
        out.type.tensor_type.ClearField("shape")
    names = [value.name for value in model.graph.input]
    expected = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    got = ortmod.OnnxModule(model, trainable=[])(*(torch.from_numpy(a) for a in arrays))
    return [got] if isinstance(got, torch.Tensor) else list(got), expected


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", [1, 2])
def test_fused(rows, columns, dtype):
    random = np.random.default_rng(0)
    kind = np.float32 if dtype == "float" else np.float64
    x, b, s, c = (random.normal(size=shape).astype(kind) for shape in ((rows, columns), (columns,), (), (rows, 1)))
    t = dtype
    text = (
        f"({t}[R, C] x, {t}[C] b, {t} s, {t}[R, 1] c) => ({t}[R, C] y, {t}[R, C] z) {{ h = Constant <value = {t} {{0.5}}> ()"
        " a = Mul(x, s) d = Add(a, b) r = Relu(d) p = Less(r, c) q = Where(p, x, r) n = Neg(q) m = Max(n, h) k = Min(m, x)"
        " e = Tanh(k) f = Abs(e) y = Sub(f, c) g = Sqrt(f) z = Div(g, h) }"
    )
    got, expected = outputs(text, (x, b, s, c))
    for value, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(value.numpy(), want, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("tb", [0, 1])
@pytest.mark.parametrize(
    "m, k, n",
    [(1, 10, 1), (1, 33, 1), (1, 7, 5), (1, 9, 16), (1, 3, 17), (10, 1, 1), (4, 1, 19), (64, 1, 100), (9, 300, 37), (2, 3, 2)],
)
def test_gemm(m, k, n, ta, tb, bias, relu, dtype):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(k, m) if ta else (m, k)), random.normal(size=(n, k) if tb else (k, n))]
    arrays += [random.normal(size=n)] if bias else []
    t = "float" if dtype is np.float32 else "double"
    text = (
        f"({t}[I, J] a, {t}[K, L] b{f', {t}[N] c' if bias else ''}) => ({t}[M, N] y) {{ "
        f"p = Gemm <transA = {ta}, transB = {tb}, alpha = 0.5, beta = 2.0> (a, b{', c' if bias else ''}) "
        f"y = {'Relu' if relu else 'Identity'}(p) }}"
    )
    got, expected = outputs(text, [a.astype(dtype) for a in arrays])
    np.testing.assert_allclose(got[0].numpy(), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare"])
def test_reduction_over_axes_of_size_1(op):
    x = np.random.default_rng(0).normal(size=(5, 1, 2)).astype(np.float32)
    text = f"(float[A, B, C] x) => (float[A, C] y) {{ a = Constant <value_ints = [1]> () y = Reduce{op} <keepdims = 0> (x, a) }}"
    got, expected = outputs(text, [x])
    np.testing.assert_allclose(got[0].numpy(), expected[0], rtol=1e-6)


def test_an_output_that_equals_a_value_keeps_its_name():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[N] x) => (float[N] y)'
        " { one = Constant <value = float {1}> () t = Exp(x) y = Div(t, one) }"
    )
    layer = ortmod.OnnxModule(model, trainable=[])
    x = torch.linspace(-1, 1, 5)
    assert [name for _, _, name, _ in layer._executable.report([x], [], False)["steps"]] == ["Exp"]
    torch.testing.assert_close(layer(x), x.exp())


def test_programs_over_one_element_are_joined():
    text = (
        "(float[N] x, float[N] t, float[1] s) => (float[1] a, float[1] q, float[1] y) { i = Constant <value_ints = [0]> ()"
        " h = Constant <value = float {2}> () m = Mul(x, h) d = Sub(m, t) a = ReduceSum(d, i) b = Sub(a, s) c = Mul(b, h)"
        " q = ReduceSumSquare(c, i) p = Greater(q, s) n = Neg(q) w = Where(p, n, a) l = ReduceL1(w, i) y = Add(l, q) }"
    )
    for sign in (-1, 1):
        arrays = [np.array([v], dtype=np.float32) for v in (0.5, 0.2 * sign, -0.7)]
        got, expected = outputs(text, arrays)
        for value, want in zip(got, expected, strict=True):
            np.testing.assert_allclose(value.numpy(), want, rtol=1e-6)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    report = ortmod.OnnxModule(model, trainable=[])._executable.report
    one, two = (report([torch.ones(n), torch.ones(n), torch.ones(1)], [], False)["steps"] for n in (1, 2))
    assert len(one) == 1 < len(two)
