"""ONNX names as names of torch parameters: dots make nested containers, one rule for what torch does not allow."""

from collections.abc import Iterable

import torch


def torch_names(onnx_names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Maps each ONNX name to a dotted torch name, which is the same unless torch forbids it.

    The rule: an empty part becomes `_`; a part that is an attribute of an nn.Module (or in `taken`, at the top) gets a `_`
    appended; so does, as often as needed, the last part of a name that is also the beginning of another (`a` beside `a.b`), and
    of one that is taken by then. Names are handled in sorted order, so the result does not depend on the order of the graph.
    """
    names = sorted(set(onnx_names))
    reserved = set(dir(torch.nn.Module()))
    at_top = reserved | set(taken)
    legal = {name: [_legal(part, reserved if i else at_top) for i, part in enumerate(_parts(name))] for name in names}
    containers = {".".join(parts[:i]) for parts in legal.values() for i in range(1, len(parts))}
    result: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        full = ".".join(legal[name])
        while full in used or full in containers:
            full += "_"
        used.add(full)
        result[name] = full
    return result


def _parts(name: str) -> list[str]:
    return [part or "_" for part in name.split(".")]


def _legal(part: str, reserved: set[str]) -> str:
    return part + "_" if part in reserved else part
