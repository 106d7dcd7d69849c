"""OrtDataLoader: batches of rows in a true permutation; each row comes once an epoch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ortmod._device import device_of
from ortmod._errors import DeviceError, ShapeError
from ortmod.training._values import to_array, to_tensor
from ortmod.training.excs import ParameterError


class OrtDataLoader:
    """Batches of (X, y[, sample_weight]).

    Args:
        X, y: arrays or tensors of one number of rows; `y` of one dimension gets a second one. Several targets stay as they are.
        sample_weight: one number per row.
        batch_size: rows of a batch; the last one may have fewer. 0: all rows.
        device: a torch device.
        random_iter: a new permutation for each pass; False: the rows in order.
        seed: of the permutations; None draws one.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        batch_size: int = 20,
        device: Any = "cpu",
        random_iter: bool = True,
        seed: int | None = None,
    ) -> None:
        columns = [to_tensor(X), to_tensor(y)] + ([to_tensor(sample_weight).reshape(-1)] if sample_weight is not None else [])
        if any(column.dim() == 0 for column in columns):
            raise ShapeError("[train] data: got a single number, expected rows")
        for name, value in (("batch_size", batch_size), ("seed", seed)):
            if not isinstance(value, int | np.integer) and (name, value) != ("seed", None):
                raise ParameterError(f"[train] {name}: got {value!r}, expected a whole number")
        if columns[1].dim() == 1:
            columns[1] = columns[1].reshape(-1, 1)
        for name, column in zip(("y", "sample_weight"), columns[1:], strict=False):
            if len(column) != len(columns[0]):
                raise ShapeError(f"[train] {name}: got {len(column)} rows, expected {len(columns[0])}, the rows of X")
        device = device_of(device)
        self._columns = tuple(column.contiguous().to(device) for column in columns)
        self.batch_size = batch_size
        self.device = str(device)
        self.random_iter = random_iter
        self.seed = int(np.random.SeedSequence().entropy) & ((1 << 63) - 1) if seed is None else seed  # type: ignore[arg-type]
        self._passes = 0

    def __len__(self) -> int:
        return len(self._columns[0])

    def __repr__(self) -> str:
        return f"OrtDataLoader(..., batch_size={self.batch_size}, device={self.device!r}, random_iter={self.random_iter})"

    @property
    def desc(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        return [(tuple(c.shape), np.dtype(str(c.dtype).removeprefix("torch."))) for c in self._columns]

    @property
    def data(self) -> tuple[torch.Tensor, ...]:
        return self._columns

    @property
    def data_np(self) -> tuple[np.ndarray, ...]:
        return tuple(to_array(c) for c in self._columns)

    def _order(self) -> torch.Tensor | None:
        if not self.random_iter:
            return None
        generator = torch.Generator().manual_seed(self.seed + self._passes)
        self._passes += 1
        return torch.randperm(len(self), generator=generator).to(self._columns[0].device)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches as tensors."""
        order = self._order()
        size = self.batch_size if self.batch_size > 0 else max(1, len(self))
        for start in range(0, len(self), size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            yield tuple(c[rows] for c in self._columns)

    iter_ortvalue = __iter__

    def iter_numpy(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Batches as numpy arrays; data on another device than the CPU is a RuntimeError."""
        if self._columns[0].device.type != "cpu":
            raise DeviceError("[train] iter_numpy: the data is not on the CPU; use the loader itself, which gives tensors")
        for batch in self:
            yield tuple(to_array(c) for c in batch)
