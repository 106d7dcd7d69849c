"""What a contender of the training benchmark is."""

import time

import numpy as np
from task import Task


class Missing(RuntimeError):
    """The contender cannot be had on this machine."""


class Peer:
    """A contender, set up once for a task and a number of threads; then `fit` starts from the task's weights as often as asked.

    `row_by_row`: it updates after each row whatever the batch, so it takes another way and is checked at batch 1. `trains`: it
    ends with weights; if not, it only times the work that a step cannot avoid.
    """

    row_by_row = False
    trains = True

    def __init__(self, task: Task, threads: int) -> None:
        self.task, self.threads = task, threads

    def fit(self, epochs: int) -> float:
        """Trains from the initial weights, batches in the order of the rows; returns the seconds it took."""
        self.prepare()
        begin = time.perf_counter()
        self.run(epochs)
        return time.perf_counter() - begin

    def prepare(self) -> None:
        """What is not part of a fit, such as dropping the history of the last one."""

    def run(self, epochs: int) -> None:
        raise NotImplementedError

    def weights(self) -> list[np.ndarray]:
        """After the last fit, in the order and shapes of the task's."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees what is not the process's own."""
