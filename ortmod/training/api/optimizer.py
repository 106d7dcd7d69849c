"""Updates of an optimizer model."""

import math
import os

from ortmod._errors import ModelError
from ortmod.training.api.module import Module


class Optimizer:
    """Updates the parameters of a module in place from the gradients that its steps added up.

    Args:
        optimizer_uri: path of the optimizer model.
        module: the module; its state gives moments, the number of updates and the learning rate, if it has them.
    """

    def __init__(self, optimizer_uri: str | os.PathLike, module: Module) -> None:
        self._session, state = module._session, module._state._state
        self._session.set_optimizer(os.fspath(optimizer_uri))
        self._session.set_optimizer_states(state.optimizer)
        self._session.step = state.step
        if state.learning_rate is not None:
            self._session.learning_rate = state.learning_rate

    def step(self) -> None:
        """One update."""
        self._session.optimizer_step()

    def set_learning_rate(self, learning_rate: float) -> None:
        """The rate of the updates to come.

        Raises:
            ModelError: it is no number, not finite, or below 0.
        """
        try:
            rate = float(learning_rate)
        except (TypeError, ValueError):
            rate = math.nan
        if isinstance(learning_rate, str | bytes) or not math.isfinite(rate) or rate < 0:
            raise ModelError(f"[artifacts] learning_rate: got {learning_rate!r}, expected a finite number of at least 0")
        self._session.learning_rate = rate

    def get_learning_rate(self) -> float:
        """0.001 unless set or restored."""
        return self._session.learning_rate
