"""Graph utilities: initializers, names of weights, losses as outputs."""

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ortmod import _C
from ortmod._errors import ModelError
from ortmod.training._params import is_number
from ortmod.training.excs import ParameterError

_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}

_TRAINED = (*_FLOATS, TensorProto.BFLOAT16)


def as_proto(model: Any) -> ModelProto:
    """A ModelProto of a path, bytes or model."""
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, _C.Model):
        return onnx.load_from_string(model.to_bytes())
    try:
        if isinstance(model, str | os.PathLike):
            return onnx.load(os.fspath(model))
        if hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        if isinstance(model, bytes | bytearray | memoryview):
            return onnx.load_from_string(bytes(model))
    except (OSError, DecodeError) as error:
        raise ModelError(f"[import] the model cannot be read: {error}") from error
    raise ModelError(f"[import] model: got {type(model).__name__}, expected a path, bytes or an onnx.ModelProto")


def _copy(model: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    return result


def initializer_names(model: Any, graph: _C.Model) -> list[str]:
    """The float initializers of the file, but for running statistics: what is trained where nobody says what. Constants of nodes
    are none, unless there is nothing else (weights that were attributes)."""
    statistics = {c["name"] for c in graph.choices() if c["role"] == "running statistic"}
    floats = [name for name, t, _ in graph.weights if t[0] in _TRAINED and name not in statistics]
    if isinstance(model, _C.Model):
        return floats
    if isinstance(model, str | os.PathLike):
        proto = onnx.load(os.fspath(model), load_external_data=False)
    else:
        model = getattr(model, "model_proto", model)
        proto = model if hasattr(model, "graph") else as_proto(model)
    named = {i.name for i in proto.graph.initializer} | {i.values.name for i in proto.graph.sparse_initializer}
    return [name for name in floats if name in named] or floats


def get_onnx_opset(onx: ModelProto, domain: str = "") -> int:
    for entry in onx.opset_import:
        if entry.domain == domain:
            return entry.version
    raise ParameterError(f"[train] domain {domain!r} has no opset in the model: got {[e.domain for e in onx.opset_import]}")


def proto_type_to_dtype(proto_type: Any) -> Any:
    """numpy.float32 or float64 of 1, 11, 'tensor(float)', 'tensor(double)'."""
    types = {1: np.float32, 11: np.float64, "tensor(float)": np.float32, "tensor(double)": np.float64}
    if proto_type not in types:
        raise ParameterError(f"[train] proto_type: got {proto_type!r}, expected one of {list(types)}")
    return types[proto_type]


def get_train_initializer(onx: ModelProto) -> "OrderedDict[str, tuple[np.ndarray, TensorProto]]":
    """The float initializers by name: (value, proto)."""
    return OrderedDict((i.name, (numpy_helper.to_array(i), i)) for i in onx.graph.initializer if i.data_type in _FLOATS)


def add_initializer(model: ModelProto, name: str, value: np.ndarray) -> ModelProto:
    """A copy with one more initializer."""
    if any(i.name == name for i in model.graph.initializer):
        raise ParameterError(f"[train] the model has an initializer {name!r} already")
    result = _copy(model)
    result.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return result


def replace_initializers_into_onnx(model: ModelProto, values: Mapping[str, Any], missing: bool = False) -> ModelProto:
    """A copy with other values of initializers, in their types. A name that the model does not have is a RuntimeError unless
    `missing`."""
    result = _copy(model)
    initializers = {i.name: i for i in result.graph.initializer}
    for name, value in values.items():
        if name not in initializers:
            if missing:
                continue
            raise ModelError(f"[train] no initializer {name!r} in the model: got {', '.join(initializers)}")
        old = initializers[name]
        array = np.asarray(value) if not hasattr(value, "detach") else value.detach().cpu().numpy()
        if old.data_type == TensorProto.BFLOAT16:
            bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            fresh = TensorProto(name=name, data_type=old.data_type, dims=array.shape, raw_data=rounded.tobytes())
        else:
            fresh = numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(old.data_type)), name)
        old.CopyFrom(fresh)
    if missing and not any(name in initializers for name in values):
        raise ModelError(f"[train] none of {', '.join(values)} is an initializer of the model")
    return result


