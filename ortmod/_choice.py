"""Which initializers of a model become parameters: the default rule, then what the user asks for."""

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ortmod import _C
from ortmod._errors import ModelError
from ortmod._model import ONNX_TO_TORCH, type_text

Selection = str | Iterable[str] | Callable[[str], bool] | None

STATISTIC = "running statistic"


@dataclass
class Choice:
    """What an initializer became ("parameter", "frozen", "buffer", "constant") and why."""

    name: str
    kind: str
    reason: str
    role: str
    type: str


def select(selection: Selection, names: list[str], argument: str) -> set[str]:
    """The names that a name, globs or a predicate selects; something that selects nothing is a ModelError."""
    if selection is None:
        return set()
    if callable(selection):
        return {name for name in names if selection(name)}
    patterns = list(selection) if isinstance(selection, Iterable) and not isinstance(selection, str) else [selection]
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ModelError(f"[import] {argument}: got {pattern!r}, expected names of initializers, globs or a predicate")
        found = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
        if not found:
            raise ModelError(f"[import] {argument}: got {pattern!r}, expected the name of an initializer or a glob that fits one")
        chosen.update(found)
    return chosen


def choose(
    graph: _C.Model, trainable: Selection, frozen: Selection, allow_merged: bool, entries: list[dict[str, Any]] | None = None
) -> list[Choice]:
    """One Choice per initializer, in the order of the graph; `entries`: what `graph.choices()` gave."""
    types = {name: value_type for name, value_type, _ in graph.weights}
    texts: dict[tuple, str] = {}  # there are few types
    entries = graph.choices() if entries is None else entries
    floats = [e["name"] for e in entries if _is_float(types[e["name"]])]
    named = select(trainable, floats, "trainable")
    held = select(frozen, floats, "frozen")
    result = []
    for e in entries:
        name, reason, statistic = e["name"], e["reason"], e["role"] == STATISTIC
        trains = e["trainable"] or (allow_merged and e["merged"] and e["role"] != "constant")
        if trainable is not None and name in named:
            if e["merged"] and not allow_merged:
                raise ModelError(
                    f"[import] trainable: {name!r} is one initializer that the exporter merged from several "
                    f"(read by {', '.join(e['consumers'][:4])}); give untie=[{name!r}] to train copies, or allow_merged=True"
                )
            kind, reason = "parameter", "named in trainable="
        elif trains and trainable is not None:
            kind, reason = "frozen", "not named in trainable="
        else:
            kind = "parameter" if trains else "buffer" if statistic else "constant"
        if name in held:
            kind, reason = "frozen", "named in frozen="
        code, dims, of = types[name]
        key = (code, None if dims is None else tuple(dims), of)
        if key not in texts:
            texts[key] = type_text(types[name])
        result.append(Choice(name, kind, reason, e["role"], texts[key]))
    return result


def _is_float(value_type: tuple) -> bool:
    dtype = ONNX_TO_TORCH.get(value_type[0])
    return dtype is not None and dtype.is_floating_point


class Report(list):
    """A list of Choice that prints as a table."""

    def __str__(self) -> str:
        from ortmod._table import table

        return table(["initializer", "type", "is", "role", "why"], [[c.name, c.type, c.kind, c.role, c.reason] for c in self])

    __repr__ = __str__
