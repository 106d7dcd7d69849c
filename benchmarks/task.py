"""What the contenders of the training benchmark are given: data, network, initial weights, loss, optimizer; the same for all."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

LOSSES = ("mse", "bce", "ce")
OPTIMIZERS = ("sgd", "nesterov", "adamw")


@dataclass
class Task:
    """A row of a suite.

    `loss` is a mean over the elements: "mse" squared error, "bce" log loss of raw scores, "ce" cross entropy over classes (a mean
    over the rows). `rate` belongs to that loss; `hidden` and `last` are activations. `momentum` is that of "nesterov"; "adamw" has
    torch's defaults, decay included. `epochs` is where the validation loss to reach is taken.
    """

    name: str
    layers: list[int]
    loss: str
    optimizer: str
    rate: float
    batch: int
    rows: int
    epochs: int
    peers: list[str]
    bounds: dict[str, float] = field(default_factory=dict)
    hidden: str = "Relu"
    last: str = ""
    data: str = "random"
    momentum: float = 0.9
    variants: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES or self.optimizer not in OPTIMIZERS:
            raise ValueError(f"{self.name}: loss {self.loss!r} of {LOSSES}, optimizer {self.optimizer!r} of {OPTIMIZERS}")
        random = np.random.default_rng(0)
        features, outputs = self.layers[0], self.layers[-1]
        shapes = list(zip(self.layers[:-1], self.layers[1:], strict=True))
        self.weights: list[np.ndarray] = []  # W0 (in, out), b0, W1, b1, ...
        for n, m in shapes:
            self.weights += [(random.normal(size=(n, m)) / math.sqrt(n)).astype(np.float32), np.zeros(m, np.float32)]
        held_out = max(200, self.rows // 4)
        if self.data == "digits":
            X, y = load_digits(return_X_y=True)
            order = random.permutation(len(X))[: self.rows + held_out]
            X, y = X[order] / 16, y[order]
        else:
            X = random.normal(size=(self.rows + held_out, features))
            scores = X @ random.normal(size=(features, outputs)) / math.sqrt(features)
            scores = (np.tanh(scores) if self.last else scores) + 0.2 * np.sin(3 * X[:, :1])
            noisy = scores + 0.1 * random.normal(size=scores.shape)
            y = {"mse": noisy, "bce": noisy > 0, "ce": noisy.argmax(axis=1)}[self.loss]
        X, y = X.astype(np.float32), y.astype(np.float32 if self.loss == "mse" else np.int64)
        self.X, self.y, self.X_val, self.y_val = X[: self.rows], y[: self.rows], X[self.rows :], y[self.rows :]

    @property
    def outputs(self) -> int:
        return self.layers[-1]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch)

    def weight_names(self) -> list[str]:
        return [f"{kind}{i}" for i in range(len(self.layers) - 1) for kind in "wb"]

    def model(self) -> onnx.ModelProto:
        """The network as ONNX: X to y, weights w0, b0, w1, ..."""
        nodes, value, last = [], "X", len(self.layers) - 2
        for i in range(last + 1):
            activation = self.last if i == last else self.hidden
            done = "y" if i == last else f"a{i}"
            nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"s{i}" if activation else done]))
            if activation:
                nodes.append(helper.make_node(activation, [f"s{i}"], [done]))
            value = done
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
            for name, size in (("X", self.layers[0]), ("y", self.outputs))
        )
        initializers = [numpy_helper.from_array(w, name) for name, w in zip(self.weight_names(), self.weights, strict=True)]
        graph = helper.make_graph(nodes, "network", [x], [y], initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def validation_loss(self, weights: list[np.ndarray]) -> float:
        """The mean loss of the rows held out, in float64."""
        functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "": lambda v: v,
            "Relu": lambda v: np.maximum(v, 0),
            "Tanh": np.tanh,
        }
        value = self.X_val.astype(np.float64)
        for i in range(len(self.layers) - 1):
            activation = self.last if i == len(self.layers) - 2 else self.hidden
            value = functions[activation](value @ weights[2 * i].astype(np.float64) + weights[2 * i + 1])
        if self.loss == "mse":
            return float(((value - self.y_val) ** 2).mean())
        if self.loss == "bce":
            return float((np.logaddexp(0, value) - self.y_val * value).mean())
        largest = value.max(axis=1)
        log_sums = largest + np.log(np.exp(value - largest[:, None]).sum(axis=1))
        return float((log_sums - value[np.arange(len(value)), self.y_val]).mean())
