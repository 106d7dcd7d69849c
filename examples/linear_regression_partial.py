"""Linear regression in partial training: the graph predicts, the loss is a second small graph chosen beside it.

Some targets are far off. The same graph is trained by the squared, the absolute and Huber's loss; the last two do not care
much. Writes linear_regression_partial.png; `--device cuda` does the same on a GPU.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

from ortmod.training import (
    AbsoluteLearningLoss,
    HuberLearningLoss,
    LearningRateSGD,
    OrtGradientForwardBackwardOptimizer,
    SquareLearningLoss,
)

LOSSES = {"squared": SquareLearningLoss(), "absolute": AbsoluteLearningLoss(), "Huber, delta 0.5": HuberLearningLoss(0.5)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, (200, 1)).astype(np.float32)
    y = (2 * X[:, 0] + 1 + 0.2 * random.normal(size=200)).astype(np.float32)
    outliers = random.permutation(np.flatnonzero(X[:, 0] > 0.2))[:30]
    y[outliers] -= random.uniform(3, 5, 30).astype(np.float32)

    model = to_onnx(LinearRegression().fit(X, y), X[:1], target_opset=15, black_op={"LinearRegressor"})
    trained = {}
    for name, loss in LOSSES.items():
        trained[name] = OrtGradientForwardBackwardOptimizer(
            model,
            ["coef", "intercept"],
            max_iter=options.epochs,
            learning_rate=LearningRateSGD(0.05, learning_rate="cosine", total=options.epochs),
            learning_loss=loss,
            device=options.device,
            random_state=0,
        ).fit(X, y)
        coef, intercept = (float(w.item()) for w in trained[name].get_state())
        print(f"{name:18} y = {coef:.3f} x + {intercept:.3f}, true: y = 2 x + 1")

    plot(trained, X, y, options.out / "linear_regression_partial.png")
    return trained


def plot(trained, X, y, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].scatter(X, y, 8, color="gray", alpha=0.6)
    line = np.array([[-1], [1]], np.float32)
    axes[0].plot(line, 2 * line + 1, "k:", label="truth")
    for name, trainer in trained.items():
        axes[0].plot(line, trainer.predict(line), label=name)
        losses = np.array(trainer.train_losses_)
        axes[1].plot(losses / losses[0], label=name)
    axes[0].set(title="15% of the targets are far off", xlabel="x", ylabel="y")
    axes[1].set(title="loss, as a part of the first epoch's", xlabel="epoch")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
