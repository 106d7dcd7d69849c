"""ortmod: the whole `fit` of partial training, composing and planning included."""

import numpy as np
from task import Task

from ortmod.training import (
    BaseLearningLoss,
    BaseLearningRate,
    CrossEntropyLearningLoss,
    LearningRateAdamW,
    LearningRateSGD,
    LearningRateSGDNesterov,
    NegLogLearningLoss,
    OrtGradientForwardBackwardOptimizer,
    SquareLearningLoss,
)
from peers.peer import Peer


class Ortmod(Peer):
    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        losses: dict[str, BaseLearningLoss] = {
            "mse": SquareLearningLoss("torch"),
            "bce": NegLogLearningLoss(),
            "ce": CrossEntropyLearningLoss(),
        }
        rate = task.rate / (task.outputs if task.loss == "bce" else 1)  # that loss is a sum over the columns of a row
        rates: dict[str, BaseLearningRate] = {
            "sgd": LearningRateSGD(rate, learning_rate="constant"),
            "nesterov": LearningRateSGDNesterov(rate, learning_rate="constant", momentum=task.momentum),
            "adamw": LearningRateAdamW(task.rate),
        }
        self.trainer = OrtGradientForwardBackwardOptimizer(
            task.model(),
            task.weight_names(),
            batch_size=task.batch,
            learning_rate=rates[task.optimizer],
            learning_loss=losses[task.loss],
            init="model",
            shuffle=False,
        )

    def prepare(self) -> None:
        self.trainer.history_, self.trainer.train_losses_ = [], []

    def run(self, epochs: int) -> None:
        self.trainer.max_iter = epochs
        self.trainer.fit(self.task.X, self.task.y)

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(self.trainer.trained_coef_[name]) for name in self.task.weight_names()]
