"""What an export fixed of a torch module, and whether it is still so."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ortmod._errors import ModelError

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_TORCH = {*nn.Module().__dict__} - {"training"}
_SIZES = {"in_features", "out_features", "num_features", "in_channels", "out_channels"}  # forwards read the weights' sizes
_SIZES |= {"num_embeddings", "embedding_dim", "affine", "inplace"}


class Snapshot:
    """Modes, submodules and attributes of a module and its submodules.

    `holds()` runs before every call: it works on the modules' dictionaries, as few passes of them as there are kinds of modules.
    Lists, dicts and sets are compared by their values, other objects by identity, or by == where that says equal.
    """

    def __init__(self, root: nn.Module) -> None:
        modules = list(root.modules())
        self.modules = modules
        self.modes = [m.training for m in modules]
        self._dicts = [m.__dict__ for m in modules]
        self._sizes = list(map(len, self._dicts))
        self._attributes = _grouped(modules)
        self._live: list[dict] = [m._modules for m in modules]
        hooks = [getattr(m, kind) for m in modules[1:] for kind in _HOOKS] + [root._backward_pre_hooks, root._backward_hooks]
        self._live += [h for h in hooks if h]
        self._then = [dict(d) for d in self._live]
        self._hooks = [h for h in hooks if not h]
        tensors = [(d, key, value) for m in modules for d in (m._parameters, m._buffers) for key, value in d.items()]
        self._watched: list[tuple[dict, str, Any]] = [(d, key, None) for d, key, value in tensors if value is None]
        for m in modules:
            if not any(m._forward_pre_hooks.values()):  # a weight normalisation writes its tensor there at each call
                self._watched += [(m.__dict__, k, v) for k, v in m.__dict__.items() if isinstance(v, torch.Tensor)]
        self._versions = [(v, v._version) for _, _, v in self._watched if v is not None]
        first: dict[int, tuple[dict, str]] = {}
        self._tied = [(*first[id(v)], d, key) for d, key, v in tensors if v is not None and _seen(first, v, d, key)]

    def holds(self) -> bool:
        if self._live != self._then or any(self._hooks) or list(map(len, self._dicts)) != self._sizes:
            return False
        try:
            for get, dicts, values in self._attributes:
                if list(map(get, dicts)) != values:
                    return False
        except Exception:  # an attribute is gone, or has another kind that cannot be compared
            return False
        for owner, key, value in self._watched:
            if owner.get(key) is not value:
                return False
        for one, key, other, second in self._tied:
            if one[key] is not other[second]:
                return False
        return all(value._version == version for value, version in self._versions)

    def modes_hold(self) -> bool:
        """The part of `holds` that torch.compile can follow and guard."""
        return all(m.training == mode for m, mode in zip(self.modules, self.modes, strict=True))


def refuse_hooks(root: nn.Module) -> None:
    """Hooks of torch.nn.utils (weight normalisation, pruning) compute tensors and go into the graph; others would not run."""
    for name, module in root.named_modules():
        for kind in _HOOKS:
            if module is root and "forward" in kind:
                continue  # these run around the graph
            for hook in getattr(module, kind).values():
                if not _traced(hook):
                    where = f"of the submodule {name!r}" if name else "of the module"
                    raise ModelError(
                        f"[export] hooks {where} ({type(module).__name__}): got {kind.strip('_').replace('_', ' ')[:-1]} "
                        f"{getattr(hook, '__qualname__', type(hook).__name__)}, expected none, as the graph runs without its "
                        "submodules; remove the hook, register it on the ORTModule, or return the value from forward"
                    )


def _traced(hook: Any) -> bool:
    return (getattr(type(hook), "__module__", None) or "").startswith("torch.nn.utils") or (
        getattr(hook, "__module__", None) or ""
    ).startswith("torch.nn.utils")


def traced_hooks(hooks: dict) -> dict:
    return type(hooks)((key, hook) for key, hook in hooks.items() if _traced(hook))


def _grouped(modules: Iterable[nn.Module]) -> list[tuple[Callable, list[dict], list]]:
    """Modules with the same names of attributes are read by one getter."""
    groups: dict[tuple[str, ...], list[dict]] = {}
    for m in modules:
        own = m.__dict__
        passed = _OF_TORCH | _SIZES if type(m).__module__.startswith("torch.nn.modules.") else _OF_TORCH
        keys = tuple(k for k, v in own.items() if k not in passed and not isinstance(v, torch.Tensor))
        groups.setdefault(keys, []).append(own)
    found: list[tuple[Callable, list[dict], list]] = []
    for keys, dicts in groups.items():
        if keys:
            get = operator.itemgetter(*keys)
            values: list[Any] = [tuple(map(_copied, v)) if len(keys) > 1 else _copied(v) for v in map(get, dicts)]
            found.append((get, dicts, values))
    return found


def _copied(value: Any) -> Any:
    if type(value) is list:
        return list(map(_copied, value))
    if type(value) is tuple:
        copied = tuple(map(_copied, value))
        return value if all(map(operator.is_, value, copied)) else copied
    if type(value) is dict:
        return {k: _copied(v) for k, v in value.items()}
    return set(value) if type(value) is set else value


def _seen(first: dict[int, tuple[dict, str]], value: torch.Tensor, owner: dict, key: str) -> bool:
    if id(value) in first:
        return True
    first[id(value)] = owner, key
    return False
