"""build_gradient: the gradient of an ONNX model as an ONNX model in standard operators."""

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx

from ortmod import _C
from ortmod._errors import GradientError, ModelError
from ortmod._model import ONNX_TO_TORCH, load

GRADIENT_NAMES = "ortmod.gradient_names"


def build_gradient(
    model: Any,
    *,
    wrt: Iterable[str] | str | None = None,
    outputs: Iterable[str] | str | None = None,
    split: bool = False,
    training: bool = False,
    unreachable: str = "error",
    opset: str | int = "keep",
    functions: bool = False,
) -> Any:
    """The gradient of a model as a ModelProto that any ONNX runtime can run.

    Inputs: the model's, then `<output>_grad`, then the weights in `wrt`, which keep their values as defaults.
    Outputs: the model's, then `<name>_grad` in the order of `wrt`. A name that is taken gets `_2`, `_3`, ...; the map from names
    to names of gradients is in `metadata_props` under "ortmod.gradient_names" (JSON).

    Args:
        model: path, bytes, `onnx.ModelProto`, or anything with `SerializeToString()`.
        wrt: names of weights and inputs; default: the weights that train by default and that an output depends on.
        outputs: names of outputs to differentiate; default: the float outputs that depend on `wrt`.
        split: return `(forward, backward)`. Forward's outputs: the model's, then kept values. Backward's inputs: the output
            gradients, the kept values in forward's order, then the inputs, outputs and weights of forward that it needs.
        training: BatchNormalization and Dropout behave as in training.
        unreachable: "error", or "zero" for zero gradients of a `wrt` that no gradient reaches.
        opset: "keep", "upgrade" (the lowest opset in which all gradients have a cheap form), or a number.
        functions: write operators that have a body as functions of the model, where the model keeps them.

    Raises:
        GradientError: an operator on the way has no gradient, or a `wrt` is not reached.
        ModelError: the model cannot be read, or a name does not fit.
    """
    if unreachable not in ("error", "zero"):
        raise GradientError(f"[differentiate] unreachable: got {unreachable!r}, expected 'error' or 'zero'")
    base = load(model, foreign=True)
    if not isinstance(opset, str):
        base = at_opset(base, opset)
    graph = _in_mode(base, training)
    names = _names(wrt, "wrt") if wrt is not None else _default_names(graph)
    if not names:
        raise GradientError("[differentiate] wrt: the model has no weight that trains by default; name weights or inputs in wrt=")
    _check_names(graph, names)
    options = _C.GradientOptions(names, _names(outputs, "outputs") if outputs is not None else [], unreachable == "zero")
    if isinstance(opset, str):
        graph = _upgraded(base, training, options, opset)
    finish = _with_functions if functions else (lambda g: _proto(g.expanded()))
    if split:
        forward, backward, kept, reads, seeds, gradients = graph.split(options)
        found = {**dict(seeds), **dict(gradients)}
        return _noted(finish(forward), kept=kept), _noted(finish(backward), found, kept=kept, reads=reads)
    joint, seeds, gradients = graph.differentiate(options)
    return _noted(finish(joint), {**dict(seeds), **dict(gradients)})


def _default_names(graph: _C.Model) -> list[str]:
    read = {name for name, _, _ in graph.keep_outputs([name for name, _, _ in graph.outputs]).weights}
    return [c["name"] for c in graph.choices() if c["trainable"] and c["name"] in read]


def _names(given: Iterable[str] | str, argument: str) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    twice = {n for n, count in Counter(names).items() if count > 1}
    if twice:
        raise ModelError(f"[differentiate] {argument}: got {', '.join(sorted(twice))} more than once")
    return names


def _check_names(graph: _C.Model, names: list[str]) -> None:
    known = {name: t for name, t, _ in [*graph.inputs, *graph.weights]}
    for name in names:
        if name not in known:
            raise ModelError(f"[differentiate] wrt: got {name!r}, expected the name of an input or initializer")
        dtype = ONNX_TO_TORCH.get(known[name][0])
        if dtype is None or not dtype.is_floating_point:
            raise GradientError(f"[differentiate] wrt: {name!r} is of type {dtype}, which has no gradient; expected a float type")


def _proto(graph: _C.Model) -> onnx.ModelProto:
    return onnx.load_from_string(graph.to_bytes())


