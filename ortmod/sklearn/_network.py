"""Graphs of the networks that estimators build, and what a classifier's file says beside the scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ortmod.sklearn._errors import ParameterError

ACTIVATIONS: dict[str, str | None] = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": None}
OPSET, IR_VERSION = 15, 8


def layer_names(layers: int) -> list[tuple[str, str]]:
    """Names of the coefficients and intercepts, layer by layer."""
    return [("coef", "intercept")] if layers == 1 else [(f"coef{i}", f"intercept{i}") for i in range(layers)]


def start(sizes: Sequence[int], activation: str, dtype: Any, random: np.random.RandomState) -> list[tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's start of a network, with its draws in its order; one layer starts at zero."""
    if len(sizes) == 2:
        return [(np.zeros((sizes[0], sizes[1]), dtype), np.zeros(sizes[1], dtype))]
    result = []
    for n, m in zip(sizes[:-1], sizes[1:], strict=True):
        bound = np.sqrt((2.0 if activation == "logistic" else 6.0) / (n + m))
        result.append(
            (random.uniform(-bound, bound, (n, m)).astype(dtype), random.uniform(-bound, bound, m).astype(dtype)),
        )
    return result


def append_layers(
    graph: onnx.GraphProto, value: str, layers: Sequence[tuple[np.ndarray, np.ndarray]], activation: str, output: str
) -> list[str]:
    """Adds the layers after `value`, ending in the graph output `output`; the names of their weights."""
    names = []
    for i, ((coef, intercept), (w, b)) in enumerate(zip(layers, layer_names(len(layers)), strict=True)):
        last = i == len(layers) - 1
        graph.initializer.extend([numpy_helper.from_array(coef, w), numpy_helper.from_array(intercept, b)])
        operator = None if last else ACTIVATIONS[activation]
        result = output if last else f"layer{i}"
        total = result if operator is None else f"sum{i}"
        graph.node.append(helper.make_node("MatMul", [value, w], [f"product{i}"]))
        graph.node.append(helper.make_node("Add", [f"product{i}", b], [total]))
        if operator is not None:
            graph.node.append(helper.make_node(operator, [total], [result]))
        names += [w, b]
        value = result
    code = helper.np_dtype_to_tensor_dtype(layers[-1][0].dtype)
    graph.output.append(helper.make_tensor_value_info(output, code, ["N", layers[-1][0].shape[1]]))
    return names


def network(layers: Sequence[tuple[np.ndarray, np.ndarray]], activation: str, output: str) -> onnx.ModelProto:
    """X -> output, a float[N, columns] each."""
    coef = layers[0][0]
    x = helper.make_tensor_value_info("X", helper.np_dtype_to_tensor_dtype(coef.dtype), ["N", coef.shape[0]])
    graph = helper.make_graph([], "network", [x], [])
    append_layers(graph, "X", layers, activation, output)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _labels(classes: np.ndarray) -> TensorProto:
    if classes.dtype.kind in "OU":
        if not all(isinstance(c, str) for c in classes):
            raise ParameterError("[export] classes_ that are neither numbers nor strings have no place in an ONNX file")
        return TensorProto(
            name="classes_", data_type=TensorProto.STRING, dims=[len(classes)], string_data=[str(c).encode() for c in classes]
        )
    wide = classes.astype(np.int64) if classes.dtype.kind in "iu" else classes
    return numpy_helper.from_array(np.ascontiguousarray(wide), "classes_")


def add_labels(model: onnx.ModelProto, scores: str, columns: int, classes: np.ndarray, form: str) -> onnx.ModelProto:
    """Appends the outputs `label` and, unless `form` is "none", `probabilities`; form: "sigmoid", "softmax", "rest" or "labels"."""
    graph = model.graph
    output = next(o for o in graph.output if o.name == scores)
    code = output.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(code)
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {i.name for i in graph.initializer}

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def add(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        result = fresh(name)
        graph.node.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    def constant(tensor: TensorProto) -> str:
        tensor.name = fresh(tensor.name)
        graph.initializer.append(tensor)
        return tensor.name

    shape = constant(numpy_helper.from_array(np.array([-1, columns], np.int64), "score_shape"))
    rows = add("Reshape", [scores, shape], "score_rows")
    if form == "labels" or columns == 1:
        positive = add("Greater", [rows, constant(numpy_helper.from_array(np.zeros(1, dtype), "zero"))], "is_positive")
    if form == "labels":
        label = add("Cast", [positive], "label", to=TensorProto.INT64)
        dims: list[Any] = ["N", columns]
        label_type = int(TensorProto.INT64)
    else:
        if columns == 1:
            number = add("Cast", [positive], "class_column", to=TensorProto.INT64)
            flat = constant(numpy_helper.from_array(np.array([-1], np.int64), "flat_shape"))
            index = add("Reshape", [number, flat], "class_index")
        else:
            index = add("ArgMax", [rows], "class_index", axis=1, keepdims=0)
        known = _labels(classes)
        label_type = known.data_type
        label = add("Gather", [constant(known), index], "label", axis=0)
        dims = ["N"]
    graph.output.append(helper.make_tensor_value_info(label, label_type, dims))
    if form == "none":
        return model
    if form == "softmax":
        probabilities = add("Softmax", [rows], "probabilities", axis=1)
    elif form == "labels":
        probabilities = add("Sigmoid", [rows], "probabilities")
    elif form == "sigmoid":
        first = add("Sigmoid", [add("Neg", [rows], "negative_rows")], "probability_first")
        second = add("Sigmoid", [rows], "probability_second")
        probabilities = add("Concat", [first, second], "probabilities", axis=1)
    else:
        each = add("Sigmoid", [rows], "sigmoid_rows")
        ones = constant(numpy_helper.from_array(np.ones((columns, 1), dtype), "ones"))
        tiny = constant(numpy_helper.from_array(np.full(1, np.finfo(dtype).tiny, dtype), "tiny"))
        total = add("Add", [add("MatMul", [each, ones], "sigmoid_sum"), tiny], "sigmoid_total")
        probabilities = add("Div", [each, total], "probabilities")
    width = 2 if form == "sigmoid" else columns
    graph.output.append(helper.make_tensor_value_info(probabilities, code, ["N", width]))
    return model
