"""Multi-class classification: a graph of raw scores trained by cross entropy; here a convolution on images of digits.

Writes multiclass_classification.png (losses, confusion matrix, learned filters).
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
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from ortmod.training import CrossEntropyLearningLoss, LearningRateSGDNesterov, OrtGradientForwardBackwardOptimizer

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
digits (float[n, 1, 8, 8] X) => (float[n, 10] scores) {
    c = Conv <pads = [1, 1, 1, 1]> (X, filters, bias)
    r = Relu (c)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    f = Flatten (p)
    scores = Gemm (f, weight, intercept)
}"""
SHAPES = {"filters": (16, 1, 3, 3), "bias": (16,), "weight": (256, 10), "intercept": (10,)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    for name, shape in SHAPES.items():
        scale = {"filters": 1 / 3, "weight": 1 / 16}.get(name, 0)
        model.graph.initializer.append(numpy_helper.from_array((scale * random.normal(size=shape)).astype(np.float32), name))
    pixels, y = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    X_train, X_test, y_train, y_test = train_test_split(images, y, random_state=0, stratify=y)

    trainer = OrtGradientForwardBackwardOptimizer(
        model,
        max_iter=options.epochs,
        batch_size=32,
        learning_rate=LearningRateSGDNesterov(0.01, learning_rate="cosine", total=options.epochs),
        learning_loss=CrossEntropyLearningLoss(),
        init="model",
        validation_every=1,
        random_state=0,
    )
    trainer.fit(X_train, y_train, X_val=X_test, y_val=y_test)
    predicted = trainer.predict(X_test).argmax(axis=1)
    accuracy = float((predicted == y_test).mean())
    plot(trainer, y_test, predicted, options.out / "multiclass_classification.png")
    print(f"loss {trainer.train_losses_[0]:.3f} -> {trainer.train_losses_[-1]:.4f}, test accuracy {accuracy:.3f}")
    return trainer.train_losses_, accuracy


def plot(trainer, expected, predicted, path):
    figure = plt.figure(figsize=(13, 4), layout="constrained")
    parts: Any = figure.subfigures(1, 3)
    left, middle, right = parts
    axis = left.subplots()
    axis.semilogy(trainer.train_losses_, label="training")
    axis.semilogy(trainer.validation_losses_, label="test")
    axis.set(title="cross entropy", xlabel="epoch")
    axis.legend()
    axis.grid(alpha=0.3)
    axis = middle.subplots()
    ConfusionMatrixDisplay.from_predictions(expected, predicted, ax=axis, colorbar=False, cmap="Blues")
    axis.set(title="test images")
    filters = trainer.trained_coef_["filters"]
    for axis, image in zip(right.subplots(4, 4).flat, filters, strict=True):
        axis.imshow(image[0], cmap="gray")
        axis.axis("off")
    right.suptitle("learned filters")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
