"""Reading the checkpoint files of onnxruntime-training 1.19.2: flatbuffers of its schema ort_training_checkpoint.fbs."""

import os
import struct
from typing import Any

import numpy as np
import torch

from ortmod._errors import ModelError
from ortmod._model import ONNX_TO_TORCH
from ortmod.training.checkpoint import State

IDENTIFIER = b"ODTC"
_MOMENTS = {"momentum0": "first_order_moments", "momentum1": "second_order_moments"}


def is_one(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] == IDENTIFIER


class _Table:
    """A flatbuffer table: fields by number. Every access is within the buffer."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at
        self._fields = at - self._unpack("<i", at)
        self._size = self._unpack("<H", self._fields)

    def _unpack(self, layout: str, at: int) -> Any:
        if at < 0 or at + struct.calcsize(layout) > len(self.data):
            raise ModelError("[checkpoint] the file of onnxruntime-training is damaged: a reference leads out of it")
        return struct.unpack_from(layout, self.data, at)[0]

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        offset = self._unpack("<H", self._fields + entry) if entry < self._size else 0
        return self.at + offset if offset else 0

    def number(self, field: int, layout: str, default: Any = 0) -> Any:
        at = self._place(field)
        return self._unpack(layout, at) if at else default

    def _target(self, at: int) -> int:
        return at + self._unpack("<I", at)

    def table(self, field: int) -> "_Table | None":
        at = self._place(field)
        return _Table(self.data, self._target(at)) if at else None

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        at = self._place(field)
        if not at:
            return 0, 0
        start = self._target(at)
        count = self._unpack("<I", start)
        if start + 4 + count * width > len(self.data):
            raise ModelError("[checkpoint] the file of onnxruntime-training is damaged: a list is longer than the file")
        return start + 4, count

    def tables(self, field: int) -> "list[_Table]":
        start, count = self._vector(field, 4)
        return [_Table(self.data, self._target(start + 4 * i)) for i in range(count)]

    def raw(self, field: int) -> memoryview:
        start, count = self._vector(field, 1)
        return self.data[start : start + count]

    def longs(self, field: int) -> list[int]:
        start, count = self._vector(field, 8)
        return list(struct.unpack_from(f"<{count}q", self.data, start))

    def text(self, field: int) -> str:
        return bytes(self.raw(field)).decode()


def load(path: str | os.PathLike) -> State:
    """Parameters, properties and the state of the optimizer's first group."""
    with open(path, "rb") as file:
        data = memoryview(file.read())
    root = _Table(data, struct.unpack_from("<I", data, 0)[0])
    state = State({})
    module = root.table(1)
    if module is not None:
        nominal, external = module.number(2, "<?", False), module.number(3, "<?", False)
        outside = np.memmap(f"{os.fspath(path)}.data", dtype=np.uint8, mode="r") if external else None
        for field in (0, 1):
            for table in module.tables(field):
                name = table.text(0)
                state.parameters[name] = _tensor(table, nominal, outside)
                if field == 0:
                    state.trainable.append(name)
    for group in root.tables(2)[:1]:
        state.step, state.learning_rate = group.number(1, "<q"), group.number(2, "<f", 0.0)
        for one in group.tables(3):
            for momentum in one.tables(1):
                kind = _MOMENTS.get(momentum.text(0), momentum.text(0))
                state.optimizer.setdefault(kind, {})[one.text(0)] = _tensor(momentum, False, None)
    bag = root.table(3)
    if bag is not None:
        for field, layout in ((0, "<q"), (1, "<f")):
            state.properties.update({item.text(0): item.number(1, layout, 0) for item in bag.tables(field)})
        state.properties.update({item.text(0): item.text(1) for item in bag.tables(2)})
    return state


def _tensor(table: _Table, nominal: bool, outside: Any) -> torch.Tensor:
    shape, code = table.longs(2), table.number(3, "<i")
    dtype = ONNX_TO_TORCH.get(code)
    if dtype is None:
        raise ModelError(f'[checkpoint] "{table.text(0)}": the element type {code} of onnxruntime-training is not known')
    if nominal:
        return torch.empty(shape, dtype=dtype, device="meta")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize if shape else dtype.itemsize
    offset = table.number(6, "<q", -1)
    data: Any = table.raw(4) if offset < 0 or outside is None else outside[offset : offset + size]
    if len(data) != size:
        raise ModelError(f'[checkpoint] "{table.text(0)}": got {len(data)} bytes, expected {size} for {list(shape)}')
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
