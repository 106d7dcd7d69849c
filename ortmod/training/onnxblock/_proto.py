"""Editing a ModelProto: names, types of values, nodes, and pieces of the graph library."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ortmod._errors import ModelError
from ortmod.training import graphs

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


class UnknownNameError(ModelError, LookupError):
    """A name that the model does not have."""


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean "a", "b"?`, or the first known names."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if found:
        return "; did you mean " + ", ".join(f'"{n}"' for n in found) + "?"
    return "; known are " + ", ".join(f'"{n}"' for n in known[:8]) + (", ..." if len(known) > 8 else "") if known else ""


def opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def names(graph: onnx.GraphProto) -> set[str]:
    taken = {value.name for part in (graph.input, graph.output, graph.initializer, graph.value_info) for value in part}
    for node in graph.node:
        taken.update(node.input)
        taken.update(node.output)
    return taken


def unique(graph: onnx.GraphProto, name: str, taken: set[str] | None = None) -> str:
    """`name`, or `name_2`, `name_3`, ... if the graph has it: names do not depend on what was built before."""
    taken = names(graph) if taken is None else taken
    count, result = 1, name
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    taken.add(result)
    return result


def exists(model: onnx.ModelProto, name: str) -> bool:
    return name in names(model.graph)


def value_info(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto | None:
    """Type of an input, output, initializer or intermediate value; None if the model has none of that name."""
    graph = model.graph

    def listed(source: onnx.GraphProto) -> onnx.ValueInfoProto | None:
        for part in (source.input, source.output, source.value_info):
            for value in part:
                kind = value.type.WhichOneof("value")
                if value.name == name and (kind == "sequence_type" or (kind and value.type.tensor_type.elem_type)):
                    return value
        return None

    found = listed(graph)
    if found is not None:
        return found
    for tensor in graph.initializer:
        if tensor.name == name:
            return helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
    if not any(name in node.output for node in graph.node):
        return None
    return listed(onnx.shape_inference.infer_shapes(without_data(model), data_prop=True).graph)


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large initializers as inputs, so that it can be looked at whatever its size."""
    small = onnx.ModelProto(ir_version=model.ir_version)
    small.opset_import.extend(model.opset_import)
    small.functions.extend(model.functions)
    graph = small.graph
    graph.name = model.graph.name or "graph"
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= 1024 and not tensor.external_data:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return small


def element_type(model: onnx.ModelProto, *values: str) -> int:
    """The float type of the first of these values that has one, else of the model, else float32."""
    for name in values:
        found = value_info(model, name)
        if found is not None and found.type.tensor_type.elem_type in FLOATS:
            return found.type.tensor_type.elem_type
    for output in model.graph.output:
        if output.type.tensor_type.elem_type in FLOATS:
            return output.type.tensor_type.elem_type
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            return tensor.data_type
    return next(
        (v.type.tensor_type.elem_type for v in model.graph.input if v.type.tensor_type.elem_type in FLOATS), TensorProto.FLOAT
    )


def constant(model: onnx.ModelProto, name: str, values: Any, code: int, dims: Sequence[int] | None = None) -> str:
    """Adds an initializer; `dims` None: those of `values`."""
    array = np.asarray(values, dtype=np.float64 if code in FLOATS else np.int64)
    name = unique(model.graph, name)
    shape = list(array.shape if dims is None else dims)
    model.graph.initializer.append(helper.make_tensor(name, code, shape, array.flatten().tolist()))
    return name


def node(
    model: onnx.ModelProto, op: str, inputs: Sequence[str], outputs: int = 1, output: str = "", **attributes: Any
) -> list[str]:
    """Adds a node of the standard domain; outputs are named after it."""
    taken = names(model.graph)
    made = [unique(model.graph, output or f"{op.lower()}_output", taken) for _ in range(outputs)]
    taken_nodes = {n.name for n in model.graph.node}
    model.graph.node.append(helper.make_node(op, list(inputs), made, name=unique(model.graph, op, taken_nodes), **attributes))
    return made


def without_softplus(piece: onnx.ModelProto, code: int) -> onnx.ModelProto:
    """The piece with Softplus written out where onnxruntime has no kernel for it: in float64."""
    if code != TensorProto.DOUBLE:
        return piece
    result = onnx.ModelProto()
    result.CopyFrom(piece)
    del result.graph.node[:]
    paste = Paste(result.graph)
    spelled = graphs.graph("softplus", dtype=code)
    for i, item in enumerate(piece.graph.node):
        if item.op_type == "Softplus":
            (soft,) = paste.piece(spelled, list(item.input), f"softplus{i}.")
            item = helper.make_node("Identity", [soft], list(item.output))
        result.graph.node.append(item)
    return result


class Paste:
    """Adds nodes to a graph under names with a prefix; a node that is already there is used again."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self._taken = names(graph)
        self._seen: dict[bytes, list[str]] = {}

    def add(self, op: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> str:
        made = helper.make_node(op, list(inputs), [f"{name}{'' if i == 0 else i}" for i in range(outputs)], **attributes)
        return self._add(made, {}, "")[0]

    def number(self, value: float, code: int, name: str) -> str:
        return self.add("Constant", [], name, value=helper.make_tensor("", code, [], [value]))

    def piece(self, model: onnx.ModelProto, args: Sequence[str], prefix: str) -> list[str]:
        """The nodes of a model of the library; its inputs are `args`. Returns its outputs' names."""
        if len(args) != len(model.graph.input):
            raise ModelError(f'[compose] "{model.graph.name}" takes {len(model.graph.input)} inputs, got {len(args)}')
        known = {value.name: arg for value, arg in zip(model.graph.input, args, strict=True)}
        for item in model.graph.node:
            for old, new in zip(item.output, self._add(item, known, prefix), strict=True):
                known[old] = new
        return [known[value.name] for value in model.graph.output]

    def _add(self, source: onnx.NodeProto, known: dict[str, str], prefix: str) -> list[str]:
        made = onnx.NodeProto(op_type=source.op_type, domain=source.domain)
        made.input.extend(known.get(name, name) for name in source.input)
        made.attribute.extend(source.attribute)
        key = made.SerializeToString(deterministic=True)
        if key not in self._seen:
            made.output.extend(unique(self.graph, prefix + name, self._taken) if name else "" for name in source.output)
            self._seen[key] = list(made.output)
            self.graph.node.append(made)
        return self._seen[key]
