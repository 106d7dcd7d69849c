"""Random operators: distributions, seeds, and the gradient of Dropout through the mask that was drawn."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import ortmod


def model(op, x_shape=None, opset=21, consts=(), outputs=("y",), x_type=TensorProto.FLOAT, **attrs):
    inputs = [helper.make_tensor_value_info("x", x_type, x_shape)] if x_shape is not None else []
    names = [i.name for i in inputs] + [c.name for c in consts]
    node = helper.make_node(op, names, list(outputs), **attrs)
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=n) for n in outputs], list(consts))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def dropout(opset, ratio, outputs=("y",), shape=(200, 50)):
    if opset < 12:
        return model("Dropout", shape, opset, outputs=outputs, ratio=ratio)
    consts = [
        helper.make_tensor("ratio", TensorProto.FLOAT, [], [ratio]),
        helper.make_tensor("training", TensorProto.BOOL, [], [True]),
    ]
    return model("Dropout", shape, opset, consts, outputs)


def layer(m):
    return ortmod.OnnxModule(m, trainable=[])


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 21])
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_dropout_in_training(opset, ratio):
    module = layer(dropout(opset, ratio)).train()
    x = torch.rand(200, 50) + 0.5
    x.requires_grad_()
    y = module(x)
    kept = y != 0
    assert abs(kept.float().mean().item() - (1 - ratio)) < 0.02
    torch.testing.assert_close(y[kept], x[kept] / (1 - ratio))
    w = torch.randn(200, 50)
    (grad,) = torch.autograd.grad(y, x, w)
    torch.testing.assert_close(grad, w * kept / (1 - ratio))
    module.eval()
    assert torch.equal(module(x), x)


def test_dropout_mask_output():
    module = layer(dropout(13, 0.5, ("y", "mask"))).train()
    x = torch.rand(200, 50) + 0.5
    y, mask = module(x)
    assert mask.dtype == torch.bool and torch.equal(mask, y != 0)
    module.eval()
    assert module(x)[1].all()


def test_dropout_of_everything():
    module = layer(dropout(13, 1.0)).train()
    x = torch.ones(200, 50, requires_grad=True)
    y = module(x)
    assert not y.any()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert not grad.any()


def test_dropout_follows_torch_seed():
    module = layer(dropout(13, 0.5)).train()
    x = torch.ones(200, 50)
    torch.manual_seed(3)
    first = module(x)
    again = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first) and not torch.equal(again, first)


def test_dropout_second_order_keeps_the_mask():
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[6,5] x) => (y)
        <float r = {0.5}, bool t = {1}> { s = Mul(x, x) d = Dropout(s, r, t) y = Mul(d, x) }"""
    module = layer(onnx.parser.parse_model(text)).train()
    x = torch.rand(6, 5) + 0.5
    x.requires_grad_()
    y = module(x)
    kept = (y != 0).float() * 2
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(first, 3 * x * x * kept)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x * kept)


@pytest.mark.parametrize("opset", [12, 21])
def test_emitted_dropout_on_the_stock_runtime(opset):
    m = ortmod.build_gradient(dropout(opset, 0.25), wrt=["x"], training=True)
    session = onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.rand(200, 50).astype(np.float32) + 0.5
    dy = np.random.randn(200, 50).astype(np.float32)
    names = [o.name for o in session.get_outputs()]
    result = dict(zip(names, session.run(None, {"x": x, "y_grad": dy}), strict=True))
    kept = result["y"] != 0
    assert abs(kept.mean() - 0.75) < 0.02
    np.testing.assert_allclose(result["x_grad"], dy * kept / 0.75, rtol=1e-5)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16])
@pytest.mark.parametrize(
    ("op", "attrs", "mean", "deviation"),
    [
        ("RandomNormal", {"mean": 2.0, "scale": 3.0}, 2.0, 3.0),
        ("RandomUniform", {"low": -1.0, "high": 3.0}, 1.0, 4 / math.sqrt(12)),
        ("RandomNormalLike", {"mean": 2.0, "scale": 3.0}, 2.0, 3.0),
        ("RandomUniformLike", {"low": -1.0, "high": 3.0}, 1.0, 4 / math.sqrt(12)),
    ],
)
def test_distributions(op, attrs, mean, deviation, dtype):
    like = op.endswith("Like")
    m = model(
        op,
        (100, 200) if like else None,
        x_type=dtype,
        **({} if like else {"shape": [100, 200]}),
        **{**attrs, "dtype": dtype},
    )
    expected = {1: torch.float32, 11: torch.float64, 16: torch.bfloat16}[dtype]
    y = layer(m)(*([torch.zeros(100, 200, dtype=expected)] if like else []))
    assert y.shape == (100, 200) and y.dtype == expected
    assert abs(y.double().mean().item() - mean) < 0.1 and abs(y.double().std().item() - deviation) < 0.1
    if "Uniform" in op:
        assert y.min() >= -1 and y.max() <= 3


def test_a_node_with_a_seed_is_reproducible():
    m = model("RandomNormal", shape=[5], seed=7.0)
    one, other = layer(m), layer(m)
    torch.manual_seed(1)
    first = one()
    torch.manual_seed(2)
    assert torch.equal(first, other())
    assert not torch.equal(first, one())


@pytest.mark.parametrize(
    ("dtype", "kind"), [(None, torch.float32), (TensorProto.BOOL, torch.bool), (TensorProto.INT64, torch.int64)]
)
def test_bernoulli(dtype, kind):
    y = layer(model("Bernoulli", (100, 200), **({"dtype": dtype} if dtype else {})))(torch.full((100, 200), 0.3))
    assert y.dtype == kind and set(y.double().unique().tolist()) == {0.0, 1.0}
    assert abs(y.double().mean().item() - 0.3) < 0.02


@pytest.mark.parametrize(("dtype", "kind"), [(None, torch.int32), (TensorProto.INT64, torch.int64)])
def test_multinomial(dtype, kind):
    p = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]])
    y = layer(model("Multinomial", (2, 3), sample_size=20000, **({"dtype": dtype} if dtype else {})))(p.log())
    assert y.dtype == kind and y.shape == (2, 20000)
    counts = torch.stack([torch.bincount(r.long(), minlength=3) for r in y]) / 20000
    assert (counts - p).abs().max() < 0.02
