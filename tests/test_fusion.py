"""Fused graphs compute what unfused ones do; the fused text of two small graphs is kept as a golden."""

import os
from pathlib import Path

import onnx.parser
import pytest
import torch
from torch.autograd import gradcheck

import ortmod

GOLDEN = Path(__file__).parent / "golden" / "fusion"
FUSIONS = "fuse_matmul,fuse_pointwise"

MODELS = {
    "gelu_mlp": """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[n, 6] x) => (float[n, 3] y)
<float[5, 6] w1 = {0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7, 0.1, -0.9, 0.2, 0.3, -0.4, 0.5, 0.1, 0.2, -0.3, 0.4, 0.5, 0.6, -0.7, 0.8, 0.9,
  0.1, 0.2, -0.3, 0.4, -0.5, 0.6, 0.7, 0.8},
 float[5] b1 = {0.1, -0.2, 0.3, 0.0, 0.5},
 float[5, 3] w2 = {0.3, -0.1, 0.2, 0.5, 0.4, -0.6, 0.7, 0.1, 0.2, -0.3, 0.4, 0.1, 0.2, 0.3, 0.4},
 float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
{
  t = Transpose<perm = [1, 0]>(w1)
  h = MatMul(x, t)
  a = Add(h, b1)
  d = Div(a, root)
  e = Erf(d)
  f = Add(e, one)
  g = Mul(a, f)
  u = Mul(g, half)
  y = MatMul(u, w2)
}
""",
    "attention": """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[b, s, 8] x) => (float[b, s, 8] y)
<float[8] scale = {1.0, 0.9, 1.1, 1.2, 0.8, 1.0, 1.3, 0.7}, float c = {0.5}, int64[4] heads = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}>
{
  q = Mul(x, scale)
  k = Tanh(x)
  q4 = Reshape(q, heads)
  k4 = Reshape(k, heads)
  x4 = Reshape(x, heads)
  qt = Transpose<perm = [0, 2, 1, 3]>(q4)
  kt = Transpose<perm = [0, 2, 3, 1]>(k4)
  vt = Transpose<perm = [0, 2, 1, 3]>(x4)
  s = MatMul(qt, kt)
  sc = Mul(s, c)
  p = Softmax<axis = -1>(sc)
  o = MatMul(p, vt)
  ot = Transpose<perm = [0, 2, 1, 3]>(o)
  y = Reshape(ot, flat)
}
""",
    "masks": """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[n, 4, m] x) => (float[n, 4, m] y)
<float[4, 1] w = {0.5, -1.0, 2.0, 0.1}, float zero = {0.0}, float two = {2.0}>
{
  a = Mul(x, w)
  c = Greater(a, zero)
  e = Exp(a)
  l = Sub(e, two)
  k = Where(c, a, l)
  q = Pow(k, two)
  r = Sigmoid(q)
  y = Clip(r, zero, two)
}
""",
    "shared": """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[n, 5] x) => (float[n, 5] y, float[n, 5] z)
<float[5, 5] w = {1.0, 0.2, 0.0, 0.1, 0.3, 0.2, 1.0, 0.5, 0.0, 0.1, 0.4, 0.1, 1.0, 0.2, 0.0, 0.3, 0.2, 0.1, 1.0, 0.5, 0.0, 0.4, 0.2, 0.1, 1.0},
 float[5] b = {0.1, 0.2, 0.3, 0.4, 0.5}>
{
  a = Tanh(x)
  s = Sigmoid(a)
  m = MatMul(s, w)
  mb = Add(m, b)
  r = Relu(mb)
  y = Add(r, a)
  z = Mul(y, s)
}
""",
}
SHAPES = {"gelu_mlp": (7, 6), "attention": (2, 5, 8), "masks": (3, 4, 6), "shared": (4, 5)}


def model(name):
    return onnx.parser.parse_model(MODELS[name])


def gradients(name, shape, monkeypatch, disable, dtype=None):
    monkeypatch.setenv("ORTMOD_DISABLE", disable)
    torch.manual_seed(3)
    module = ortmod.OnnxModule(model(name), dtype=dtype)
    x = torch.randn(*shape, dtype=dtype or torch.float32, requires_grad=True)
    y = module(x)
    outputs = y if isinstance(y, tuple) else (y,)
    sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs).backward()
    return [o.detach() for o in outputs] + [x.grad] + [p.grad for p in module.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_fused_equals_unfused(name, dtype, monkeypatch):
    fused = gradients(name, SHAPES[name], monkeypatch, "", dtype)
    plain = gradients(name, SHAPES[name], monkeypatch, FUSIONS, dtype)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-12
    for a, b in zip(fused, plain, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_fused_graphs(name):
    module = ortmod.OnnxModule(model(name), dtype=torch.float64)
    x = torch.randn(*SHAPES[name], dtype=torch.float64, requires_grad=True)
    assert gradcheck(module, (x,))


@pytest.mark.parametrize("rows", [1, 2, 33, 700])
def test_sizes(rows, monkeypatch):
    """Rows that fill vectors, tiles and threads differently."""
    fused = gradients("masks", (rows, 4, 65), monkeypatch, "")
    plain = gradients("masks", (rows, 4, 65), monkeypatch, FUSIONS)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-5, atol=3e-5)


def report(name, needs=True):
    m = ortmod._C.Model.from_bytes(model(name).SerializeToString())
    weights = [w for w, (_, dims, _), _ in m.weights if dims]
    run = ortmod._C.Executable(m, weights)
    args = [torch.randn(*SHAPES[name])] + [m.weight(w) for w in weights]
    return run.report(args, list(range(len(args))) if needs else [], False)


@pytest.mark.parametrize("name", ["gelu_mlp", "shared"])
def test_text(name):
    """What fusion leaves of a small graph, forward and backward."""
    r = report(name)
    got = r["forward"] + "\n" + r["backward"]
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("ORTMOD_WRITE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(got)
    assert got == golden.read_text()


def test_steps_are_few():
    """The chain of the Gelu is one step; attention has no step that only permutes."""
    steps = [op for backward, _, op, _ in report("gelu_mlp", needs=False)["steps"] if not backward]
    assert steps == ["ortmod::MatMulT", "ortmod::Fused", "ortmod::MatMulT"]  # the last one takes the half
    assert "Transpose" not in [op for _, _, op, _ in report("attention")["steps"]]


def test_long_chain():
    """A chain longer than one program holds is cut, and right."""
    nodes = "\n".join(f"  v{i + 1} = {('Sin', 'Tanh')[i % 2]}(v{i})" for i in range(400))
    text = f'<ir_version: 8, opset_import: ["": 17]>\nagraph (float[n, 3] v0) => (float[n, 3] v400)\n{{\n{nodes}\n}}'
    module = ortmod.OnnxModule(onnx.parser.parse_model(text), dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = x
    for i in range(400):
        y = torch.tanh(y) if i % 2 else torch.sin(y)
    (expected,) = torch.autograd.grad(y.sum(), x)
    got = module(x)
    (grad,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(grad, expected)
