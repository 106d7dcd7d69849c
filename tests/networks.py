"""The five networks of the speed comparison, as small ONNX models with seeded weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """Collects nodes and weights of one graph."""

    def __init__(self):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(0)

    def weight(self, name, *shape):
        scale = 1 / np.sqrt(shape[-1]) if shape else 1
        self.weights.append(numpy_helper.from_array((self.random.standard_normal(shape) * scale).astype(np.float32), name))
        return name

    def constant(self, name, value):
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, x, name, n_in, n_out, gemm=True):
        w, b = self.weight(f"{name}.weight", n_out, n_in), self.weight(f"{name}.bias", n_out)
        if gemm:
            return self.op("Gemm", x, w, b, transB=1)
        return self.op("Add", self.op("MatMul", x, self.op("Transpose", w, perm=[1, 0])), b)

    def norm(self, x, name, n):
        return self.op("LayerNormalization", x, self.weight(f"{name}.weight", n), self.weight(f"{name}.bias", n), axis=-1)

    def model(self, x_shape, y, y_shape):
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [y], ["y"])],
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def perceptron(*sizes):
    w, x = Writer(), "x"
    for i in range(len(sizes) - 1):
        x = w.linear(x, f"layer{i}", sizes[i], sizes[i + 1])
        if i + 2 < len(sizes):
            x = w.op("Relu", x)
    return w.model(["n", sizes[0]], x, ["n", sizes[-1]])


def transformer(blocks=2, d=128, heads=4):
    w, x = Writer(), "x"
    split = w.constant("split", np.array([0, 0, heads, d // heads], np.int64))
    join = w.constant("join", np.array([0, 0, d], np.int64))
    scale = w.constant("scale", np.float32((d // heads) ** -0.5))
    root, one, half = (w.constant(n, np.float32(v)) for n, v in (("root", 2**0.5), ("one", 1), ("half", 0.5)))
    for i in range(blocks):
        h = w.norm(x, f"b{i}.ln1", d)
        q, k, v = (w.op("Reshape", w.linear(h, f"b{i}.{n}", d, d, gemm=False), split) for n in "qkv")
        q, v = (w.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = w.op("Transpose", k, perm=[0, 2, 3, 1])
        p = w.op("Softmax", w.op("Mul", w.op("MatMul", q, k), scale), axis=-1)
        a = w.op("Reshape", w.op("Transpose", w.op("MatMul", p, v), perm=[0, 2, 1, 3]), join)
        x = w.op("Add", x, w.linear(a, f"b{i}.o", d, d, gemm=False))
        f = w.linear(w.norm(x, f"b{i}.ln2", d), f"b{i}.up", d, 4 * d, gemm=False)
        g = w.op("Mul", w.op("Mul", f, w.op("Add", w.op("Erf", w.op("Div", f, root)), one)), half)
        x = w.op("Add", x, w.linear(g, f"b{i}.down", 4 * d, d, gemm=False))
    return w.model(["n", "t", d], x, ["n", "t", d])


def cnn():
    w, x, channels = Writer(), "x", (1, 16, 32)
    for i in range(2):
        k = w.weight(f"conv{i}.weight", channels[i + 1], channels[i], 3, 3)
        x = w.op("Conv", x, k, w.weight(f"conv{i}.bias", channels[i + 1]), pads=[1, 1, 1, 1])
        x = w.op("MaxPool", w.op("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    return w.model(["n", 1, 28, 28], w.linear(w.op("Flatten", x), "out", 32 * 49, 10), ["n", 10])


NETWORKS = {
    "linear": (lambda: perceptron(10, 1), (16, 10)),
    "mlp": (lambda: perceptron(20, 100, 1), (64, 20)),
    "wide_mlp": (lambda: perceptron(784, 500, 10), (64, 784)),
    "transformer": (transformer, (16, 64, 128)),
    "cnn": (cnn, (64, 1, 28, 28)),
}
