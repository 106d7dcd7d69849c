"""The graphs of losses, penalties and learning rates as compiled models, and their values outside of a fit."""

from typing import Any

import numpy as np
import onnx
import torch

from ortmod import _C
from ortmod._errors import ModelError
from ortmod._model import load
from ortmod.training import graphs
from ortmod.training._params import accepted
from ortmod.training._values import like, to_column, to_tensor


def as_model(made: Any, owner: Any) -> Any:
    """What a `build_onnx_function` returned (a ModelProto, ONNX text or an onnxscript function) as ModelProto."""
    if isinstance(made, str):
        made = graphs.parse(made)
    elif hasattr(made, "to_model_proto"):
        made = made.to_model_proto()
    if not hasattr(made, "SerializeToString"):
        raise ModelError(
            f"[compose] {type(owner).__name__}.build_onnx_function: got {type(made).__name__}, expected a ModelProto, ONNX "
            f"text or an onnxscript function"
        )
    return made


def compiled(made: Any, owner: Any) -> _C.Model:
    """The same, compiled."""
    return load(as_model(made, owner))


def built(owner: Any, **values: Any) -> Any:
    """The ModelProto of a loss, penalty or learning rate, whichever arguments its `build_onnx_function` takes."""
    build = owner.build_onnx_function
    return as_model(build(**accepted(build, values)), owner)


def piece(owner: Any, **values: Any) -> _C.Model:
    """The graph of a loss, penalty or learning rate for an element type."""
    return load(built(owner, opset=None, **values))


def update_piece(owner: Any, element: Any, code: int) -> _C.Model:
    """The graph of an update of weights and states of a type of 16 bits: it computes in float32."""
    if code not in (10, 16):
        return piece(owner, dtype=element)
    source = built(owner, opset=None, dtype=element)
    proto = onnx.ModelProto()
    proto.CopyFrom(source)
    graph, wide = proto.graph, onnx.TensorProto.FLOAT
    before, after = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == wide:
            before.append(onnx.helper.make_node("Cast", [value.name], [f"{value.name}_wide"], to=wide))
            value.type.tensor_type.elem_type = code
    names = {node.input[0]: node.output[0] for node in before}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in graph.output:
        if value.type.tensor_type.elem_type == wide:
            after.append(onnx.helper.make_node("Cast", [names.get(value.name, value.name)], [f"{value.name}_narrow"], to=code))
            value.type.tensor_type.elem_type = code
            value.name = after[-1].output[0]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 13)  # Cast of bfloat16
    return load(proto)


def loss_piece(loss: Any, dtype: Any, weighted: bool) -> tuple[_C.Model, bool]:
    """The graph, and whether it takes weights; a graph that always takes them is given ones."""
    model = piece(loss, dtype=dtype, weighted=weighted, weight_name="weight" if weighted else None)
    takes = len(model.inputs) == 3
    name, (_, dims, _), _ = model.outputs[0]
    if len(model.inputs) in (2, 3) and dims is not None and any(d is not None and d != 1 for d in dims):
        raise ModelError(
            f"[compose] the graph of {type(loss).__name__}: its first output {name!r} is the loss: got shape {list(dims)}, "
            "expected one number; end it with a ReduceSum over all rows"
        )
    if weighted and not takes:
        raise ModelError(
            f"[compose] the graph of {type(loss).__name__} takes no sample weights: got inputs {[n for n, _, _ in model.inputs]}, "
            "expected (expected, predicted, weight)"
        )
    return model, takes


def evaluate(loss: Any, expected: Any, predicted: Any, weight: Any, gradient: bool) -> Any:
    given = to_tensor(predicted)
    score = given.detach().clone()
    dtype = score.dtype if score.dtype == torch.float64 else torch.float32
    model, takes = loss_piece(loss, dtype, weight is not None)
    (name, t, _), (_, (_, dims, _), _) = model.inputs[:2]
    label = to_column(expected, name, (t[0], dims if t[1] is not None and len(t[1]) > 1 else t[1], t[2]))
    score = score.reshape(-1, 1) if dims is not None and len(dims) == 2 and score.dim() == 1 else score
    loss.check_labels("expected", label, score.shape[1] if score.dim() > 1 else None)
    args = [label, score.to(dtype)]
    if takes:
        args.append(
            torch.ones(len(score), dtype=dtype) if weight is None else to_column(weight, "weight", model.inputs[2][1]).reshape(-1)
        )
    executable = _C.Executable(model)
    if not gradient:
        outputs = _C.run(executable, args)
        if len(outputs) < 2:
            raise ModelError(f"[train] {type(loss).__name__} has no scores of the rows: its graph has one output")
        return like(outputs[1].reshape(-1, 1), predicted)
    with torch.enable_grad():
        args[1].requires_grad_()
        total = _C.run(executable, args)[0]
        (derivative,) = torch.autograd.grad(total.sum(), args[1])
    return like(total.detach().reshape(1), predicted), like(derivative.reshape(given.shape), predicted)


def rates(owner: Any, n: int) -> list[float]:
    """The rates of n periods, of whichever kind the schedule counts."""
    model = compiled(owner.build_schedule(), owner)
    executable = _C.Executable(model)
    result = []
    for t in range(n):
        args = [torch.tensor(0.0 if name == "plateaus" else float(t), dtype=torch.float64) for name, _, _ in model.inputs]
        result.append(float(_C.run(executable, args)[0]))
    return result


def element_of(model: _C.Model, names: list[str]) -> Any:
    """The type that losses and updates are computed in for these weights: float64 if one of them is, else float32."""
    types = {name: t[0] for name, t, _ in model.weights}
    return np.float64 if any(types.get(name) == 11 for name in names) else np.float32
