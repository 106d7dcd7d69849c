"""Checkpoints: safetensors files whose metadata says which parameters train, the properties and the state of the optimizer.

Tensors: each parameter under its name, each optimizer state under `optimizer.<state>/<parameter>`. Metadata: "ortmod.checkpoint"
(JSON).
A file is written beside its place and moved there when it is whole, so that a process that dies leaves the old or the new state.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ortmod import _C
from ortmod._errors import DTypeError


@dataclass
class State:
    """What a checkpoint holds."""

    parameters: dict[str, torch.Tensor]  # of a nominal checkpoint: tensors of device "meta"
    trainable: list[str] = field(default_factory=list)
    properties: dict[str, int | float | str] = field(default_factory=dict)
    optimizer: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)  # state -> parameter -> tensor
    step: int = 0
    learning_rate: float | None = None

    @property
    def nominal(self) -> bool:
        return any(value.device.type == "meta" for value in self.parameters.values())


def save(state: State, path: str | os.PathLike, *, nominal: bool = False, optimizer: bool = True) -> None:
    """Writes a checkpoint; the file is the old one or the new one at every moment.

    Args:
        state: what to write.
        path: the file.
        nominal: names and types of parameters without their values.
        optimizer: also the state of the optimizer.
    """
    _C.save_checkpoint(_native(state), os.fspath(path), optimizer, nominal)


def write(state: State, path: str | os.PathLike, *, nominal: bool = False, optimizer: bool = True) -> None:
    """The same, straight into the file."""
    _C.write_checkpoint(_native(state), os.fspath(path), optimizer, nominal)


def load(path: str | os.PathLike) -> State:
    """Reads a checkpoint of ours or of onnxruntime-training 1.19.2.

    Raises:
        ModelError: the file is not a checkpoint, or is cut short.
    """
    os.stat(path)
    c = _C.load_checkpoint(os.fspath(path))
    return State(c.parameters, c.trainable, c.properties, c.optimizer, c.step, c.learning_rate)


def _native(state: State) -> _C.Checkpoint:
    for name, value in state.properties.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise DTypeError(f'[checkpoint] property "{name}": got {type(value).__name__}, expected int, float or str')
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise DTypeError(f'[checkpoint] property "{name}": got {value}, expected an int of 64 bits')
    c = _C.Checkpoint()
    c.parameters, c.trainable, c.properties = state.parameters, state.trainable, state.properties
    c.optimizer, c.step, c.learning_rate = state.optimizer, state.step, state.learning_rate
    return c


def raw_bytes(value: torch.Tensor) -> bytes:
    value = value.detach().cpu().contiguous().reshape(-1)
    return value.view(torch.uint8).numpy().tobytes() if value.numel() else b""


class Replacement:
    """Files that appear together at the end of a `with` block, each whole; nothing is left when the block fails."""

    def __init__(self, paths: Iterable[str | os.PathLike]) -> None:
        self._parts = {Path(path): _part(Path(path)) for path in paths}

    def part(self, path: str | os.PathLike) -> Path:
        """Where to write the file for the time being: beside its place."""
        return self._parts[Path(path)]

    def __enter__(self) -> "Replacement":
        for path, part in self._parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path, part)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
            return
        for part in self._parts.values():
            _sync(part)
        for path, part in self._parts.items():
            os.replace(part, path)
        for folder in {path.parent for path in self._parts}:
            _sync(folder)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _remove_leftovers(path: Path, own: Path) -> None:
    """Removes what writers that died left behind."""
    for other in path.parent.glob(f".{_escaped(path.name)}.*.part"):
        found = re.fullmatch(r".*\.(\d+)\.part", other.name)
        if found and other != own and not Path(f"/proc/{found[1]}").exists():
            other.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not sync folders
            os.fsync(handle)
    finally:
        os.close(handle)
