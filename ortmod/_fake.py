"""Fake kernels and batching rules of the dispatcher operators, for torch.compile, torch.export, meta tensors and vmap."""

import operator
from collections.abc import Callable
from typing import Any

import torch

from ortmod import _C
from ortmod._model import ONNX_TO_TORCH

_OPERATORS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
    "M": lambda a, b: torch.sym_max(a, b),
    "m": lambda a, b: torch.sym_min(a, b),
}


class _Sizes:
    """The sizes of a call's arguments as the graph's symbols, and back."""

    def __init__(self, executable: _C.Executable, shapes: list) -> None:
        self.values: dict[str, Any] = {}
        self.types = []
        for (dtype, declared, _), shape in zip(executable.arg_types, shapes, strict=True):
            dims: list = []
            for i, size in enumerate(shape):
                if isinstance(size, int):
                    dims.append(size)
                    continue
                name = declared[i] if declared is not None and i < len(declared) else None
                if not isinstance(name, str):
                    name = f"size {size}"
                self.values.setdefault(name, size)
                dims.append(name)
            self.types.append((dtype, dims))

    def size(self, dim: Any) -> Any:
        if dim is None:
            return torch.library.get_ctx().new_dynamic_size()
        if isinstance(dim, int):
            return dim
        if isinstance(dim, str):
            if dim not in self.values:
                self.values[dim] = torch.library.get_ctx().new_dynamic_size()
            return self.values[dim]
        sign, a, b = dim
        return _OPERATORS[sign](self.size(a), self.size(b))

    def empty(self, types: list, device: torch.device) -> list[torch.Tensor]:
        made = []
        for dtype, dims, _ in types:
            if dims is None:
                raise NotImplementedError("[compile] an output has no known rank: call the module outside of torch.compile")
            made.append(torch.empty([self.size(d) for d in dims], dtype=ONNX_TO_TORCH[dtype], device=device))
        return made


_TRACED: dict[int, _C.Executable] = {}  # compiled and exported programs name executables and may outlive the module


def _executable(handle: int) -> _C.Executable:
    return _TRACED.setdefault(handle, _C.Executable.from_handle(handle))


def _device(args: list[torch.Tensor]) -> torch.device:
    return args[0].device if args else torch.device("cpu")


@torch.library.register_fake("ortmod::run")
def _run(exe: int, args: list[torch.Tensor], training: bool) -> list[torch.Tensor]:
    executable = _executable(exe)
    sizes = _Sizes(executable, [a.shape for a in args])
    return sizes.empty(executable.output_types(sizes.types, [], training), _device(args))


@torch.library.register_fake("ortmod::forward")
def _forward(exe: int, args: list[torch.Tensor], needs: list[int], training: bool) -> list[torch.Tensor]:
    executable = _executable(exe)
    sizes = _Sizes(executable, [a.shape for a in args])
    types = executable.output_types(sizes.types, needs, training) + executable.kept_types(sizes.types, needs, training)
    return sizes.empty(types, _device(args))


@torch.library.register_fake("ortmod::backward")
def _backward(
    exe: int,
    needs: list[int],
    training: bool,
    args: list[torch.Tensor],
    outputs: list[torch.Tensor],
    kept: list[torch.Tensor],
    grads: list[torch.Tensor | None],
    dims: list[int],
) -> list[torch.Tensor]:
    executable = _executable(exe)
    shapes, at = [], 0
    for _ in range(executable.num_args):
        rank = int(dims[at])
        shapes.append(dims[at + 1 : at + 1 + rank])
        at += 1 + rank
    device = _device([g for g in grads if g is not None])
    reached = executable.saved(needs, training)["reached"]
    return [torch.empty(shapes[i], dtype=ONNX_TO_TORCH[executable.arg_types[i][0]], device=device) for i in reached]


def _each(op: Callable) -> Callable:
    """A batching rule: the operator on each element of the batch, results stacked."""

    def rule(info: Any, in_dims: tuple, *arguments: Any) -> tuple:
        def element(value: Any, dim: Any, b: int) -> Any:
            if isinstance(value, list | tuple):
                dims = dim if isinstance(dim, list | tuple) else [dim] * len(value)
                return [element(v, d, b) for v, d in zip(value, dims, strict=True)]
            return value.select(dim, b) if isinstance(value, torch.Tensor) and dim is not None else value

        rows = [op(*(element(a, d, b) for a, d in zip(arguments, in_dims, strict=True))) for b in range(info.batch_size)]
        stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
        return stacked, [0] * len(stacked)

    return rule


for _name in ("run", "forward", "backward"):
    torch.library.register_vmap(f"ortmod::{_name}", _each(getattr(torch.ops.ortmod, _name)))
