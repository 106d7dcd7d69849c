"""Binary classification: a network for raw scores trained by the negative log likelihood of their sigmoid, rows weighted.

Two moons of which one has four times as many rows. With weights that make both classes count alike, the border moves.
Writes binary_classification.png.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from skl2onnx import to_onnx
from sklearn.datasets import make_moons
from sklearn.neural_network import MLPRegressor

from ortmod.training import LearningRateAdamW, NegLogLearningLoss, OrtGradientForwardBackwardOptimizer


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    X, y = make_moons((800, 200), noise=0.3, random_state=0)
    X, y = X.astype(np.float32), y.astype(np.int64)
    start = MLPRegressor(hidden_layer_sizes=(16, 16), activation="tanh", random_state=0).partial_fit(
        X, y
    )  # its graph gives one raw score a row
    model = to_onnx(start, X[:1], target_opset=17)
    balanced = (len(y) / 2 / np.bincount(y))[y].astype(np.float32)

    trained = {}
    for name, weight in {"all rows alike": None, "both classes alike": balanced}.items():
        trained[name] = OrtGradientForwardBackwardOptimizer(
            model,
            max_iter=options.epochs,
            batch_size=20,
            learning_rate=LearningRateAdamW(3e-3),
            learning_loss=NegLogLearningLoss(),
            init="model",
            random_state=0,
        ).fit(X, y, weight)
        predicted = trained[name].predict(X).ravel() > 0
        recalls = [float((predicted == y)[y == k].mean()) for k in (0, 1)]
        print(f"{name:20} recall {recalls[0]:.3f} (800 rows), {recalls[1]:.3f} (200 rows)")

    plot(trained, X, y, options.out / "binary_classification.png")
    return {name: trainer.train_losses_ for name, trainer in trained.items()}, recalls


def plot(trained, X, y, path):
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    x0, x1 = np.meshgrid(np.linspace(-2, 3, 120), np.linspace(-1.5, 2, 120))
    grid = np.stack([x0.ravel(), x1.ravel()], axis=1).astype(np.float32)
    for axis, (name, trainer) in zip(axes, trained.items(), strict=False):
        probability = 1 / (1 + np.exp(-trainer.predict(grid).reshape(x0.shape)))
        shade = axis.contourf(x0, x1, probability, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.7)
        axis.contour(x0, x1, probability, [0.5], colors="k")
        axis.scatter(*X.T, 6, c=np.where(y, "darkred", "navy"))
        axis.set(title=name)
        axes[2].plot(trainer.train_losses_, label=name)
    figure.colorbar(shade, ax=axes[1], label="probability of the small class")
    axes[2].set(title="mean loss", xlabel="epoch")
    axes[2].legend()
    axes[2].grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
