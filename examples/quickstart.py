"""A scikit-learn network, converted to ONNX, becomes a layer of a torch model and goes on training on real images.

The same model is trained three times from the same start with the same batches: as ONNX layer + torch head, by torch
eager, and by scikit-learn's partial_fit. Writes quickstart.png and trained.onnx, checks the latter with onnxruntime.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import ortmod

BATCH, RATE, HIDDEN = 32, 0.05, (100, 50)


def fitted_a_little(X, y):
    """An MLPClassifier (plain SGD) after one epoch."""
    settings = {"solver": "sgd", "learning_rate_init": RATE, "momentum": 0.0, "alpha": 0.0, "batch_size": BATCH}
    classifier = MLPClassifier(HIDDEN, shuffle=False, random_state=0, **settings)
    return classifier.partial_fit(X, y, classes=np.unique(y))


def hidden_layers(classifier, X):
    """The ONNX graph of the classifier from its input to its last hidden activation."""
    model = to_onnx(classifier, X[:1], target_opset=17, options={"zipmap": False})
    last = [node.output[0] for node in model.graph.node if node.op_type == "Relu"][-1]
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model([model.graph.input[0].name], [last])


def head_of(classifier):
    """The classifier's output layer as a torch layer."""
    head = torch.nn.Linear(HIDDEN[-1], len(classifier.classes_))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(classifier.coefs_[-1].T))
        head.bias.copy_(torch.from_numpy(classifier.intercepts_[-1]))
    return head


def torch_twin(classifier):
    """The same network written in torch."""
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True):
        layers += [torch.nn.Linear(*weight.shape), torch.nn.ReLU()]
        layers[-2].load_state_dict({"weight": torch.from_numpy(weight.T), "bias": torch.from_numpy(bias)})
    return torch.nn.Sequential(*layers, head_of(classifier))


class TorchRun:
    """Trains a torch model by cross entropy and SGD; records loss, accuracy and seconds of each epoch."""

    def __init__(self, model):
        self.model, self.optimizer = model, torch.optim.SGD(model.parameters(), lr=RATE)

    def epoch(self, X, y):
        X, y = torch.from_numpy(X), torch.from_numpy(y)
        for first in range(0, len(X), BATCH):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(X[first : first + BATCH]), y[first : first + BATCH])
            loss.backward()
            self.optimizer.step()

    def probabilities(self, X):
        with torch.no_grad():
            return torch.softmax(self.model(torch.from_numpy(X)), dim=1).numpy()


class SklearnRun:
    """The same with partial_fit, which takes one step per batch in the order given."""

    def __init__(self, classifier):
        self.classifier = classifier

    def epoch(self, X, y):
        self.classifier.partial_fit(X, y)

    def probabilities(self, X):
        return self.classifier.predict_proba(X)


def train(runs, X, y, X_test, y_test, epochs):
    """Trains all runs, one epoch of each in turn, and returns their histories."""
    histories: dict[str, dict[str, list[float]]] = {name: {"loss": [], "accuracy": [], "seconds": []} for name in runs}
    shuffled = np.random.default_rng(0)

    def measure():
        for name, run in runs.items():
            proba = run.probabilities(X)
            histories[name]["loss"].append(float(-np.log(np.maximum(proba[np.arange(len(y)), y], 1e-30)).mean()))
            histories[name]["accuracy"].append(float((run.probabilities(X_test).argmax(axis=1) == y_test).mean()))

    measure()
    with tqdm(range(epochs), desc="training", unit="epoch", mininterval=0.5) as bar:
        for _ in bar:
            order = shuffled.permutation(len(X))
            X_epoch, y_epoch = X[order], y[order]
            for name, run in runs.items():
                begin = time.perf_counter()
                run.epoch(X_epoch, y_epoch)
                histories[name]["seconds"].append(time.perf_counter() - begin)
            measure()
            ours = histories["ortmod"]
            bar.set_postfix(refresh=False, loss=f"{ours['loss'][-1]:.4f}", accuracy=f"{ours['accuracy'][-1]:.3f}")
    return histories


def save_with_head(layer, head, path):
    """Writes the trained layer and the torch head as one ONNX file: pixels in, logits out."""
    model = layer.to_onnx()
    features = model.graph.output[0].name
    for name, tensor in (("head.weight", head.weight), ("head.bias", head.bias)):
        model.graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), name))
    model.graph.node.append(helper.make_node("Gemm", [features, "head.weight", "head.bias"], ["logits"], transB=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None, head.out_features]))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def plot(histories, path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    styles = {"ortmod": "-", "torch eager": "--", "scikit-learn": ":"}
    for axis, key, title in zip(axes, ("loss", "accuracy"), ("training loss", "test accuracy"), strict=True):
        for name, history in histories.items():
            axis.plot(history[key], styles[name], label=name, linewidth=4 - len(styles[name]))
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(histories):
    names = {
        "ortmod": "ONNX layer (ortmod) + torch head",
        "torch eager": "torch eager",
        "scikit-learn": "scikit-learn partial_fit",
    }
    milliseconds = {name: 1e3 * statistics.median(history["seconds"]) for name, history in histories.items()}
    rows = [f"{'':34}{'accuracy before':>16}{'after':>8}{'final loss':>12}{'ms/epoch':>10}{'vs ours':>9}"]
    for name, history in histories.items():
        before, after, loss = history["accuracy"][0], history["accuracy"][-1], history["loss"][-1]
        ratio = milliseconds[name] / milliseconds["ortmod"]
        rows.append(f"{names[name]:34}{before:16.3f}{after:8.3f}{loss:12.6f}{milliseconds[name]:10.2f}{ratio:9.2f}")
    return "\n".join(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    X, y = load_digits(return_X_y=True)
    images = (X / 16).astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(images, y, train_size=42 * BATCH, random_state=0, stratify=y)
    classifier = fitted_a_little(X_train, y_train)

    layer = ortmod.OnnxModule(hidden_layers(classifier, X_train))
    head = head_of(classifier)
    model = torch.nn.Sequential(layer, head)
    runs = {
        "ortmod": TorchRun(model),
        "torch eager": TorchRun(torch_twin(classifier)),
        "scikit-learn": SklearnRun(copy.deepcopy(classifier)),
    }
    torch.set_num_threads(1)  # a second thread costs such small products more than it gives
    with threadpool_limits(1):
        histories = train(runs, X_train, y_train, X_test, y_test, options.epochs)

    plot(histories, options.out / "quickstart.png")
    save_with_head(layer, head, options.out / "trained.onnx")
    session = onnxruntime.InferenceSession(options.out / "trained.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: X_test})[0]
    with torch.no_grad():
        difference = float(np.abs(logits - model(torch.from_numpy(X_test)).numpy()).max())
    settings = f"batches of {BATCH}, SGD {RATE}, {options.epochs} epochs, 1 thread"
    print(f"\n{len(X_train)} images, {settings}")
    print(table(histories))
    print(f"\n{options.out / 'quickstart.png'}: loss and accuracy curves")
    print(f"{options.out / 'trained.onnx'}: onnxruntime's logits differ from ours by at most {difference:.1e}")
    if difference > 1e-5 * max(1.0, float(np.abs(logits).max())):
        raise SystemExit("the exported model does not give the same predictions")
    return histories, difference


if __name__ == "__main__":
    main()
