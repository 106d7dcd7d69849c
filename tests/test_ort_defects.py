"""What the last ORT training release gets silently wrong, by name: each gradient against torch in float64."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
import torch.nn.functional as tf
from oracle import assert_close

import ortmod


def layer(text: str, opset: int = 21, trainable=()) -> ortmod.OnnxModule:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    return ortmod.OnnxModule(model, trainable=list(trainable))


def numbers(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check(module, want, *inputs: torch.Tensor, tol: float = 1e-10) -> None:
    """Outputs and the gradient of sum(w * y), w random, for every floating-point input."""
    results = []
    for fn in (module, want):
        leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = fn(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum((y * numbers(*y.shape, seed=i + 7, dtype=y.dtype)).sum() for i, y in enumerate(outputs))
        grads = torch.autograd.grad(loss, [v for v in leaves if v.requires_grad])
        results.append([t.detach() for t in (*outputs, *grads)])
    for i, (got, expected) in enumerate(zip(*results, strict=True)):
        assert got.dtype == expected.dtype
        assert_close(got, expected, tol, f"value {i}")


def test_split_with_an_unused_output():
    module = layer(
        "g (double[6, 4] x) => (double[2, 4] a, double[2, 4] c) { s = Constant <value_ints = [2, 2, 2]> () a, b, c = Split (x, s) }"
    )
    check(module, lambda x: (x[:2], x[4:]), numbers(6, 4))


def test_where_with_a_broadcast_operand():
    module = layer("g (bool[3, 4] c, double[4] a, double[3, 1] b) => (double[3, 4] y) { y = Where (c, a, b) }")
    condition = numbers(3, 4) > 0
    check(module, torch.where, condition, numbers(4, seed=1), numbers(3, 1, seed=2))


def test_conv_with_auto_pad_same_upper():
    module = layer(
        "g (double[1, 2, 6, 7] x, double[3, 2, 2, 4] w) => (double[1, 3, 3, 3] y) "
        '{ y = Conv <auto_pad = "SAME_UPPER", strides = [2, 3]> (x, w) }'
    )
    check(
        module, lambda x, w: tf.conv2d(tf.pad(x, (1, 2, 0, 0)), w, stride=(2, 3)), numbers(1, 2, 6, 7), numbers(3, 2, 2, 4, seed=1)
    )


def test_average_pool_with_auto_pad_same_upper():
    module = layer(
        "g (double[1, 2, 6, 7] x) => (double[1, 2, 3, 4] y) "
        '{ y = AveragePool <auto_pad = "SAME_UPPER", kernel_shape = [3, 2], strides = [2, 2]> (x) }'
    )

    def want(x):
        def sums(t):
            return tf.avg_pool2d(tf.pad(t, (0, 1, 0, 1)), (3, 2), (2, 2), divisor_override=1)

        return sums(x) / sums(torch.ones_like(x))

    check(module, want, numbers(1, 2, 6, 7))


def test_batch_normalization_in_eval_mode_keeps_its_statistics():
    module = layer(
        "g (double[4, 3, 5] x, double[3] s, double[3] b) => (double[4, 3, 5] y) "
        "<double[3] m = {0.5, -1, 2}, double[3] v = {1.5, 0.5, 2}> "
        "{ y = BatchNormalization (x, s, b, m, v) }"
    ).eval()
    mean, var = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.5, 0.5, 2.0]).double()
    check(module, lambda x, s, b: tf.batch_norm(x, mean, var, s, b), numbers(4, 3, 5), numbers(3, seed=1), numbers(3, seed=2))


def test_layer_normalization_with_one_declared_output():
    module = layer("g (double[2, 3, 5] x, double[5] s, double[5] b) => (double[2, 3, 5] y) { y = LayerNormalization (x, s, b) }")
    check(module, lambda x, s, b: tf.layer_norm(x, (5,), s, b), numbers(2, 3, 5), numbers(5, seed=1), numbers(5, seed=2))


def test_softmax_cross_entropy_with_one_declared_output():
    module = layer("g (double[5, 4] x, int64[5] t) => (double l) { l = SoftmaxCrossEntropyLoss <ignore_index = 3> (x, t) }")
    labels = torch.tensor([0, 3, 1, 2, 0])
    check(module, lambda x, t: tf.cross_entropy(x, t, ignore_index=3), numbers(5, 4), labels)


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_masked_softmax_lets_no_nan_through_where(dtype):
    module = masked(dtype)
    t = torch.float32 if dtype == "float" else torch.float64

    def want(x, v):
        p = torch.softmax(x, -1)
        return torch.cat([torch.zeros(1, 4, dtype=t), p[1:]]) @ v

    check(module, want, numbers(3, 4, dtype=t), numbers(4, 2, seed=1, dtype=t), tol=1e-10 if dtype == "double" else 1e-6)


def masked(dtype: str) -> ortmod.OnnxModule:
    """Softmax of scores whose first row is all -inf, NaN replaced by zero, times v."""
    code = onnx.TensorProto.FLOAT if dtype == "float" else onnx.TensorProto.DOUBLE
    np_dtype = np.float32 if dtype == "float" else np.float64
    mask = np.zeros((3, 4), np_dtype)
    mask[0] = -np.inf
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Add", ["x", "mask"], ["s"]),
            node("Softmax", ["s"], ["p"], axis=-1),
            node("IsNaN", ["p"], ["n"]),
            node("Where", ["n", "zero", "p"], ["q"]),
            node("MatMul", ["q", "v"], ["y"]),
        ],
        "masked",
        [info("x", code, [3, 4]), info("v", code, [4, 2])],
        [info("y", code, [3, 2])],
        [onnx.numpy_helper.from_array(mask, "mask"), onnx.numpy_helper.from_array(np.zeros((), np_dtype), "zero")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=8)
    return ortmod.OnnxModule(model, trainable=[])


@pytest.mark.parametrize(("mode", "torch_mode"), [("reflect", "reflect"), ("edge", "replicate")])
def test_pad_reflect_and_edge(mode, torch_mode):
    module = layer(
        "g (double[1, 2, 4, 5] x) => (double[1, 2, 7, 8] y) "
        f'{{ p = Constant <value_ints = [0, 0, 2, 1, 0, 0, 1, 2]> () y = Pad <mode = "{mode}"> (x, p) }}'
    )
    check(module, lambda x: tf.pad(x, (1, 2, 2, 1), mode=torch_mode), numbers(1, 2, 4, 5))


def test_slice_with_negative_steps():
    module = layer(
        "g (double[6, 5] x) => (double[3, 2] y) { s = Constant <value_ints = [-1, 3]> () "
        "e = Constant <value_ints = [-7, 0]> () a = Constant <value_ints = [0, 1]> () t = Constant <value_ints = [-2, -2]> () "
        "y = Slice (x, s, e, a, t) }"
    )
    check(module, lambda x: x.flip(0)[::2].flip(1)[:, 1:4:2], numbers(6, 5))


def test_exponent_of_pow():
    module = layer("g (double[3, 4] x, double[4] e) => (double[3, 4] y) { y = Pow (x, e) }")
    check(module, torch.pow, numbers(3, 4).abs() + 0.1, numbers(4, seed=1))
    zero = torch.zeros(3, 4, dtype=torch.float64)
    check(module, torch.pow, zero, torch.full((4,), 2.0, dtype=torch.float64))


def test_vector_times_vector():
    module = layer("g (double[5] a, double[5] b) => (double y) { y = MatMul (a, b) }")
    check(module, torch.matmul, numbers(5), numbers(5, seed=1))


def test_double_precision_end_to_end():
    """A small network of float64 keeps 12 digits from input to gradient."""
    module = layer(
        "g (double[N, 6] x, double[6, 5] w, double[5] b, double[5] s, double[5] h, int64[N] t) => (double l) { "
        "z = MatMul (x, w) a = Add (z, b) n = LayerNormalization (a, s, h) e = Gelu (n) p = LogSoftmax (e) "
        "l = NegativeLogLikelihoodLoss (p, t) }"
    )

    def want(x, w, b, s, h, t):
        return tf.nll_loss(torch.log_softmax(tf.gelu(tf.layer_norm(x @ w + b, (5,), s, h)), -1), t)

    labels = torch.tensor([0, 4, 2, 1])
    inputs = [numbers(4, 6), numbers(6, 5, seed=1), *(numbers(5, seed=i) for i in (2, 3, 4)), labels]
    check(module, want, *inputs, tol=1e-12)


@pytest.mark.parametrize(("left", "right"), [((5, 3), (3,)), ((3,), (3, 4)), ((2, 5, 3), (3,))])
def test_gradients_of_matrix_times_vector_survive_the_optimizations_of_the_stock_runtime(left, right):
    """A transposed operand beside a vector is fused wrongly there: the gradient graph has none."""
    a, b = numbers(*left, dtype=torch.float32).requires_grad_(), numbers(*right, seed=1, dtype=torch.float32).requires_grad_()
    y = torch.matmul(a, b)
    dy = numbers(*y.shape, seed=2, dtype=torch.float32)
    y.backward(dy)
    dims = [",".join(map(str, d)) for d in (left, right, y.shape)]
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 20]> g (float[{dims[0]}] a, float[{dims[1]}] b) => (float[{dims[2]}] y) '
        "{ y = MatMul (a, b) }"
    )
    gradient = ortmod.build_gradient(model, wrt=["a", "b"])
    session = onnxruntime.InferenceSession(gradient.SerializeToString())
    feeds = {"a": a.detach().numpy(), "b": b.detach().numpy(), "y_grad": dy.numpy()}
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    for name, tensor in (("a", a), ("b", b)):
        np.testing.assert_allclose(found[f"{name}_grad"], tensor.grad.numpy(), rtol=1e-5, atol=1e-5)
