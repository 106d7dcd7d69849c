"""scikit-learn's own solvers: SGDRegressor and SGDClassifier (an update after each row), MLPRegressor and MLPClassifier."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from task import Task

from peers.peer import Peer


class Sgd(Peer):
    """One estimator for each output, as MultiOutputRegressor would have it. It has no activation: a task's last one is left out."""

    row_by_row = True

    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        cls, loss, factor = (SGDRegressor, "squared_error", 2.0) if task.loss == "mse" else (SGDClassifier, "log_loss", 1.0)
        options: dict[str, Any] = {"learning_rate": "constant", "eta0": task.rate * factor / task.outputs, "shuffle": False}
        self.estimators = [cls(loss=loss, penalty=None, tol=None, **options) for _ in range(task.outputs)]
        self.X, self.targets = task.X, [np.ascontiguousarray(y) for y in task.y.T]

    def run(self, epochs: int) -> None:
        coef, intercept = self.task.weights
        for k, (estimator, y) in enumerate(zip(self.estimators, self.targets, strict=True)):
            estimator.max_iter = epochs
            estimator.fit(self.X, y, coef_init=coef[:, k].copy(), intercept_init=intercept[k : k + 1].copy())

    def weights(self) -> list[np.ndarray]:
        coefs = np.stack([estimator.coef_.ravel() for estimator in self.estimators], axis=1)
        return [coefs, np.concatenate([estimator.intercept_ for estimator in self.estimators])]


class Mlp(Peer):
    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        cls = MLPRegressor if task.loss == "mse" else MLPClassifier
        factor = 2.0 / task.outputs if task.loss == "mse" else 1.0  # its squared loss is half of a sum over the columns
        self.y = task.y.ravel() if task.outputs == 1 else task.y
        momentum = task.momentum if task.optimizer == "nesterov" else 0.0
        options: dict[str, Any] = {"solver": "sgd", "momentum": momentum, "nesterovs_momentum": momentum > 0, "alpha": 0.0}
        self.estimator = cls(
            hidden_layer_sizes=tuple(task.layers[1:-1]),
            activation=task.hidden.lower(),
            learning_rate_init=task.rate * factor,
            batch_size=task.batch,
            shuffle=False,
            tol=0.0,
            n_iter_no_change=10**9,
            max_iter=1,
            warm_start=True,  # starts from the weights set here, with velocities of zero
            **options,
        )
        self.run(1)

    def run(self, epochs: int) -> None:
        if hasattr(self.estimator, "coefs_"):
            self.estimator.coefs_ = [w.copy() for w in self.task.weights[::2]]
            self.estimator.intercepts_ = [b.copy() for b in self.task.weights[1::2]]
        self.estimator.max_iter = epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.estimator.fit(self.task.X, self.y)

    def weights(self) -> list[np.ndarray]:
        pairs = zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True)
        return [np.array(value) for pair in pairs for value in pair]
