"""Linear regression against the raw interface: forward and backward of an ONNX graph are calls, all else is numpy.

OrtGradientForwardBackward gives outputs for inputs and gradients for output gradients; loss and update are written here.
Several forwards may wait for their backwards: each step has two halves of a batch in flight. Writes linear_regression_raw.png;
with `--device cuda` arrays are torch tensors on the GPU.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx.parser
import torch

from ortmod.training import OrtGradientForwardBackward

MODEL = """<ir_version: 8, opset_import: ["" : 15]>
linear (float[n, 2] X) => (float[n, 1] y) <float[2, 1] coef = {0, 0}, float[1] intercept = {0}> {
    product = MatMul (X, coef)
    y = Add (product, intercept)
}"""
TRUE = {"coef 0": 0.5, "coef 1": -0.8, "intercept": 0.3}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    X: Any = random.normal(size=(400, 2)).astype(np.float32)
    y: Any = (X @ [[0.5], [-0.8]] + 0.3 + 0.05 * random.normal(size=(400, 1))).astype(np.float32)
    weights: list[Any] = [np.zeros((2, 1), np.float32), np.zeros(1, np.float32)]
    if options.device != "cpu":
        X, y, *weights = (torch.from_numpy(a).to(options.device) for a in (X, y, *weights))

    session = OrtGradientForwardBackward(onnx.parser.parse_model(MODEL), ["coef", "intercept"], device=options.device)
    print(f"forward takes {session.grad_input_names_}, backward gives {session.gradient_names_}")
    function = session.new_instance()
    losses, path = [], []
    for step in range(options.steps):
        first = 16 * step % len(X)
        halves = [(X[i : i + 8], y[i : i + 8]) for i in (first, first + 8)]
        predictions = [function.forward([x, *weights], training=True)[0] for x, _ in halves]
        losses.append(sum(float(((p - t) ** 2).mean()) for p, (_, t) in zip(predictions, halves, strict=True)) / 2)
        for (_, target), prediction in reversed(list(zip(halves, predictions, strict=True))):  # the last forward comes first
            _, *gradients = function.backward([(prediction - target) / 8])
            weights = [w - 0.05 * g for w, g in zip(weights, gradients, strict=True)]
        path.append([float(value) for w in weights for value in w.reshape(-1)])

    plot(losses, np.array(path), options.out / "linear_regression_raw.png")
    print(", ".join(f"{name} {value:.3f} ({true})" for (name, true), value in zip(TRUE.items(), path[-1], strict=True)))
    return losses, path[-1]


def plot(losses, path, file):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].semilogy(losses)
    axes[0].set(title="squared error of each batch", xlabel="step")
    for i, (name, true) in enumerate(TRUE.items()):
        axes[1].plot(path[:, i], color=f"C{i}", label=name)
        axes[1].axhline(true, color=f"C{i}", linestyle=":")
    axes[1].set(title="weights, and the true ones (dotted)", xlabel="step")
    axes[1].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
