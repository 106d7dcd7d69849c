"""Small models for the tests of modules and autograd, each with the torch module that it equals."""

import io
from typing import Any

import numpy as np
import onnx
import onnx.parser
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

CODES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE, torch.float16: TensorProto.FLOAT16}
CODES[torch.bfloat16] = TensorProto.BFLOAT16


def parse(text: str, **weights: Any) -> onnx.ModelProto:
    """A model from ONNX text; `weights` are added as initializers (`__` in a name stands for a dot)."""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    for name, value in weights.items():
        model.graph.initializer.append(initializer(name.replace("__", "."), value))
    return model


def initializer(name: str, value: Any) -> onnx.TensorProto:
    tensor = torch.as_tensor(value).detach()
    if tensor.dtype == torch.bfloat16:
        return helper.make_tensor(name, TensorProto.BFLOAT16, tensor.shape, tensor.float().flatten().tolist())
    return numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), name)


def mlp(sizes: tuple[int, ...] = (10, 8, 3), dtype: torch.dtype = torch.float32, activation: str = "Tanh") -> Any:
    """A multi-layer perceptron in torch, and the same as an ONNX model with torch's names."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b, dtype=dtype), getattr(nn, "ReLU" if activation == "Relu" else activation)()]
    network = nn.Sequential(*layers[:-1])
    nodes, initializers, value = [], [], "x"
    for i, layer in enumerate(network):
        out = f"h{i}" if i < len(network) - 1 else "y"
        if isinstance(layer, nn.Linear):
            nodes.append(helper.make_node("Gemm", [value, f"{i}.weight", f"{i}.bias"], [out], transB=1))
            initializers += [initializer(f"{i}.weight", layer.weight), initializer(f"{i}.bias", layer.bias)]
        else:
            nodes.append(helper.make_node(activation, [value], [out]))
        value = out
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", CODES[dtype], ["batch", sizes[0]])],
        [helper.make_tensor_value_info("y", CODES[dtype], ["batch", sizes[-1]])],
        initializers,
    )
    return network, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def exported(module: nn.Module, *args: torch.Tensor, free: bool = True) -> onnx.ModelProto:
    """The model that torch's exporter writes, names kept; `free`: the first dimension of each input is symbolic."""
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in args) if free else None
    program = torch.onnx.export(
        module,
        args,
        dynamo=True,
        optimize=False,
        dynamic_shapes=shapes,
        verbose=False,
        input_names=[f"x{i}" for i in range(len(args))],
    )
    buffer = io.BytesIO()
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def close(got: Any, expected: Any, tolerance: float | None = None) -> None:
    """Equal to a part of the largest entry: 1e-5 in float32, 1e-10 in float64, 2e-2 in half types."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    assert got.dtype == expected.dtype, (got.dtype, expected.dtype)
    if tolerance is None:
        tolerance = {torch.float64: 1e-10, torch.float32: 1e-5}.get(got.dtype, 2e-2)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    difference = float((got - expected).abs().max()) if expected.numel() else 0.0
    assert difference <= tolerance * max(largest, 1e-30), (difference, largest)


BATCHNORM = """
<ir_version: 9, opset_import: ["": 18]>
net (float[n, 3, h, w] x) => (float[n, 3, h, w] y)
{ y = BatchNormalization <epsilon = 1e-5, momentum = 0.9> (x, bn__weight, bn__bias, bn__running_mean, bn__running_var) }
"""
DROPOUT = """
<ir_version: 9, opset_import: ["": 18]>
net (float[n, 64] x) => (float[n, 64] y)
<float ratio = {0.25}>
{ h = Mul(x, W)
  d = Dropout(h, ratio)
  y = Tanh(d) }
"""
TWO_OUTPUTS = """
<ir_version: 9, opset_import: ["": 18]>
net (double[n, 4] x) => (double[n, 3] y, double[n, 4] z, int64[n] best)
{ h = MatMul(x, W)
  y = Tanh(h)
  z = Mul(x, v)
  best = ArgMax <axis = 1, keepdims = 0> (h) }
"""


def batchnorm(text: str = BATCHNORM) -> onnx.ModelProto:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    weights = {"bn__weight": ones * 1.5, "bn__bias": ones * 0.25, "bn__running_mean": zeros, "bn__running_var": ones}
    return parse(text, **weights)


def dropout() -> onnx.ModelProto:
    return parse(DROPOUT, W=np.ones(64, np.float32))


def two_outputs() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return parse(TWO_OUTPUTS, W=rng.standard_normal((4, 3)), v=rng.standard_normal(4))
