"""Results do not depend on the number of threads, and are the same bits each time."""

import time

import onnx
import pytest
import torch
from networks import NETWORKS

import ortmod

MODELS = {
    "pointwise": "y = Mul(x, w) \n z = Tanh(y)",
    "rows": "y = Softmax<axis=-1>(x) \n m = ReduceSum<keepdims=1>(x, axis1) \n z = Sub(y, m)",
    "columns": "m = ReduceMean<keepdims=1>(x, axis0) \n d = Sub(x, m) \n z = Mul(d, w)",
    "everything": "m = ReduceSumSquare<keepdims=1>(x, both) \n z = Mul(w, m)",
    "maximum": "m = ReduceMax<keepdims=1>(x, axis0) \n y = Sub(x, m) \n z = LogSoftmax<axis=-1>(y)",
    "normalised": "z = LayerNormalization<axis=-1>(x, w)",
    "product": "t = Transpose<perm=[1, 0]>(x) \n p = MatMul(t, x) \n z = Add(p, w)",
    "gathered": "g = Gather<axis=0>(x, index) \n z = Mul(g, w)",
    "added": "g = GatherElements<axis=0>(x, indices) \n z = Mul(g, w)",
    "permuted": "r = Reshape(x, four) \n t = Transpose<perm=[2, 0, 1, 3]>(r) \n z = Mul(t, t)",
    "loss": "l = SoftmaxCrossEntropyLoss(x, labels) \n z = Mul(l, w)",
}
ROWS, COLUMNS = 1024, 640


def model(body: str) -> ortmod.OnnxModule:
    names = {
        "w": torch.randn(COLUMNS),
        "axis0": torch.tensor([0]),
        "axis1": torch.tensor([1]),
        "both": torch.tensor([0, 1]),
        "four": torch.tensor([16, 64, 32, 20]),
        "index": torch.randint(0, 64, (3000,)),
        "indices": torch.randint(0, 64, (2000, COLUMNS)),
        "labels": torch.randint(0, COLUMNS, (ROWS,)),
    }
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[{ROWS},{COLUMNS}] x) => (float z) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v.numpy(), k) for k, v in names.items() if k in body)
    return ortmod.OnnxModule(proto, trainable=["w"] if "w" in body.replace("axis", "") else None)


def results(module, x, threads):
    torch.set_num_threads(threads)
    x = x.detach().requires_grad_()
    z = module(x)
    weights = list(module.parameters())
    torch.manual_seed(1)
    return [z, *torch.autograd.grad(z, [x, *weights], torch.randn_like(z))]


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def compare(module, x):
    one = results(module, x, 1)
    for threads in (2, 3):
        several, again = results(module, x, threads), results(module, x, threads)
        for a, b, c in zip(one, several, again, strict=True):
            assert torch.equal(b, c)
            assert (a - b).abs().max() <= 1e-5 * a.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("name", MODELS)
def test_operators(name):
    compare(model(MODELS[name]), torch.randn(ROWS, COLUMNS))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    make, shape = NETWORKS[name]
    compare(ortmod.OnnxModule(make()), torch.randn(*shape))


def test_kernels_use_the_threads():
    """at::parallel_for is serial, and says nothing, where OpenMP is off."""
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n,k] x) => (float[n,k] z) { y = Sin(x) \n z = Erf(y) }'
    layer = ortmod.OnnxModule(onnx.parser.parse_model(text))
    x = torch.randn(4 * ROWS, COLUMNS)
    torch.set_num_threads(2)
    layer(x)
    all_threads, this_thread = time.process_time(), time.thread_time()
    for _ in range(20):
        layer(x)
    all_threads, this_thread = time.process_time() - all_threads, time.thread_time() - this_thread
    assert all_threads > 1.5 * this_thread
