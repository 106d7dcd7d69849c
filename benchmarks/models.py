"""The networks that the benchmarks measure: each as a torch module, its inputs, and its export to ONNX."""

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper


def mlp(*sizes: int) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def cnn() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 7 * 7, 10),
    )


class Block(torch.nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        attended = torch.softmax(scores.masked_fill(future, -1e9), dim=-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(torch.nn.Module):
    def __init__(self, vocabulary: int = 512, width: int = 128, heads: int = 4, blocks: int = 2):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, width)
        self.blocks = torch.nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = torch.nn.LayerNorm(width), torch.nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens))))


@dataclass(frozen=True)
class Case:
    """A network to measure. `sizes` are the dynamic axes of its one input; `inputs` makes an input of given sizes."""

    name: str
    module: Callable[[], torch.nn.Module]
    inputs: Callable[..., torch.Tensor]
    sizes: tuple[int, ...]


CASES = [
    Case("linear 10-1, batch 16", lambda: mlp(10, 1), lambda n: torch.randn(n, 10), (16,)),
    Case("mlp 20-100-1, batch 64", lambda: mlp(20, 100, 1), lambda n: torch.randn(n, 20), (64,)),
    Case("mlp 784-500-10, batch 64", lambda: mlp(784, 500, 10), lambda n: torch.randn(n, 784), (64,)),
    Case("transformer 2x128, 16x64 tokens", Transformer, lambda n, t: torch.randint(512, (n, t)), (16, 64)),
    Case("cnn 16/32, batch 64x1x28x28", cnn, lambda n: torch.randn(n, 1, 28, 28), (64,)),
]


def export(case: Case, module: torch.nn.Module) -> bytes:
    """The ONNX file that torch writes for `module`, names kept, batch (and length) dynamic."""
    axes = {i: torch.export.Dim.DYNAMIC for i in range(len(case.sizes))}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = case.inputs(*(n + 1 for n in case.sizes))
        program = torch.onnx.export(module, (example,), dynamo=True, optimize=False, dynamic_shapes=(axes,), verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


def chain_weights(nodes: int) -> int:
    """A fifth of the nodes, so that some of the MatMuls (a quarter) share theirs at any length."""
    return nodes // 5


def chain(nodes: int) -> bytes:
    """A model of `nodes` nodes in a row: MatMul by one of the weights, Relu, Reshape, Concat with itself, and again."""
    rng = np.random.default_rng(0)
    n_weights = chain_weights(nodes)
    weights = [numpy_helper.from_array(rng.normal(size=(16, 8)).astype(np.float32) / 8, f"w{i}") for i in range(n_weights)]
    shape = numpy_helper.from_array(np.array([-1, 8]), "shape")
    steps = [
        lambda i, x, y: helper.make_node("MatMul", [x, f"w{i // 4 % n_weights}"], [y]),
        lambda i, x, y: helper.make_node("Relu", [x], [y]),
        lambda i, x, y: helper.make_node("Reshape", [x, "shape"], [y]),
        lambda i, x, y: helper.make_node("Concat", [x, x], [y], axis=1),
    ]
    made = [steps[i % 4](i, f"x{i}", f"x{i + 1}") for i in range(nodes // 4 * 4)]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", 16])
    y = helper.make_tensor_value_info(f"x{len(made)}", TensorProto.FLOAT, ["N", 16])
    graph = helper.make_graph(made, "chain", [x], [y], [*weights, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
