"""The `train` sub-command: a model and a table of numbers in, the trained model out."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ortmod._errors import ModelError
from ortmod._model import ONNX_TO_TORCH, load
from ortmod._table import table

LOSSES = ("square_error", "absolute_error", "huber", "log", "cross_entropy")
RATES = ("SGD", "Nesterov", "AdamW")


def add(commands: Any) -> None:
    """Adds the sub-command to a parser."""
    train = commands.add_parser("train", help="train a model on a table of numbers")
    train.add_argument("model")
    train.add_argument("data", type=Path, help=".npz: an array per input (or X) and y; .csv: the last columns are y")
    train.add_argument("--targets", type=int, default=1, help="how many of the last columns of a .csv are the target (default: 1)")
    train.add_argument("-o", "--output", type=Path, help="file to write (default: model.trained.onnx)")
    train.add_argument("--loss", choices=LOSSES, default="square_error")
    train.add_argument("--optimizer", choices=RATES, default="SGD")
    train.add_argument("--rate", type=float, help="learning rate, constant (default: 0.01; AdamW 0.001)")
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--batch-size", type=int, default=32)
    train.add_argument("--weights", nargs="+", help="initializers to train (default: those of docs/which-tensors-train.md)")
    train.add_argument("--device", default="cpu")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=run)


def read(path: Path, inputs: list[str], targets: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One array per input, and the target: of shape (rows, targets)."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            names = ["X"] if len(inputs) == 1 and inputs[0] not in arrays else inputs
            if missing := [name for name in [*names, "y"] if name not in arrays]:
                raise ModelError(f"[train] {path}: got arrays {', '.join(arrays.files)}, expected {', '.join(missing)}, too")
            return [arrays[name] for name in names], arrays["y"]
    if len(inputs) != 1:
        raise ModelError(f"[train] {path}: the model has {len(inputs)} inputs, a .csv gives one; use .npz")
    with path.open() as lines:
        first = lines.readline()
    try:
        [float(cell) for cell in first.split(",")]
        header = 0
    except ValueError:
        header = 1
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=header, ndmin=2)
    except ValueError as error:
        raise ModelError(f"[train] {path}: {error}; expected numbers separated by commas") from error
    if not 0 < targets < values.shape[1]:
        raise ModelError(
            f"[train] {path}: got {values.shape[1]} columns and --targets {targets}, expected fewer targets than columns"
        )
    return [values[:, :-targets]], values[:, -targets:]


def run(options: argparse.Namespace) -> None:
    """Trains, shows the loss and writes the model."""
    from ortmod.training import optimizers_partial, sgd_learning_rate

    graph = load(options.model)
    given, y = read(options.data, [name for name, _, _ in graph.inputs], options.targets)
    X = [x.astype(str(ONNX_TO_TORCH[kind[0]]).removeprefix("torch.")) for x, (_, kind, _) in zip(given, graph.inputs, strict=True)]
    floats = [x.dtype for x in X if x.dtype.kind == "f"]
    y = y.astype(np.int64).reshape(-1) if options.loss == "cross_entropy" else y.astype(floats[0] if floats else np.float32)
    weights = options.weights or [choice["name"] for choice in graph.choices() if choice["trainable"]]
    if options.optimizer == "AdamW":
        rate: Any = sgd_learning_rate.LearningRateAdamW(options.rate or 1e-3)
    else:
        kind = sgd_learning_rate.LearningRateSGD if options.optimizer == "SGD" else sgd_learning_rate.LearningRateSGDNesterov
        rate = kind(eta0=options.rate or 0.01, learning_rate="constant")
    trainer = optimizers_partial.OrtGradientForwardBackwardOptimizer(
        options.model,
        weights,
        learning_rate=rate,
        learning_loss=options.loss,
        max_iter=options.epochs,
        batch_size=options.batch_size,
        device=options.device,
        random_state=options.seed,
        verbose=1,
    )
    trainer.fit(X if len(X) > 1 else X[0], y)
    losses = trainer.train_losses_
    shown = sorted({round(k * (len(losses) - 1) / 9) for k in range(10)})
    print(table(["epoch", "loss"], [[str(i + 1), f"{losses[i]:.6g}"] for i in shown]))
    path = options.output or Path(options.model).with_suffix(".trained.onnx")
    onnx.save(trainer.get_trained_onnx(), path)
    print(f"{path}: {', '.join(weights)} trained on {len(y)} rows")
