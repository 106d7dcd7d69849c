"""The documents' benchmark: a linear model and a network (50, 10) on 1000 x 100 numbers, batches of 15, beside scikit-learn.

scikit-learn's MLPRegressor, full training (the loss in the graph) and partial training start from the same weights, take the same
batches at the same rate, and must have the same losses. Writes benchmark_scikit_learn.png. (benchmarks/ measures more, and better.)
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from skl2onnx import to_onnx
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from ortmod.training import (
    LearningRateSGD,
    OrtGradientForwardBackwardOptimizer,
    OrtGradientOptimizer,
    SquareLearningLoss,
    add_loss_output,
)

RATE, BATCH = 0.01, 15


def scikit_learn(start, X, y, epochs):
    """Losses of the epochs, half the squared error, and seconds."""
    start.set_params(max_iter=epochs, warm_start=True, tol=0, n_iter_no_change=epochs)
    begin = time.perf_counter()
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        start.fit(X, y)
    return start.loss_curve_[-epochs:], time.perf_counter() - begin


def ortmod(make, graph, rate, X, y, epochs, **options):
    trainer = make(
        graph,
        max_iter=epochs,
        batch_size=BATCH,
        learning_rate=LearningRateSGD(rate, learning_rate="constant"),
        init="model",
        shuffle=False,
        **options,
    )
    begin = time.perf_counter()
    trainer.fit(X, y)
    return trainer.train_losses_, time.perf_counter() - begin


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    X, y = make_regression(1000, 100, n_informative=20, noise=20, random_state=0)
    X, y = X.astype(np.float32), (y / y.std()).astype(np.float32)
    settings: dict[str, Any] = {"solver": "sgd", "learning_rate_init": RATE, "momentum": 0, "alpha": 0, "batch_size": BATCH}
    found: dict[str, dict[str, Any]] = {}
    for name, hidden in (("linear", ()), ("network (50, 10)", (50, 10))):
        start = MLPRegressor(hidden_layer_sizes=hidden, shuffle=False, random_state=0, **settings).partial_fit(X, y)
        model = to_onnx(start, X[:1], target_opset=15)
        weights = [i.name for i in model.graph.initializer if i.name.startswith(("coefficient", "intercepts"))]
        partial: dict[str, Any] = {"weights_to_train": weights, "learning_loss": SquareLearningLoss("sklearn")}
        with threadpool_limits(1):
            found[name] = {"scikit-learn": scikit_learn(start, X, y, options.epochs)}
        rows = (X, y, options.epochs)
        found[name]["partial training"] = ortmod(OrtGradientForwardBackwardOptimizer, model, RATE, *rows, **partial)
        full = add_loss_output(model)
        losses, seconds = ortmod(OrtGradientOptimizer, full, RATE / 2, *rows, weights_to_train=weights)
        found[name]["full training"] = np.divide(losses, 2), seconds  # its loss is not halved
        for kind, (losses, seconds) in found[name].items():
            print(f"{name:18}{kind:18} loss {losses[0]:.4f} -> {losses[-1]:.6f}, {1e3 * seconds:8.1f} ms")

    plot(found, options.out / "benchmark_scikit_learn.png")
    return found


def plot(found, path):
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", height_ratios=[2, 1])
    for (above, below), (name, kinds) in zip(axes.T, found.items(), strict=True):
        for i, (kind, (losses, seconds)) in enumerate(kinds.items()):
            above.semilogy(losses, ("-", "--", ":")[i], linewidth=4 - i, label=kind)
            below.barh(kind, 1e3 * seconds, color=f"C{i}")
            below.text(1e3 * seconds, i, f" {1e3 * seconds:.0f} ms", va="center")
        above.set(title=f"{name}: half the squared error", xlabel="epoch")
        above.legend()
        below.set(title=f"{len(losses)} epochs of {-(-1000 // BATCH)} batches, milliseconds")
        below.set_xlim(0, 1.25e3 * max(seconds for _, seconds in kinds.values()))
        below.invert_yaxis()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
