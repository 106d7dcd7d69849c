"""Fine-tuning a scikit-learn pipeline: components, scaler and classifier, fitted once, go on learning after the data has changed.

The pipeline is converted to ONNX; the graph from its input to the last raw scores is trained on images of both kinds, components
and scaler frozen, and the whole pipeline written again with its new weights. Writes fine_tune_pipeline.png and fine_tuned.onnx.
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
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ortmod.training import CrossEntropyLearningLoss, LearningRateSGDNesterov, OrtGradientForwardBackwardOptimizer


def raw_scores(model):
    """The part of the graph that leads to the argument of its last Softmax."""
    softmax = [node for node in model.graph.node if node.op_type == "Softmax"][-1]
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    return extractor.extract_model([model.graph.input[0].name], [softmax.input[0]])


def accuracies(model, sets):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [float((session.run(None, {"X": X})[0] == y).mean()) for X, y in sets]


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
    model = to_onnx(pipeline, X[:1], target_opset=17, options={"zipmap": False})

    def transposed(images):
        return images.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)

    some = np.random.default_rng(0).permutation(len(X_train))[:400]
    X_new = np.concatenate([transposed(X_train[some]), X_train[some]])
    y_new = np.concatenate([y_train[some]] * 2)
    sets = [(X_test, y_test), (transposed(X_test), y_test)]
    graph = raw_scores(model)
    weights = [i.name for i in graph.graph.initializer if i.name.startswith(("coefficient", "intercepts"))]
    before = accuracies(model, sets)
    trainer = OrtGradientForwardBackwardOptimizer(
        graph,
        weights,
        max_iter=1,
        batch_size=20,
        learning_rate=LearningRateSGDNesterov(0.005, learning_rate="constant"),
        learning_loss=CrossEntropyLearningLoss(),
        init="model",
        warm_start=True,
        random_state=0,
    )
    history = [before]
    for _ in range(options.epochs):
        trainer.fit(X_new, y_new)
        tuned = trainer.get_trained_onnx(model)
        history.append(accuracies(tuned, sets))
    onnx.save(tuned, options.out / "fine_tuned.onnx")

    plot(np.array(history), sets, options.out / "fine_tune_pipeline.png")
    for name, a, b in zip(("upright", "transposed"), before, history[-1], strict=True):
        print(f"{name:10} test images: accuracy {a:.3f} -> {b:.3f}")
    print(f"trained: {', '.join(weights)}; saved as {options.out / 'fine_tuned.onnx'}")
    return history


def plot(history, sets, path):
    figure = plt.figure(figsize=(10, 4), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[2, 1])
    left, right = parts
    axis = left.subplots()
    axis.plot(history[:, 0], label="upright test images")
    axis.plot(history[:, 1], label="transposed test images")
    axis.set(title="accuracy of the pipeline (onnxruntime)", xlabel="epoch of fine-tuning", ylim=(0, 1.02))
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
