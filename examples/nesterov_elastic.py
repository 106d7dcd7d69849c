"""Nesterov's momentum and an elastic penalty: both are small graphs, composed with the model into one step.

A linear model with 40 features of which 5 matter. Momentum makes the same rate arrive earlier; the l1 part of the penalty takes
the weights of features without meaning to zero. Writes nesterov_elastic.png.
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
from onnx import numpy_helper

from ortmod.training import (
    ElasticLearningPenalty,
    LearningRateSGD,
    LearningRateSGDNesterov,
    OrtGradientForwardBackwardOptimizer,
)

FEATURES = 40
MODEL = """<ir_version: 8, opset_import: ["" : 15]>
linear (float[n, 40] X) => (float[n, 1] y) <float[1] intercept = {0}> {
    product = MatMul (X, coef)
    y = Add (product, intercept)
}"""
RATE: dict[str, Any] = {"learning_rate": "invscaling", "power_t": 0.5}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    X = random.normal(size=(80, FEATURES)).astype(np.float32)
    true = np.zeros(FEATURES)
    true[::8] = [1.5, -1, 0.8, -0.6, 0.4]
    y = (X @ true + 0.5 * random.normal(size=len(X))).astype(np.float32)
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((FEATURES, 1), np.float32), "coef"))

    penalty = ElasticLearningPenalty(l1=0.08, l2=0.01, weights=["coef"], convention="torch")
    ways = {
        "SGD": (LearningRateSGD(0.01, **RATE), None),
        "Nesterov": (LearningRateSGDNesterov(0.01, **RATE, momentum=0.9), None),
        "Nesterov, elastic penalty": (LearningRateSGDNesterov(0.01, **RATE, momentum=0.9), penalty),
    }
    losses: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    coefs = {}
    for name, (rate, chosen) in ways.items():
        distances = errors.setdefault(name, [])
        trainer = OrtGradientForwardBackwardOptimizer(
            model,
            max_iter=1,
            batch_size=10,
            learning_rate=rate,
            learning_penalty=chosen,
            init="model",
            warm_start=True,
            random_state=0,
        )
        losses[name] = []
        for _ in range(options.epochs):  # a warm start goes on: weights, velocities, rate
            trainer.fit(X, y)
            losses[name] += trainer.train_losses_
            distances.append(float(np.linalg.norm(trainer.trained_coef_["coef"].ravel() - true)))
        coefs[name] = trainer.trained_coef_["coef"].ravel()
        small = int((np.abs(coefs[name]) < 0.02).sum())
        print(
            f"{name:28} loss {losses[name][-1]:.4f}, distance to the true weights {distances[-1]:.3f}, {small} weights under 0.02"
        )

    plot(losses, errors, coefs, true, options.out / "nesterov_elastic.png")
    return losses, errors, coefs


def plot(losses, errors, coefs, true, path):
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained", width_ratios=[1, 1, 1.6])
    for name in losses:
        axes[0].semilogy(losses[name], label=name)
        axes[1].semilogy(errors[name], label=name)
    axes[0].set(title="loss with penalty", xlabel="epoch")
    axes[1].set(title="distance to the true weights", xlabel="epoch")
    for i, (name, coef) in enumerate(coefs.items()):
        if name != "SGD":
            axes[2].plot(coef, "osD"[i], color=f"C{i}", markersize=4, label=name)
    axes[2].plot(true, "k_", markersize=10, label="truth")
    axes[2].set(title="weights", xlabel="feature")
    for axis in axes:
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
