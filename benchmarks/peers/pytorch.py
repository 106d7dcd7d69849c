"""torch: the loop that everyone writes; with the fused optimizer; and with torch.compile around network and loss."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from task import Task
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from peers.peer import Peer

_ACTIVATIONS: dict[str, list[nn.Module]] = {"": [], "Relu": [nn.ReLU()], "Tanh": [nn.Tanh()]}
_LOSSES: dict[str, Callable[..., torch.Tensor]] = {"mse": mse_loss, "bce": binary_cross_entropy_with_logits, "ce": cross_entropy}


class Eager(Peer):
    fused: bool | None = None

    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        layers: list[nn.Module] = []
        for i, (n, m) in enumerate(zip(task.layers[:-1], task.layers[1:], strict=True)):
            layers += [nn.Linear(n, m), *_ACTIVATIONS[task.last if i == len(task.layers) - 2 else task.hidden]]
        self.module = nn.Sequential(*layers)
        self.loss = self.loss_of_batch
        self.X = torch.from_numpy(task.X)
        self.y = torch.from_numpy(task.y.astype(np.float32) if task.loss == "bce" else task.y)

    def loss_of_batch(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return _LOSSES[self.task.loss](self.module(x), y)

    def optimizer(self) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"lr": self.task.rate, "fused": self.fused}
        if self.task.optimizer == "adamw":
            return torch.optim.AdamW(self.module.parameters(), **options)
        momentum = self.task.momentum if self.task.optimizer == "nesterov" else 0.0
        return torch.optim.SGD(self.module.parameters(), momentum=momentum, nesterov=momentum > 0, **options)

    def run(self, epochs: int) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.module.parameters(), self.task.weights, strict=True):
                parameter.copy_(torch.from_numpy(value.T))
        optimizer, batch = self.optimizer(), self.task.batch
        for _ in range(epochs):
            for first in range(0, len(self.X), batch):
                optimizer.zero_grad()
                self.loss(self.X[first : first + batch], self.y[first : first + batch]).backward()
                optimizer.step()

    def weights(self) -> list[np.ndarray]:
        return [parameter.detach().numpy().T.copy() for parameter in self.module.parameters()]


class Fused(Eager):
    fused = True


class Compiled(Fused):
    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        torch.compiler.reset()
        self.loss = torch.compile(self.loss_of_batch)
        self.run(1)
