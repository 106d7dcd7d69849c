"""OrtGradientOptimizer: full training; the loss is an output of the graph."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ortmod import _C
from ortmod._errors import DTypeError, ModelError
from ortmod.training._base_estimator import BaseEstimator
from ortmod.training._engine import Engine
from ortmod.training._values import to_tensor
from ortmod.training.excs import ParameterError
from ortmod.training.sgd_learning_rate import BaseLearningRate


class OrtGradientOptimizer(BaseEstimator):
    """Trains a graph that computes its own loss from its inputs X, label and, with sample weights, weight.

    Args:
        model_onnx: the graph with its loss, e.g. of `add_loss_output`.
        weights_to_train: names, in any order.
        loss_output_name: the output to minimise.
        max_iter: epochs.
        training_optimizer_name: "SGDOptimizer" or "AdamWOptimizer".
        batch_size: rows of a step; 0: all.
        learning_rate: a BaseLearningRate, a name or a number; momentum works.
        device: a torch device.
        warm_start: a fit continues where the last one ended (weights, velocities, rate, order of rows); the first one starts
            from the weights
            in the graph.
        verbose: 1 shows progress, 2 the loss and the rate, too.
        validation_every: epochs between validations; below 1: as a share of max_iter.
        saved_gradient: a file name to which the gradient graph is written.
        sample_weight_name: the input of the weights of the rows.
        loss_reduction: "sum" when the loss is a sum over the rows (it is divided by their number or the sum of their weights),
            "mean" when
            the graph divides itself.
        init: what a fit without warm start begins with: "normal" draws weights from N(0, 1) (as onnxcustom does, but seeded),
            "model"
            takes the weights in the graph.
        random_state: the seed of initial weights, of the order of rows and of Dropout; None draws one. A fit draws from a stream
            of its own and leaves torch's generators as they were.
        shuffle, accumulate, clip_norm, clip_value: order of rows, batches of an update (they count by their rows), bounds of the
            gradient.
        tol, n_iter_no_change, early_stopping: stop when the loss (of the validation data, if given) no longer falls.
        master_dtype: element type in which weights are updated, e.g. torch.float32 for a bfloat16 graph.
        callback: called with a dict after each epoch; False ends the fit.

    After a fit: `train_losses_` (mean over the rows, one per epoch), `validation_losses_`, `history_`, `n_iter_`, `trained_coef_`.
    """

    def __init__(
        self,
        model_onnx: Any,
        weights_to_train: Sequence[str] | None,
        loss_output_name: str = "loss",
        max_iter: int = 100,
        training_optimizer_name: str = "SGDOptimizer",
        batch_size: int = 10,
        learning_rate: Any = "SGD",
        device: Any = "cpu",
        warm_start: bool = False,
        verbose: int = 0,
        validation_every: float = 0.1,
        saved_gradient: Any = None,
        sample_weight_name: str = "weight",
        loss_reduction: str = "sum",
        init: str = "normal",
        random_state: int | None = None,
        shuffle: bool = True,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        tol: float = 0.0,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        master_dtype: Any = None,
        callback: Any = None,
    ) -> None:
        self.model_onnx = model_onnx
        self.weights_to_train = weights_to_train
        self.loss_output_name = loss_output_name
        self.max_iter = max_iter
        self.training_optimizer_name = training_optimizer_name
        self.batch_size = batch_size
        self.learning_rate: BaseLearningRate = BaseLearningRate.select(learning_rate)
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.validation_every = validation_every
        self.saved_gradient = saved_gradient
        self.sample_weight_name = sample_weight_name
        self.loss_reduction = loss_reduction
        self.init = init
        self.random_state = random_state
        self.shuffle = shuffle
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.master_dtype = master_dtype
        self.callback = callback
        self._check()

    def _check(self) -> None:
        super()._check()
        if self.loss_reduction not in ("sum", "mean"):
            raise ParameterError(f"[train] loss_reduction: got {self.loss_reduction!r}, expected 'sum' or 'mean'")

    def _engine_options(self, model: _C.Model, weighted: bool) -> dict[str, Any]:
        inputs = [name for name, _, _ in model.inputs]
        takes = self.sample_weight_name in inputs
        if weighted and not takes:
            raise ModelError(
                f"[train] sample weights are given, but the graph has no input {self.sample_weight_name!r}: its inputs are "
                f"{', '.join(inputs)}"
            )
        divide = self.loss_reduction == "sum"
        return {
            "loss_output": self.loss_output_name,
            "row_weights": self.sample_weight_name if takes and divide else "",
            "divide": divide,
        }

    def _columns(self, engine: Engine, X: Any, y: Any, sample_weight: Any) -> list[Any]:
        columns = super()._columns(engine, X, y, sample_weight)
        names = [name for name, _, _ in engine.model.inputs]
        if sample_weight is not None:
            columns.insert(names.index(self.sample_weight_name), columns.pop())
        elif self.sample_weight_name in names and len(columns) == len(names) - 1:
            raise ModelError(f"[train] the graph has an input {self.sample_weight_name!r}: sample weights are needed")
        return columns

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None, use_numpy: bool = False
    ) -> "OrtGradientOptimizer":
        """Trains. `X` and `y` may be lists, one array per input of the graph. (`use_numpy` made onnxcustom take another way;
        there is one.)

        Raises:
            ConvergenceError: the loss is not finite; weights are those before that epoch.
            EvaluationError: the validation loss is not finite.
        """
        if self.saved_gradient is not None:
            self._save_gradient()
        history = self._fit(X, y, sample_weight, X_val, y_val)
        self.validation_losses_ = history.validation_losses
        self.loss_index_ = self.output_names_.index(self.loss_output_name)
        return self

    def _save_gradient(self) -> None:
        import onnx

        from ortmod.gradient import build_gradient

        onnx.save(
            build_gradient(self.model_onnx, wrt=self._weight_names(), outputs=[self.loss_output_name], training=True),
            os.fspath(self.saved_gradient),
        )

    def losses(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """The weighted loss of each row alone (with what the graph adds to it), in the order of the rows."""
        engine = self._fitted()
        columns = engine.tensors(self._columns(engine, X, y, sample_weight))
        single = [engine.trainer.loss([c[i : i + 1] for c in columns])[0] for i in range(len(columns[0]))]
        losses = torch.tensor(single, dtype=torch.double)
        if sample_weight is not None and self.loss_reduction == "sum":  # divided by the weight of its row
            losses *= to_tensor(sample_weight).reshape(-1).double()
        return self._given(losses)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Minus the mean loss."""
        engine = self._fitted()
        return -engine.loss(self._columns(engine, X, y, sample_weight))[0]

    def get_state(self) -> dict[str, Any]:
        """The trained weights by name."""
        return self.trained_coef_

    def set_state(self, state: Any) -> None:
        """Sets trained weights, given by name."""
        if not isinstance(state, dict):
            raise DTypeError(f"[train] state: got {type(state).__name__}, expected a dict from names to arrays")
        known = self._weight_names()
        unknown = [name for name in state if name not in known]
        if unknown:
            raise ModelError(f"[train] state: got {', '.join(unknown)}, expected names of trained weights: {', '.join(known)}")
        self._set(state)

    def get_full_state(self) -> dict[str, Any]:
        """Weights, optimizer states, counters and seed: all that a resumed fit needs."""
        return {**self._rest, **self._fitted().full_state()}