def _rename(onx: ModelProto, names: Mapping[str, str]) -> None:
    def visit(graph: onnx.GraphProto) -> None:
        for part in (graph.initializer, graph.input, graph.output, graph.value_info):
            for entry in part:
                entry.name = names.get(entry.name, entry.name)
        for node in graph.node:
            for part in (node.input, node.output):
                for i, name in enumerate(part):
                    part[i] = names.get(name, name)
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    if inner.node or inner.output:
                        visit(inner)

    visit(onx.graph)


def onnx_rename_weights(onx: ModelProto) -> ModelProto:
    """Renames initializers to `I<k>_<name>` in their order, in place (no order is needed here; it is for other libraries)."""
    digits = len(str(max(0, len(onx.graph.initializer) - 1)))
    _rename(onx, {entry.name: f"I{k:0{digits}d}_{entry.name}" for k, entry in enumerate(onx.graph.initializer)})
    return onx


def penalty_loss_onnx(
    name: str, dtype: Any, l1: float | None = None, l2: float | None = None, existing_names: set[str] | None = None
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """(initializers, nodes) of l1 sum abs(w) + l2 sum w^2 of the value `name`; the last output of the last node is the penalty,
    of one element."""
    taken = existing_names if existing_names is not None else set()

    def fresh(base: str) -> str:
        result, k = base, 1
        while result in taken:
            k += 1
            result = f"{base}_{k}"
        taken.add(result)
        return result

    parts: list[str] = []
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for kind, factor in (("l1", l1), ("l2", l2)):
        if not factor:
            continue
        scale = fresh(f"{kind}_weight_{name}")
        initializers.append(numpy_helper.from_array(np.array([factor], dtype=dtype), scale))
        inner, total, scaled = fresh(f"{kind}_inner_{name}"), fresh(f"{kind}_sum_{name}"), fresh(f"{kind}_{name}")
        nodes.append(helper.make_node("Abs", [name], [inner]) if kind == "l1" else helper.make_node("Mul", [name, name], [inner]))
        nodes.append(helper.make_node("ReduceSum", [inner], [total], keepdims=0))
        nodes.append(helper.make_node("Mul", [total, scale], [scaled]))
        parts.append(scaled)
    if not parts:
        raise ParameterError(f"[train] penalty of {name!r}: got l1={l1}, l2={l2}, expected one of them")
    if len(parts) == 2:
        both = fresh(f"penalty_{name}")
        nodes.append(helper.make_node("Add", parts, [both]))
    return initializers, nodes


_LOSSES = {
    "squared_error": "square",
    "square_error": "square",
    "l2": "square",
    "absolute_error": "absolute",
    "l1": "absolute",
    "elastic": "elastic",
    "log": "log",
}


def add_loss_output(
    onx: Any,
    score_name: str = "squared_error",
    loss_name: str = "loss",
    label_name: str = "label",
    weight_name: str | None = None,
    penalty: Mapping[str, Any] | None = None,
    output_index: int | str | None = None,
    **kwargs: Any,
) -> ModelProto:
    """A graph with the inputs label (and weights of the rows) and the outputs [loss of shape (1, 1), the output that it is of].

    `score_name`, each a sum over the rows of weight times: 'squared_error' or 'l2' d^2; 'absolute_error' or 'l1' abs(d); 'elastic'
    (l1_weight=0.5, l2_weight=0.5) l1 abs(d) + l2 d^2; 'log' (eps=1e-6) - log p[label] of an output (n, k) of probabilities,
    clipped and renormalised, label int64 from 0 to k - 1 (another one makes the loss NaN); `n_classes` is k where the shape of the
    output does not say it (default: 2). (In onnxcustom 'log' is a mean, which is then divided by the rows once more.)
    `penalty`: {weight: l2} or {weight: {'l1': a, 'l2': b}}, added once to the sum.
    """
    proto = as_proto(onx)
    if score_name not in _LOSSES:
        raise ParameterError(f"[train] score_name: got {score_name!r}, expected one of {', '.join(map(repr, _LOSSES))}")
    outputs = [o.name for o in proto.graph.output]
    if output_index is None:
        if len(outputs) > 1:
            raise ParameterError(f"[train] output_index: the model has the outputs {', '.join(outputs)}; say which one")
        output = outputs[0]
    else:
        known = range(-len(outputs), len(outputs))
        if output_index not in known and output_index not in outputs:
            raise ModelError(
                f"[compose] output_index: got {output_index!r}, expected one of {', '.join(outputs)}, or 0 to {len(outputs) - 1}"
            )
        output = output_index if isinstance(output_index, str) else outputs[output_index]
    result = _copy(proto)
    result.ir_version = max(result.ir_version, 4)  # before, initializers were inputs, too
    graph = result.graph
    taken = {label_name, loss_name, weight_name}
    clash = {name: f"_{name}_" for name in _value_names(graph) if name in taken}
    if clash:
        _rename(result, clash)
        output = clash.get(output, output)
    score = next(o for o in graph.output if o.name == output)
    code = score.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(code)
    kind = _LOSSES[score_name]
    names = set(_value_names(graph)) | {n for n in taken if n}

    def fresh(base: str) -> str:
        name, k = base, 1
        while name in names:
            k += 1
            name = f"{base}_{k}"
        names.add(name)
        return name

    def constant(base: str, value: Any, like: Any = None) -> str:
        name = fresh(base)
        tensor = numpy_helper.from_array(np.asarray(value, dtype=dtype if like is None else like), name)
        if like is None:  # floats are no initializers: nobody shall train them
            graph.node.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            graph.initializer.append(tensor)
        return name

    def node(op: str, inputs: list[str], base: str, **attributes: Any) -> str:
        name = fresh(base)
        graph.node.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    rows = node("Reshape", [output, constant("rows_shape", [0, -1], np.int64)], "rows")
    if kind == "log":
        classes_of = [w.dim_value for w in score.type.tensor_type.shape.dim][1:] or [2]
        k = classes_of[0] or int(kwargs.pop("n_classes", 2))
        eps = kwargs.pop("eps", 1e-6)
        low, high = constant("eps", eps), constant("one_eps", 1 - eps)
        clipped = node("Min", [node("Max", [rows, low], "clipped_low"), high], "clipped")
        total_of = constant("all_classes", np.ones((k, 1)))
        total = node("MatMul", [clipped, total_of], "probability_sum")
        logs = node("Log", [node("Div", [clipped, total], "probability")], "log_probability")
        flat = node("Reshape", [label_name, constant("flat_shape", [-1, 1], np.int64)], "label_column")
        classes = constant("classes", np.arange(k).reshape(1, -1), np.int64)
        chosen = node("Cast", [node("Equal", [flat, classes], "is_label")], "chosen", to=code)
        # A label that is no class has no chosen column: its loss is 0 / 0, which is no number.
        picked = node("MatMul", [node("Mul", [logs, chosen], "log_chosen"), total_of], "log_picked")
        losses = node("Neg", [node("Div", [picked, node("MatMul", [chosen, total_of], "is_class")], "log_of_label")], "losses")
        label = helper.make_tensor_value_info(label_name, TensorProto.INT64, [None, 1])
    else:
        target = node("Reshape", [label_name, node("Shape", [rows], "rows_shape_of")], "target")
        d = node("Sub", [rows, target], "difference")
        square, absolute = (lambda: node("Mul", [d, d], "square")), (lambda: node("Abs", [d], "absolute"))
        if kind == "elastic":
            l1, l2 = kwargs.pop("l1_weight", 0.5), kwargs.pop("l2_weight", 0.5)
            parts = [
                node("Mul", [constant("l1", l1), absolute()], "l1_part"),
                node("Mul", [constant("l2", l2), square()], "l2_part"),
            ]
            losses = node("Add", parts, "losses")
        else:
            losses = square() if kind == "square" else absolute()
        dims = [(d.dim_value or None) for d in score.type.tensor_type.shape.dim]
        label = helper.make_tensor_value_info(label_name, code, [None, *(dims[1:] or [1])])
    if kwargs:
        raise TypeError(f"add_loss_output: unexpected arguments {', '.join(kwargs)} for {score_name!r}")
    graph.input.append(label)
    if weight_name:
        graph.input.append(helper.make_tensor_value_info(weight_name, code, [None]))
        column = node("Reshape", [weight_name, constant("weight_shape", [-1, 1], np.int64)], "weight_column")
        losses = node("Mul", [losses, column], "weighted")
    total = node("ReduceSum", [losses], "loss_sum", keepdims=0)
    for name, factors in (penalty or {}).items():
        if name not in names:
            raise ParameterError(f"[train] penalty: got {name!r}, which is no initializer or input of the model")
        given = factors if isinstance(factors, Mapping) else {"l2": factors}
        if set(given) - {"l1", "l2"} or not all(v is None or is_number(v) for v in given.values()):
            raise ParameterError(f"[train] penalty of {name!r}: got {factors!r}, expected a number (l2) or {{'l1': a, 'l2': b}}")
        initializers, nodes = penalty_loss_onnx(name, dtype, existing_names=names, **given)
        graph.node.extend(helper.make_node("Constant", [], [i.name], value=i) for i in initializers)
        graph.node.extend(nodes)
        total = node("Add", [total, nodes[-1].output[0]], "penalised")
    graph.node.append(helper.make_node("Reshape", [total, constant("loss_shape", [1, 1], np.int64)], [loss_name]))
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(score)
    del graph.output[:]
    graph.output.extend([helper.make_tensor_value_info(loss_name, code, [1, 1]), kept])
    onnx.checker.check_model(result)
    return result


def _value_names(graph: onnx.GraphProto) -> list[str]:
    names = [i.name for i in graph.initializer] + [i.name for i in graph.input]
    for node in graph.node:
        names.extend(node.output)
    return names


def unreduced_onnx_loss(onx: ModelProto, output_name: str = "score") -> ModelProto:
    """The loss graph with one value per row instead of the sum: its only reduction is replaced by what it reduces, summed over
    columns."""
    result = _copy(onx)
    reducers = [n for n in result.graph.node if re.match("Reduce(Sum|SumSquare)$", n.op_type)]
    if len(reducers) != 1:
        raise ModelError(f"[train] one ReduceSum or ReduceSumSquare is expected in the graph, got {len(reducers)}")
    reducer = reducers[0]
    result.graph.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), "unreduced_rows"))
    source = reducer.input[0]
    nodes = []
    if reducer.op_type == "ReduceSumSquare":
        nodes.append(helper.make_node("Mul", [source, source], ["unreduced_square"]))
        source = "unreduced_square"
    nodes.append(helper.make_node("Reshape", [source, "unreduced_rows"], ["unreduced_values"]))
    nodes.append(_row_sum(result, "unreduced_values"))
    index = list(result.graph.node).index(reducer)
    rest = list(result.graph.node)
    nodes[-1].output[0] = reducer.output[0]
    rest[index : index + 1] = nodes
    old = result.graph.output[0].name
    del result.graph.node[:]
    result.graph.node.extend(rest)
    code = result.graph.output[0].type.tensor_type.elem_type
    result.graph.node.append(helper.make_node("Identity", [old], [output_name]))
    del result.graph.output[:]
    result.graph.output.append(helper.make_tensor_value_info(output_name, code, [None, 1]))
    return result


def _row_sum(model: ModelProto, value: str) -> onnx.NodeProto:
    if get_onnx_opset(model) < 13:
        return helper.make_node("ReduceSum", [value], ["rows_sum"], axes=[1], keepdims=1)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "unreduced_axis"))
    return helper.make_node("ReduceSum", [value, "unreduced_axis"], ["rows_sum"], keepdims=1)
