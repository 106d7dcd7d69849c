"""Another float type for a graph that casts: dtype=, .double(), .half()."""

import nets
import numpy as np
import onnx
import pytest
import skl2onnx
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import ortmod

MIXED = """<ir_version: 8, opset_import: ["": 17]>
    mixed (float16[N, 4] x, int64[N, 4] count) => (float16[N, 4] y)
    <float16[4, 4] w, float[4] scale = {1.0, 2.0, 3.0, 4.0}, float eps = {1e-6}> {
        counted = Cast <to = 10> (count)
        like = CastLike (count, x)
        sum = Add (counted, like)
        seen = Add (x, sum)
        m = MatMul (seen, w)
        wide = Cast <to = 1> (m)
        two = Constant <value_float = 2.0> ()
        square = Pow (wide, two)
        mean = ReduceMean <axes = [-1]> (square)
        safe = Add (mean, eps)
        root = Sqrt (safe)
        even = Div (wide, root)
        scaled = Mul (even, scale)
        y = Cast <to = 10> (scaled)
    }"""


def mixed():
    model = onnx.parser.parse_model(MIXED)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(-1, 1, 16, dtype=np.float16).reshape(4, 4), "w"))
    return model


@pytest.mark.parametrize("how", ["dtype=", ".to()"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_another_float_type_of_a_graph_with_casts(dtype, how):
    """Casts to the model's float type follow; what the graph computes in a third type goes on in that."""
    layer = ortmod.OnnxModule(mixed(), trainable=["w", "scale"], dtype=dtype if how == "dtype=" else None)
    x, count = torch.randn(3, 4), torch.randint(0, 3, (3, 4))
    if how == ".to()":
        assert layer(x.half(), count).dtype == torch.float16
        layer.to(dtype)
    w, scale = (p.detach().clone().requires_grad_() for p in (layer.w, layer.scale))
    assert w.dtype == scale.dtype == dtype
    m = ((x.to(dtype) + 2 * count.to(dtype)) @ w).float()
    expected = (m / (m.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale.float()).to(dtype)
    y = layer(x.to(dtype), count)
    nets.close(y, expected, 1e-6 if dtype != torch.bfloat16 else 2e-2)
    y.sum().backward()
    expected.sum().backward()
    for ours, theirs in ((layer.w.grad, w.grad), (layer.scale.grad, scale.grad)):
        nets.close(ours, theirs, 1e-5 if dtype != torch.bfloat16 else 2e-2)
    onnx.checker.check_model(layer.to_onnx(), full_check=True)


def test_a_converted_classifier_in_float64():
    x, labels = load_digits(return_X_y=True)
    fitted = MLPClassifier((8,), max_iter=2, random_state=0).fit(x[:200], labels[:200])
    model = skl2onnx.to_onnx(fitted, x[:1].astype(np.float32), options={"zipmap": False})
    layer = ortmod.OnnxModule(model, outputs=["probabilities"]).double()
    got = layer(torch.from_numpy(x[:50]))
    np.testing.assert_allclose(got.detach().numpy(), fitted.predict_proba(x[:50]), atol=1e-6)
    got.square().sum().backward()
    assert all(p.grad.dtype == torch.float64 and p.grad.abs().max() > 0 for p in layer.parameters())
