"""Checkpoints: safetensors files whose metadata says which parameters train, the properties and the state of the optimizer.

Tensors: each parameter under its name, each optimizer state under `optimizer.<state>/<parameter>`. Metadata: "ortmod.checkpoint"
(JSON).
A file is written beside its place and moved there when it is whole, so that a process that dies leaves the old or the new state.
"""

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ortmod._errors import ModelError

NOTE = "ortmod.checkpoint"
VERSION = 1
_HEADER_LIMIT = 100 << 20
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: name for name, dtype in _TYPES.items()}


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
    with Replacement([path]) as files:
        write(state, files.part(path), nominal=nominal, optimizer=optimizer)


def write(state: State, path: str | os.PathLike, *, nominal: bool = False, optimizer: bool = True) -> None:
    """The same, straight into the file."""
    note: dict[str, Any] = {
        "version": VERSION,
        "trainable": state.trainable,
        "frozen": [name for name in state.parameters if name not in set(state.trainable)],
        "properties": {name: _tagged(name, value) for name, value in state.properties.items()},
    }
    tensors = {} if nominal or state.nominal else dict(state.parameters)
    if nominal or state.nominal:
        note["nominal"] = {name: [_code(name, value), list(value.shape)] for name, value in state.parameters.items()}
    if optimizer and (state.step or state.optimizer or state.learning_rate is not None):
        note["optimizer"] = {"step": state.step, "learning_rate": state.learning_rate, "states": {}}
        for kind, values in state.optimizer.items():
            keys = {name: _free(f"optimizer.{kind}/{name}", tensors) for name in values}
            note["optimizer"]["states"][kind] = keys
            tensors.update({keys[name]: value for name, value in values.items()})
    write_safetensors(path, tensors, {NOTE: json.dumps(note), "format": "pt"})


def load(path: str | os.PathLike) -> State:
    """Reads a checkpoint of ours or of onnxruntime-training 1.19.2.

    Raises:
        ModelError: the file is not a checkpoint, or is cut short.
    """
    from ortmod.training import checkpoint_ort

    if checkpoint_ort.is_one(path):
        return checkpoint_ort.load(path)
    tensors, metadata = read_safetensors(path)
    if NOTE not in metadata:
        return State(tensors, list(tensors))
    note = json.loads(metadata[NOTE])
    if note.get("version", 0) > VERSION:
        raise ModelError(f"[checkpoint] {path}: got version {note['version']}, expected at most {VERSION}; update ortmod")
    states: dict[str, dict[str, torch.Tensor]] = {}
    optimizer = note.get("optimizer", {"step": 0, "learning_rate": None, "states": {}})
    for kind, keys in optimizer["states"].items():
        states[kind] = {name: tensors.pop(key) for name, key in keys.items()}
    for name, (code, shape) in note.get("nominal", {}).items():
        tensors[name] = torch.empty(shape, dtype=_TYPES[code], device="meta")
    properties = {name: _untagged(value) for name, value in note["properties"].items()}
    return State(tensors, list(note["trainable"]), properties, states, optimizer["step"], optimizer["learning_rate"])


def _free(key: str, taken: Mapping[str, Any]) -> str:
    while key in taken:
        key += "_"
    return key


def _tagged(name: str, value: Any) -> list:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f'[checkpoint] property "{name}": got {type(value).__name__}, expected int, float or str')
    return [type(value).__name__, value.hex() if isinstance(value, float) else value]


def _untagged(value: list) -> int | float | str:
    kind, data = value
    return float.fromhex(data) if kind == "float" else data


def _code(name: str, value: torch.Tensor) -> str:
    if value.dtype not in _CODES:
        raise ModelError(f'[checkpoint] "{name}": tensors of {value.dtype} cannot be saved; expected one of {", ".join(_TYPES)}')
    return _CODES[value.dtype]


def raw_bytes(value: torch.Tensor) -> bytes:
    return _bytes_view(value).tobytes()


def _bytes_view(value: torch.Tensor) -> np.ndarray:
    value = value.detach().cpu().contiguous().reshape(-1)
    return value.view(torch.uint8).numpy() if value.numel() else np.empty(0, dtype=np.uint8)


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file; tensors are written one by one, whatever their size."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    at = 0
    for name, value in ordered:
        if name == "__metadata__":
            raise ModelError('[checkpoint] no tensor can have the name "__metadata__"; rename the parameter')
        size = value.numel() * value.element_size()
        header[name] = {"dtype": _code(name, value), "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _, value in ordered:
            file.write(_bytes_view(value).data)


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


def _entry(given: Mapping[str, Any]) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    begin, end = given["data_offsets"]
    return _TYPES[given["dtype"]], tuple(map(int, given["shape"])), int(begin), int(end)


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; everything is checked before it is used."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if length < 2 or length > min(size - 8, _HEADER_LIMIT):
            raise ModelError(
                f"[checkpoint] {path} is not a checkpoint: it is neither a safetensors file nor one of onnxruntime-training"
            )
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            entries = {name: _entry(e) for name, e in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"[checkpoint] {path}: the header of the safetensors file cannot be read: {error}") from error
        tensors = {}
        for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2]):
            count = int(np.prod(shape, dtype=object)) if shape else 1
            if min(shape, default=0) < 0 or end - begin != count * dtype.itemsize or not 0 <= begin <= end <= size - 8 - length:
                raise ModelError(
                    f'[checkpoint] {path}: the place of "{name}" does not fit its type or the file, which may be cut short'
                )
            file.seek(8 + length + begin)
            data = np.fromfile(file, dtype=np.uint8, count=end - begin)
            tensors[name] = torch.from_numpy(data).view(dtype).reshape(shape) if end > begin else torch.empty(shape, dtype=dtype)
    return tensors, metadata
