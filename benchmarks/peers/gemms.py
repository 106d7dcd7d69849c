"""The work that a step of a dense network cannot avoid: its matrix products by at::mm_out and one fused AdamW over flat weights."""

from collections.abc import Callable
from functools import partial

import torch
from task import Task

from peers.peer import Peer


class Gemms(Peer):
    trains = False

    def __init__(self, task: Task, threads: int) -> None:
        super().__init__(task, threads)
        self.calls: list[Callable[[], object]] = []
        batch, size = task.batch, sum(w.size for w in task.weights)
        for i, (n, m) in enumerate(zip(task.layers[:-1], task.layers[1:], strict=True)):
            x, w, dy = torch.randn(batch, n), torch.randn(n, m), torch.randn(batch, m)
            self.calls.append(partial(torch.mm, x, w, out=torch.empty(batch, m)))
            self.calls.append(partial(torch.mm, x.t(), dy, out=torch.empty(n, m)))
            if i > 0:
                self.calls.append(partial(torch.mm, dy, w.t(), out=torch.empty(batch, n)))
        flat = torch.nn.Parameter(torch.randn(size))
        flat.grad = torch.randn(size)
        self.calls.append(torch.optim.AdamW([flat], lr=task.rate, fused=True).step)

    def run(self, epochs: int) -> None:
        for _ in range(epochs * self.task.steps):
            for call in self.calls:
                call()