def _with_functions(graph: _C.Model) -> onnx.ModelProto:
    """Each node that carries a body calls a function of its own, whose inputs are the node's present inputs."""
    proto = _proto(graph)
    nodes = [node for node in proto.graph.node if node.domain == "ortmod"]
    for i, (node, body) in enumerate(zip(nodes, graph.bodies(), strict=True)):
        inner = onnx.load_from_string(body)
        function = proto.functions.add(name=f"{node.op_type}_{i}", domain="ortmod", opset_import=inner.opset_import)
        function.input.extend(value.name for value in inner.graph.input)
        function.output.extend(value.name for value in inner.graph.output)
        for weight in inner.graph.initializer:
            function.node.append(onnx.helper.make_node("Constant", [], [weight.name], value=weight))
        function.node.extend(inner.graph.node)
        wanted = [name for name in node.output if name]
        node.op_type = function.name
        del node.attribute[:], node.input[:], node.output[:]
        node.input.extend(function.input)
        node.output.extend(wanted)
    if nodes and all(entry.domain != "ortmod" for entry in proto.opset_import):
        proto.opset_import.add(domain="ortmod", version=1)
    return proto


def _noted(proto: onnx.ModelProto, gradients: dict[str, str] | None = None, **lists: list[str]) -> onnx.ModelProto:
    notes = {GRADIENT_NAMES: json.dumps(gradients)} if gradients is not None else {}
    notes.update({f"ortmod.{key}": json.dumps(value) for key, value in lists.items()})
    for entry in list(proto.metadata_props):
        if entry.key in notes:
            proto.metadata_props.remove(entry)
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def _in_mode(graph: _C.Model, training: bool | str) -> _C.Model:
    return graph if training == "keep" else graph.with_training(bool(training))


def _upgraded(base: _C.Model, training: bool | str, options: _C.GradientOptions, opset: str) -> _C.Model:
    """The graph in the lowest opset in which no gradient has an old form; "keep": as it is, with a warning of what they cost."""
    if opset not in ("keep", "upgrade"):
        raise ModelError(f"[import] opset: got {opset!r}, expected 'keep', 'upgrade' or a number")
    graph = _in_mode(base, training)
    while forms := graph.old_forms(options):
        target = max(needed for _, needed, _ in forms)
        if opset == "keep":
            warn_of_old_forms(graph.opsets.get("", 0), forms, target)
            return graph
        base = _converted(base, target)
        graph = _in_mode(base, training)
    return graph


def warn_of_old_forms(opset: int, forms: list[tuple[str, int, str]], target: int) -> None:
    nodes = list(dict.fromkeys(node for node, _, _ in forms))
    costs = dict.fromkeys(cost for _, _, cost in forms)
    some = ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    warnings.warn(
        f"at opset {opset} the gradients of {some} take {'; '.join(costs)}; opset='upgrade' raises the model to opset {target}",
        stacklevel=4,
    )


def at_opset(graph: _C.Model, target: int) -> _C.Model:
    return graph if target == graph.opsets.get("", 0) else _converted(graph, target)


def _converted(graph: _C.Model, target: int) -> _C.Model:
    """By onnx's version converter, which drops local functions: the graph has none any more."""
    newest = _C.newest_opset()
    if not 7 <= target <= newest:
        raise ModelError(f"[import] opset: got {target}, expected 7 to {newest}")
    ruled = [node["name"] or node["output"] for node in graph.nodes() if node["op"] == "WithGradient"]
    if ruled:
        raise ModelError(
            f"[import] opset: a model with registered gradients of functions (nodes {', '.join(ruled[:5])}) keeps its opset: "
            f"got {target}; write the model in that opset"
        )
    before = _proto(graph.expanded())
    try:
        after = onnx.version_converter.convert_version(before, target)
        onnx.checker.check_model(after)
    except Exception as error:
        raise ModelError(f"[import] opset: the model cannot be converted to opset {target}: {error}") from error
    result = load(after, foreign=True)
    kept = [[name for name, _, _ in part] for g in (graph, result) for part in (g.inputs, g.outputs)]
    if kept[0] != kept[2] or kept[1] != kept[3]:
        raise ModelError(
            f"[import] opset: conversion to opset {target} lost inputs or outputs: got {kept[2:]}, expected {kept[:2]}"
        )
    return result
