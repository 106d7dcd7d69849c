"""Learning rates that change from update to update."""

import math

from ortmod._errors import ModelError
from ortmod.training.api.optimizer import Optimizer


class _Scheduler:
    def __init__(self, optimizer: Optimizer, warmup_step_count: int, total_step_count: int, initial_lr: float) -> None:
        if not 0 <= warmup_step_count <= total_step_count:
            raise ModelError(f"[artifacts] learning rate: got {warmup_step_count} warm-up steps, expected 0 to {total_step_count}")
        self._optimizer, self._initial = optimizer, initial_lr
        self._warmup, self._total = warmup_step_count, total_step_count
        self.step()

    def step(self) -> None:
        """Sets the rate of the next update, which depends on the number of updates so far; call it after each."""
        self._optimizer.set_learning_rate(self._rate(self._optimizer._session.step))

    def _rate(self, count: int) -> float:
        if count < self._warmup:
            return self._initial * count / self._warmup
        past = (count - self._warmup) / max(1, self._total - self._warmup)
        return self._fall(min(1.0, past))

    def _fall(self, past: float) -> float:
        raise NotImplementedError


class LinearLRScheduler(_Scheduler):
    """Rises linearly from 0 to `initial_lr` over the warm-up, then falls linearly to 0 at `total_step_count`."""

    def _fall(self, past: float) -> float:
        return self._initial * (1 - past)


class CosineLRScheduler(_Scheduler):
    """Rises linearly from 0 to `initial_lr` over the warm-up, then falls along half a cosine to `final_lr`."""

    def __init__(
        self, optimizer: Optimizer, warmup_step_count: int, total_step_count: int, initial_lr: float, final_lr: float = 0.0
    ) -> None:
        self._final = final_lr
        super().__init__(optimizer, warmup_step_count, total_step_count, initial_lr)

    def _fall(self, past: float) -> float:
        return self._final + (self._initial - self._final) * (1 + math.cos(math.pi * past)) / 2
