"""A trainer made from a model and its losses, penalties and learning rate; data and states in and out. No work per step."""

import copy
import math
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ortmod import _C
from ortmod._device import device_of
from ortmod._errors import ModelError, ShapeError
from ortmod._model import ONNX_TO_TORCH, TORCH_TO_ONNX, load
from ortmod.training._pieces import compiled, element_of, loss_piece, piece, update_piece
from ortmod.training._values import float_type, rows_of, to_column, to_tensor
from ortmod.training.excs import ConvergenceError, ConvergenceWarning, EvaluationError
from ortmod.training.sgd_learning_loss import BaseLearningLoss
from ortmod.training.sgd_learning_penalty import BaseLearningPenalty
from ortmod.training.sgd_learning_rate import BaseLearningRate


@dataclass
class History:
    """What a fit did: a report per epoch (epoch, loss, validation_loss, learning_rate, gradient_norm, updates), why it ended
    ("epochs",
    "callback", "patience"), and the index of the best epoch where the best weights were kept (else -1)."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    stop: str = "epochs"
    best: int = -1

    @property
    def losses(self) -> list[float]:
        return [e["loss"] for e in self.epochs]

    @property
    def validation_losses(self) -> list[float]:
        return [e["validation_loss"] for e in self.epochs if not math.isnan(e["validation_loss"])]


class Engine:
    """One model with its weights to train, losses, penalties and learning rate, compiled once; `fit` may be called again and
    continues. `lowers`: the schedule lowers the rate where the loss stays.

    Args:
        model: anything that `OnnxModule` takes.
        weights: names of the weights to train, in any order.
        losses: pairs (loss, name of an output), each with a label column of its own; or None when the loss is in the graph.
        loss_output: the output to minimise, when the loss is in the graph.
        row_weights: with the loss in the graph, the input of weights per row, by whose sum the loss is divided.
        divide: divide the sum of the losses by the rows of the batch (the sum of their weights); False: the graph gives a mean.
        penalties: added to the mean loss; each says which weights it applies to.
        weighted: the rows have weights, the last column of the data.
        dtype: element type of the trained copies of the weights ("master weights"); default: that of the weights.
        clip_norm, clip_value: bounds of the gradient's norm, and of its elements; 0: none.
        training: Dropout and BatchNormalization behave as in training.
    """

    def __init__(
        self,
        model: Any,
        weights: Sequence[str],
        learning_rate: BaseLearningRate,
        *,
        losses: Sequence[tuple[BaseLearningLoss, str]] | None = None,
        loss_output: str = "",
        row_weights: str = "",
        divide: bool = True,
        penalties: Sequence[BaseLearningPenalty] = (),
        weighted: bool = False,
        dtype: Any = None,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        gradient_norm: bool = False,
        training: bool = True,
        device: Any = "cpu",
    ) -> None:
        self.model = load(model)
        names = list(weights)
        arena = TORCH_TO_ONNX[float_type("master_dtype", dtype)] if dtype is not None else 0
        element = np.float64 if arena == 11 else np.float32 if arena == 1 else element_of(self.model, names)
        self.takes_weights = False
        self.losses = list(losses or ())
        parts = []
        for loss, output in losses or ():
            graph, takes = loss_piece(loss, self._loss_type(output, element), weighted)
            self.takes_weights = self.takes_weights or takes
            parts.append((graph, output))
        self.weighted = weighted
        penalty_parts = []
        for penalty in penalties:
            if penalty.build_onnx_function() is None:
                continue
            penalty_parts.append((piece(penalty, dtype=element), penalty.chosen(names)))
        if arena == 0 and element == np.float32:
            arena = 1
        schedule = compiled(learning_rate.build_schedule(), learning_rate)
        self.lowers = any(name == "plateaus" for name, _, _ in schedule.inputs)
        self.trainer = _C.Trainer(
            self.model,
            names,
            update_piece(learning_rate, element, arena),
            schedule,
            losses=parts,
            loss_output=loss_output,
            row_weights=row_weights,
            weighted=self.takes_weights,
            divide=divide,
            penalties=penalty_parts,
            arena=arena,
            clip_norm=clip_norm,
            clip_value=clip_value,
            report_norm=gradient_norm,
            training=training,
            device=str(device_of(device)),
        )
        self.columns = self.trainer.columns

    def _loss_type(self, output: str, element: Any) -> Any:
        for name, t, _ in self.model.outputs:
            if name == output:
                return np.float64 if t[0] == 11 else np.float32
        return element

    # Data.

    def tensors(self, columns: Sequence[Any], names: Sequence[str] | None = None) -> list[torch.Tensor]:
        """The data columns as tensors of the types that the graph wants; floats that are not finite are refused."""
        wanted = [(name, t) for name, t in self.columns if names is None or name in names]
        columns = list(columns)
        if self.takes_weights and names is None and len(columns) == len(wanted) - 1:
            columns.append(np.ones(rows_of(columns[0]) or 0, dtype=np.float32))
        if len(columns) != len(wanted):
            raise ShapeError(
                f"[train] wrong number of data columns: got {len(columns)}, expected {len(wanted)} "
                f"({', '.join(n for n, _ in wanted)})"
            )
        return [to_column(value, name, t) for value, (name, t) in zip(columns, wanted, strict=True)]

    # Fitting.

    def fit(
        self,
        columns: Sequence[Any],
        validation: Sequence[Any] | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 0,
        shuffle: bool = True,
        accumulate: int = 1,
        validate_every: int = 1,
        tol: float = 0.0,
        patience: int = 0,
        watch_validation: bool = False,
        keep_best: bool = False,
        least_rate: float = 0.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        verbose: int = 0,
        exc: bool = True,
    ) -> History:
        """Runs epochs in C++; continues where the last fit ended. `callback(report)` is called after each epoch, False ends the
        fit.

        Raises:
            ConvergenceError: the loss is not finite (with `exc=False` a ConvergenceWarning); the state is that before the epoch.
            EvaluationError: the validation loss is not finite.
        """
        data = self.tensors(columns)
        held_out = self.tensors(validation) if validation is not None else []
        for given in (data, held_out):
            self._check_labels(given)
        options = _C.FitOptions()
        options.epochs, options.batch, options.shuffle = int(epochs), int(batch_size), bool(shuffle)
        options.accumulate, options.validate_every = int(accumulate), int(validate_every)
        options.tol, options.patience, options.watch_validation = float(tol), int(patience), bool(watch_validation)
        options.keep_best, options.least_rate = bool(keep_best), float(least_rate)
        with _progress(verbose, options.epochs, callback) as on_epoch:
            try:
                reports, stop, best = self.trainer.fit(data, held_out, options, on_epoch)
            except ShapeError as error:
                raise self._labelled(data, error) from error
        history = History(reports, stop, best)
        for report in reports:
            if held_out and math.isinf(report["validation_loss"]):
                raise EvaluationError(f"[train] the validation loss of epoch {report['epoch']} is not finite")
        if stop == "diverged":
            says = (
                f"[train] the loss is not finite in epoch {reports[-1]['epoch']} at the rate {reports[-1]['learning_rate']:.3g}; "
                "the weights are those before the epoch; lower the learning rate, clip the gradient or scale the data"
            )
            if exc:
                raise ConvergenceError(says)
            warnings.warn(says, ConvergenceWarning, stacklevel=3)
        return history

    def _check_labels(self, data: Sequence[torch.Tensor]) -> None:
        """DataError where labels are none that their loss knows."""
        given = len(self.model.inputs)
        outputs = {name: t[1] for name, t, _ in self.model.outputs}
        for (name, _), values, (loss, output) in zip(self.columns[given:], data[given:], self.losses, strict=False):
            dims = outputs.get(output)
            columns = dims[1] if dims is not None and len(dims) > 1 and isinstance(dims[1], int) else None
            loss.check_labels(name, values, columns)

    def _labelled(self, data: Sequence[torch.Tensor], error: ShapeError) -> ShapeError:
        """The error in terms of the labels, where one of them has other columns than the output that it is compared with."""
        given = len(self.model.inputs)
        for (label, t), values, (_, output) in zip(self.columns[given:], data[given:], self.losses, strict=False):
            dims = next((t[1] for name, t, _ in self.model.outputs if name == output), None)
            if t[1] is not None and len(t[1]) == 1 and values.dim() > 1:
                return ShapeError(
                    f'[train] "{label}": got shape {list(values.shape)}, expected {[len(values)]}: the class of each row'
                )
            if not dims or not values.dim() or (t[1] is not None and len(t[1]) != len(dims)):
                continue
            if all(isinstance(d, int) for d in dims[1:]) and list(values.shape[1:]) != list(dims[1:]):
                expected = [len(values), *dims[1:]]
                return ShapeError(
                    f'[train] "{label}": got shape {list(values.shape)}, expected {expected}, that of the output "{output}" '
                    "that the loss compares it with"
                )
        return error

    def loss(self, columns: Sequence[Any]) -> tuple[float, torch.Tensor | None]:
        """The mean loss with penalties, and the weighted losses of the rows (None when the loss graph has none)."""
        data = self.tensors(columns)
        self._check_labels(data)
        try:
            return self.trainer.loss(data)
        except ShapeError as error:
            raise self._labelled(data, error) from error

    def outputs(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """The model's outputs with the current weights, in evaluation mode."""
        return self.trainer.outputs(self.tensors(inputs, [name for name, _, _ in self.model.inputs]))

    # State.

    def seed(self, value: int | None) -> None:
        """The seed of the order of rows; None draws one."""
        self.trainer.progress = {"seed": secrets.randbits(63) if value is None else int(value) & ((1 << 64) - 1)}

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of the trained weights by name, in the types of the model."""
        types = {name: ONNX_TO_TORCH[t[0]] for name, t in self.trainer.weights}
        return {name: self.trainer.weight(name).to(t, copy=True) for name, t in types.items()}

    def set_weights(self, values: Mapping[str, Any]) -> None:
        """Sets trained weights by name: all of them, or none where one does not fit."""
        shapes = {name: list(t[1] or ()) for name, t in self.trainer.weights}
        tensors = {}
        for name, value in values.items():
            tensor = tensors[name] = to_tensor(value)
            if name in shapes and list(tensor.shape) != shapes[name]:
                raise ShapeError(f'[train] wrong shape of "{name}": got {list(tensor.shape)}, expected {shapes[name]}')
        unknown = [name for name in tensors if name not in shapes]
        if unknown:
            raise ModelError(f"[train] weights: got {', '.join(unknown)}, expected names of trained weights: {', '.join(shapes)}")
        for name, tensor in tensors.items():
            self.trainer.set_weight(name, tensor)

    def state(self, name: str, weight: str) -> torch.Tensor:
        """A state of the optimizer for one weight, live."""
        return self.trainer.state(name, weight)

    def full_state(self, tensors: bool = True) -> dict[str, Any]:
        """What a resumed fit needs of the engine: weights, optimizer states, running statistics, counters, seed.
        `tensors=False`: all but the tensors."""
        rest = {"progress": dict(self.trainer.progress)}
        if not tensors:
            return rest
        return {"tensors": {name: t.detach().cpu().clone() for name, t in self.trainer.tensors().items()}, **rest}

    def load_full_state(self, state: Mapping[str, Any]) -> None:
        """The opposite."""
        live = self.trainer.tensors()
        for name, value in state["tensors"].items():
            if name not in live or live[name].shape != value.shape:
                raise ModelError(f"[train] the state does not fit this model: {name!r} is unknown or has another size")
        for name, value in state["tensors"].items():
            live[name].copy_(value)
        self.trainer.progress = copy.deepcopy(state["progress"])

    def all_weights(self) -> dict[str, torch.Tensor]:
        """Trained weights and running statistics, for writing a model."""
        live = self.trainer.tensors()
        return {**self.weights(), **{name: live[name].detach().cpu().clone() for name in self.trainer.buffers}}


class _progress:
    """tqdm for `verbose`, and the caller's callback."""

    def __init__(self, verbose: int, epochs: int, callback: Callable[[dict[str, Any]], Any] | None) -> None:
        self._verbose, self._callback, self._bar = verbose, callback, None
        self._epochs = epochs

    def __enter__(self) -> Any:
        if not self._verbose:
            return self._callback
        from tqdm import tqdm

        self._bar = tqdm(total=self._epochs, file=sys.stderr)
        return self

    def __call__(self, report: dict[str, Any]) -> Any:
        assert self._bar is not None
        if self._verbose > 1:
            self._bar.set_description(f"loss={report['loss']:.3g} lr={report['learning_rate']:.3g}")
        self._bar.update(1)
        return self._callback(report) if self._callback else None

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
