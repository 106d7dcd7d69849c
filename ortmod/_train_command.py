"""The `train` sub-command: a model and a table of numbers in, the trained model out."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ortmod._device import device_of
from ortmod._errors import DTypeError, ModelError
from ortmod._model import ONNX_TO_TORCH, load
from ortmod._table import table

LOSSES = ("square_error", "absolute_error", "huber", "log", "cross_entropy")
RATES = ("SGD", "Nesterov", "AdamW")


def _whole(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {value}, expected a whole number of at least {least}")
        return value

    return number


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a finite number of at least 0")
    return value


def add(commands: Any) -> None:
    """Adds the sub-command to a parser."""
    train = commands.add_parser("train", help="train a model on a table of numbers")
    train.add_argument("model")
    train.add_argument("data", type=Path, help=".npz: an array per input (or X) and y; .csv: the last columns are y")
    train.add_argument(
        "--targets", type=_whole(1), default=1, help="how many of the last columns of a .csv are the target (default: 1)"
    )
    train.add_argument("-o", "--output", type=Path, help="file to write (default: model.trained.onnx)")
    train.add_argument("--loss", choices=LOSSES, default="square_error")
    train.add_argument("--optimizer", choices=RATES, default="SGD")
    train.add_argument("--rate", type=_rate, help="learning rate, constant (default: 0.01; AdamW 0.001)")
    train.add_argument("--epochs", type=_whole(1), default=100)
    train.add_argument("--batch-size", type=_whole(0), default=32)
    train.add_argument("--weights", nargs="+", help="initializers to train (default: those of docs/which-tensors-train.md)")
    train.add_argument("--device", default="cpu")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=run)


def _arrays(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"[train] {path}: it is not a .npz of numbers: {error}") from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise ModelError(f"[train] {path}: it holds one array without a name; expected a .npz of an array per input (or X) and y")
    return found


def read(path: Path, inputs: list[str], targets: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One array per input, and the target: of shape (rows, targets)."""
    if path.suffix == ".npz":
        with _arrays(path) as arrays:
            names = ["X"] if len(inputs) == 1 and inputs[0] not in arrays else inputs
            if missing := [name for name in [*names, "y"] if name not in arrays]:
                raise ModelError(f"[train] {path}: got arrays {', '.join(arrays.files)}, expected {', '.join(missing)}, too")
            return [arrays[name] for name in names], arrays["y"]
    if len(inputs) != 1:
        raise ModelError(f"[train] {path}: the model has {len(inputs)} inputs, a .csv gives one; use .npz")
    try:
        with path.open(encoding="utf-8") as lines:
            first = lines.readline()
    except UnicodeDecodeError:
        raise ModelError(f"[train] {path}: it is not text; expected a .csv of numbers, or a .npz of arrays") from None
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


def _as(values: np.ndarray, name: str, dtype: Any) -> np.ndarray:
    try:
        return values.astype(dtype)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"[train] {name}: got elements of type {values.dtype}, expected numbers: {error}") from error


def run(options: argparse.Namespace) -> None:
    """Trains, shows the loss and writes the model."""
    from ortmod.training import optimizers_partial, sgd_learning_rate

    path = options.output or Path(options.model).with_suffix(".trained.onnx")
    if path.is_dir() or not path.parent.is_dir():
        raise ModelError(
            f"[train] output: {path} cannot be written: {'it' if path.is_dir() else path.parent} is "
            f"{'a folder' if path.is_dir() else 'no folder'}"
        )
    device_of(options.device)
    graph = load(options.model)
    given, y = read(options.data, [name for name, _, _ in graph.inputs], options.targets)
    X = [
        _as(x, name, str(ONNX_TO_TORCH[kind[0]]).removeprefix("torch."))
        for x, (name, kind, _) in zip(given, graph.inputs, strict=True)
    ]
    floats = [x.dtype for x in X if x.dtype.kind == "f"]
    y = _as(y, "y", np.int64).reshape(-1) if options.loss == "cross_entropy" else _as(y, "y", floats[0] if floats else np.float32)
    weights = options.weights or [choice["name"] for choice in graph.choices() if choice["trainable"]]
    if options.optimizer == "AdamW":
        rate: Any = sgd_learning_rate.LearningRateAdamW(1e-3 if options.rate is None else options.rate)
    else:
        kind = sgd_learning_rate.LearningRateSGD if options.optimizer == "SGD" else sgd_learning_rate.LearningRateSGDNesterov
        rate = kind(eta0=0.01 if options.rate is None else options.rate, learning_rate="constant")
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
    onnx.save(trainer.get_trained_onnx(), path)
    print(f"{path}: {', '.join(weights)} trained on {len(y)} rows")
