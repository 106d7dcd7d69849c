"""Fine-tuning a scikit-learn pipeline: components, scaler and classifier, fitted once, go on learning after the data has changed.

OnnxClassifier.from_estimator takes the fitted pipeline; partial_fit trains its classifier on images of both kinds while what comes
before it stays as it is; the whole pipeline is written again. Writes fine_tune_pipeline.png and fine_tuned.onnx.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ortmod.sklearn import OnnxClassifier


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    pipeline = make_pipeline(PCA(32), StandardScaler(), MLPClassifier((50,), tol=1e-3, random_state=0)).fit(X_train, y_train)

    def transposed(images):
        return images.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)

    some = np.random.default_rng(0).permutation(len(X_train))[:400]
    X_new, y_new = np.concatenate([transposed(X_train[some]), X_train[some]]), np.concatenate([y_train[some]] * 2)
    sets = [(X_test, y_test), (transposed(X_test), y_test)]
    settings: dict[str, Any] = {"solver": "sgd", "learning_rate_init": 0.005, "batch_size": 20, "random_state": 0}
    classifier = OnnxClassifier.from_estimator(pipeline, **settings)
    history = [[classifier.score(*rows) for rows in sets]]
    for _ in range(options.epochs):
        classifier.partial_fit(X_new, y_new)
        history.append([classifier.score(*rows) for rows in sets])

    path = options.out / "fine_tuned.onnx"
    onnx.save(classifier.onnx_, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels = session.run(["label"], {session.get_inputs()[0].name: X_test})[0]
    same = float((labels == classifier.predict(X_test)).mean())
    plot(np.array(history), sets, options.out / "fine_tune_pipeline.png")
    for name, a, b in zip(("upright", "transposed"), history[0], history[-1], strict=True):
        print(f"{name:10} test images: accuracy {a:.3f} -> {b:.3f}")
    print(f"{path}: onnxruntime gives {100 * same:.0f}% of the labels alike")
    return history, same


def plot(history, sets, path):
    figure = plt.figure(figsize=(10, 4), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[2, 1])
    left, right = parts
    axis = left.subplots()
    axis.plot(history[:, 0], label="upright test images")
    axis.plot(history[:, 1], label="transposed test images")
    axis.set(title="accuracy of the pipeline", xlabel="epoch of fine-tuning", ylim=(0, 1.02))
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    for column, name, (images, _) in zip(right.subplots(3, 2).T, ("upright", "transposed"), sets, strict=True):
        column[0].set_title(name)
        for axis, image in zip(column, images, strict=False):
            axis.imshow(image.reshape(8, 8), cmap="gray_r")
            axis.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
