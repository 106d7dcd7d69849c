"""Linear regression in full training: the loss is part of the graph, and one graph trains itself.

The graph of a scikit-learn model gets a loss as its first output, OrtGradientOptimizer trains it, and the trained weights
become a new ONNX file. Writes linear_regression_full.png and .onnx; `--device cuda` does the same on a GPU.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx
import torch
from skl2onnx import to_onnx
from sklearn.datasets import make_regression
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from ortmod.training import LearningRateSGDNesterov, OrtGradientOptimizer, add_loss_output


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    X, y = make_regression(1000, 10, bias=2, noise=5, random_state=0)
    X, y = X.astype(np.float32), (y / y.std()).astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    exact = LinearRegression().fit(X_train, y_train)

    model = to_onnx(exact, X[:1], target_opset=15, black_op={"LinearRegressor"})  # MatMul and Add
    trainer = OrtGradientOptimizer(
        add_loss_output(model),
        ["coef", "intercept"],
        max_iter=options.epochs,
        learning_rate=LearningRateSGDNesterov(2e-4, learning_rate="constant"),
        device=options.device,
        random_state=0,
    )
    trainer.fit(X_train, y_train, X_val=X_test, y_val=y_test)
    onnx.save(trainer.get_trained_onnx(model), options.out / "linear_regression_full.onnx")

    trained = trainer.get_state()
    found = np.append(trained["coef"], trained["intercept"])
    closed = np.append(exact.coef_, exact.intercept_)
    plot(trainer, found, closed, options.out / "linear_regression_full.png")
    difference = float(np.abs(found - closed).max())
    print(f"{options.epochs} epochs on {options.device}: loss {trainer.train_losses_[0]:.4f} -> {trainer.train_losses_[-1]:.4f}")
    print(f"coefficients differ from the closed form by at most {difference:.1e}")
    return trainer.train_losses_, difference


def plot(trainer, found, closed, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].semilogy(trainer.train_losses_, label="training")
    every = len(trainer.train_losses_) / len(trainer.validation_losses_)
    axes[0].semilogy(
        every * np.arange(1, len(trainer.validation_losses_) + 1) - 1, trainer.validation_losses_, "o", label="validation"
    )
    axes[0].set(title="squared error", xlabel="epoch")
    axes[0].legend()
    where = np.arange(len(found))
    axes[1].bar(where - 0.2, closed, 0.4, label="closed form")
    axes[1].bar(where + 0.2, found, 0.4, label="trained ONNX graph")
    axes[1].set_xticks(where, [f"x{i}" for i in where[:-1]] + ["intercept"], rotation=30)
    axes[1].set(title="coefficients")
    axes[1].margins(y=0.25)
    axes[1].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
