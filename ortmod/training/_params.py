"""What losses, penalties, learning rates and estimators share: parameters by the names of __init__."""

import copy
import inspect
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import onnx

from ortmod.training.excs import ParameterError

T = TypeVar("T", bound="Parameters")


def accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments that a function takes."""
    names = _names(getattr(function, "__func__", function))
    return values if names is None else {key: v for key, v in values.items() if key in names}


@lru_cache(256)
def _names(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names of a function's arguments; None: it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


@lru_cache(256)
def _parameters_of(init: Callable[..., Any]) -> tuple[str, ...]:
    if init is object.__init__:
        return ()
    parameters = inspect.signature(init).parameters.values()
    return tuple(p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD)


class Parameters:
    """`get_params`, `set_params`, repr and equality from the arguments of __init__, which are attributes of the same names."""

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(_parameters_of(cls.__init__))

    def get_params(self, deep: bool = False) -> dict[str, Any]:
        params = {name: getattr(self, name) for name in self._get_param_names()}
        if deep:
            for name, value in list(params.items()):
                if isinstance(value, Parameters):
                    params.update({f"{name}__{key}": v for key, v in value.get_params(True).items()})
        return params

    def set_params(self: T, **params: Any) -> T:
        known = self._get_param_names()
        inside = {name.partition("__")[0] for name in params if "__" in name}
        before = {name: copy.copy(getattr(self, name)) for name in inside & set(known)}
        before |= {name: getattr(self, name) for name in known if name in params}
        for name in params:
            if name.partition("__")[0] not in known:
                raise ParameterError(
                    f"[train] unknown parameter {name.partition('__')[0]!r} of {type(self).__name__}; expected one of "
                    f"{', '.join(known)}"
                )
        try:
            for name, value in params.items():
                own, _, inner = name.partition("__")
                if inner:
                    getattr(self, own).set_params(**{inner: value})
                else:
                    setattr(self, name, value)
            self._check()
        except Exception:
            for name, value in before.items():
                setattr(self, name, value)
            raise
        return self

    def _check(self) -> None:
        """Raises ValueError where parameters do not fit."""

    def __repr__(self) -> str:
        def short(value: Any) -> str:
            words = "ModelProto" if isinstance(value, onnx.ModelProto) else repr(value)
            return words if len(words) <= 60 else words[:57] + "..."

        return f"{type(self).__name__}({', '.join(f'{k}={short(v)}' for k, v in self.get_params().items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Parameters) and self.get_params() == other.get_params()

    __hash__ = None  # type: ignore[assignment]

    def build_onnx_functions(self) -> dict[str, Any]:
        """Every graph of the object, by name."""
        return {}

    def save_onnx_graph(self, folder: Any, prefix: str | None = None, suffix: str | None = None) -> dict[str, Any]:
        """Writes every graph to `folder` and returns the file names; `folder=bytes` returns the serialized models instead."""
        if folder is not bytes and not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {os.fspath(folder)!r}")
        result: dict[str, Any] = {}
        for name, proto in self.build_onnx_functions().items():
            if isinstance(proto, Parameters):
                result[name] = proto.save_onnx_graph(folder, prefix, f"{suffix or ''}.{type(self).__name__}")
                continue
            data = proto.SerializeToString()
            if folder is bytes:
                result[name] = data
                continue
            result[name] = os.path.join(folder, f"{prefix or ''}{type(self).__name__}{suffix or ''}.{name}.onnx")
            with open(result[name], "wb") as f:
                f.write(data)
        return result


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ParameterError(f"[train] {name}: got {value!r}, expected one of {', '.join(map(repr, choices))}")


def checked_number(name: str, value: Any, least: float = 0.0, most: float = float("inf")) -> None:
    if not is_number(value) or not least <= value <= most or abs(value) == float("inf"):
        raise ParameterError(
            f"[train] {name}: got {value!r}, expected a number of at least {least}"
            + (f" and at most {most}" if most < 1e300 else "")
        )
