"""A neural network: two hidden layers written as ONNX text, trained by AdamW with a cosine rate, early stopping and validation.

Writes neural_network.png (the fitted curve and both losses) and neural_network.onnx, checked with onnxruntime.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx.parser
import onnxruntime
import torch
from onnx import numpy_helper

from ortmod.training import LearningRateAdamW, OrtGradientForwardBackwardOptimizer

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
network (float[n, 1] X) => (float[n, 1] y) {
    h0 = Gemm (X, w0, b0)
    a0 = Tanh (h0)
    h1 = Gemm (a0, w1, b1)
    a1 = Tanh (h1)
    y = Gemm (a1, w2, b2)
}"""


def network(*sizes):
    """The graph with weights drawn for the layers of these sizes."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weight = random.normal(size=(n, m)) * np.sqrt(2 / (n + m))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(m, np.float32), f"b{i}"))
    return model


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(1)
    X = random.uniform(-3, 3, (600, 1)).astype(np.float32)
    y = (np.sin(2 * X) * np.exp(-(X**2) / 6) + 0.1 * random.normal(size=X.shape)).astype(np.float32)
    trainer = OrtGradientForwardBackwardOptimizer(
        network(1, 30, 20, 1),
        max_iter=options.epochs,
        batch_size=25,
        learning_rate=LearningRateAdamW(0.01, learning_rate="cosine", total=options.epochs),
        init="model",
        validation_every=1,
        early_stopping=True,
        n_iter_no_change=80,
        random_state=0,
    )
    trainer.fit(X[:450], y[:450], X_val=X[450:], y_val=y[450:])
    path = options.out / "neural_network.onnx"
    onnx.save(trainer.get_trained_onnx(), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference = float(np.abs(session.run(None, {"X": X})[0] - trainer.predict(X)).max())

    plot(trainer, X[:450], y[:450], options.out / "neural_network.png")
    print(f"{trainer.n_iter_} epochs, least validation loss {min(trainer.validation_losses_ or []):.5f} (noise alone: 0.00500)")
    print(f"{path}: onnxruntime's predictions differ by at most {difference:.1e}")
    return trainer, difference


def plot(trainer, X, y, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    line = np.linspace(-3, 3, 300, dtype=np.float32).reshape(-1, 1)
    axes[0].scatter(X, y, 6, color="gray", alpha=0.5, label="training data")
    axes[0].plot(line, np.sin(2 * line) * np.exp(-(line**2) / 6), "k:", label="truth")
    axes[0].plot(line, trainer.predict(line), "C1", label="network")
    axes[0].set(title="ONNX network 1-30-20-1", xlabel="x", ylabel="y")
    axes[1].semilogy(trainer.train_losses_, label="training")
    axes[1].semilogy(trainer.validation_losses_, label="validation")
    axes[1].set(title="half the squared error", xlabel="epoch")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
