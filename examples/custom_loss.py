"""A custom loss: any small ONNX graph of (expected, predicted) will do; its gradient is derived.

The quantile loss, as ONNX text, trains the same network for the 10%, 50% and 90% quantiles of noise that grows with x.
Writes custom_loss.png.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx.parser
import torch
from skl2onnx import to_onnx
from sklearn.neural_network import MLPRegressor

from ortmod.training import BaseLearningLoss, LearningRateAdamW, OrtGradientForwardBackwardOptimizer


class QuantileLoss(BaseLearningLoss):
    """q (y - p) where p is below y, (1 - q) (p - y) above: least at the q-quantile of y."""

    def __init__(self, q):
        self.q = q

    def build_onnx_function(self):  # type: ignore[override]
        return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
            quantile (float[n, k] expected, float[n, k] predicted) => (float total, float[n, k] losses)
            <float q = {{{self.q}}}, float q_less_one = {{{self.q - 1}}}> {{
                d = Sub (expected, predicted)
                below = Mul (q, d)
                above = Mul (q_less_one, d)
                losses = Max (below, above)
                total = ReduceSum <keepdims = 0> (losses)
            }}""")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    X = np.sort(random.uniform(0, 3, (1500, 1)), axis=0).astype(np.float32)
    y = (np.sin(2 * X) + (0.1 + 0.3 * X) * random.normal(size=X.shape)).astype(np.float32)
    start = MLPRegressor(hidden_layer_sizes=(20, 20), activation="tanh", random_state=0).partial_fit(X, y.ravel())
    model = to_onnx(start, X[:1], target_opset=17)

    curves, shares = {}, {}
    for q in (0.1, 0.5, 0.9):
        trainer = OrtGradientForwardBackwardOptimizer(
            model,
            max_iter=options.epochs,
            batch_size=30,
            learning_rate=LearningRateAdamW(5e-3, learning_rate="cosine", total=options.epochs),
            learning_loss=QuantileLoss(q),
            init="model",
            random_state=0,
        ).fit(X, y)
        curves[q] = trainer.predict(X).ravel(), trainer.train_losses_
        shares[q] = float((y.ravel() < curves[q][0]).mean())
        print(f"quantile {q}: {shares[q]:.3f} of the targets lie below the curve, mean loss {trainer.train_losses_[-1]:.4f}")

    plot(curves, X, y, options.out / "custom_loss.png")
    return shares


def plot(curves, X, y, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].scatter(X, y, 4, color="gray", alpha=0.4)
    for i, (q, (curve, losses)) in enumerate(curves.items()):
        truth = np.sin(2 * X) + (0.1 + 0.3 * X) * {0.1: -1.2816, 0.5: 0, 0.9: 1.2816}[q]
        axes[0].plot(X, truth, ":", color="k", label="truth" if i == 0 else None)
        axes[0].plot(X, curve, color=f"C{i}", label=f"{100 * q:.0f}% quantile")
        axes[1].semilogy(losses, color=f"C{i}", label=f"{100 * q:.0f}% quantile")
    axes[0].set(title="one network for each quantile", xlabel="x", ylabel="y")
    axes[1].set(title="quantile loss", xlabel="epoch")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
