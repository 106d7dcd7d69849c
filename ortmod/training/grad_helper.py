"""onnx_derivative: gradients as a plain ONNX graph."""

from collections.abc import Sequence
from enum import IntFlag
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from ortmod._errors import DTypeError
from ortmod.gradient import build_gradient
from ortmod.training.excs import ParameterError
from ortmod.training.onnx_helper import add_loss_output, as_proto

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class DerivativeOptions(IntFlag):
    """Zero: gradients of the outputs are inputs `<output>_grad`. KeepOutputs: the outputs are computed, too. FillGrad: the
    gradients of the
    outputs are ones. KeepYieldOp: the joint graph with the outputs (no YieldOp is needed here). Loss: the gradient of a loss."""

    Zero = 0
    KeepYieldOp = 1
    KeepOutputs = 2
    FillGrad = 4
    Loss = 5


def onnx_derivative(
    onx: Any,
    weights: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    options: DerivativeOptions = DerivativeOptions.Zero,
    loss: Any = None,
    label: Any = None,
    path_name: Any = None,
) -> onnx.ModelProto:
    """The gradient of a model by its inputs and weights, in standard operators.

    Args:
        onx: the model.
        weights: names of initializers; default: every float initializer.
        inputs: names of inputs; default: every float input.
        options: see DerivativeOptions.
        loss: with Loss: a name that `add_loss_output` knows, or the name of an output that is the loss already.
        label: with Loss: the name of the label's input.
        path_name: with Loss: a file that the graph is written to, if given.

    Returns outputs [the model's, if kept,] then `<name>_grad` of inputs and weights.
    """
    if not isinstance(options, DerivativeOptions):
        raise DTypeError(f"[train] options: got {type(options).__name__}, expected DerivativeOptions")
    proto = as_proto(onx)
    is_loss = options == DerivativeOptions.Loss
    if not is_loss and DerivativeOptions.FillGrad in options and DerivativeOptions.KeepOutputs not in options:
        raise ParameterError("[train] options: FillGrad needs KeepOutputs")
    if not is_loss and DerivativeOptions.KeepYieldOp in options and options != DerivativeOptions.KeepYieldOp:
        raise ParameterError("[train] options: KeepYieldOp stands alone")
    weights = [weights] if isinstance(weights, str) else weights
    inputs = [inputs] if isinstance(inputs, str) else inputs
    initializers = [i.name for i in proto.graph.initializer if i.data_type in _FLOATS]
    known = {i.name for i in proto.graph.initializer}
    graph_inputs = [i.name for i in proto.graph.input if i.name not in known and i.type.tensor_type.elem_type in _FLOATS]
    if is_loss:
        return _of_loss(proto, weights, initializers, loss, label, path_name)
    wrt = list(inputs if inputs is not None else graph_inputs) + list(weights if weights is not None else initializers)
    result = build_gradient(proto, wrt=wrt, unreachable="zero")
    n_outputs = len(proto.graph.output)
    if DerivativeOptions.FillGrad in options:
        _fill(result, [o.name for o in proto.graph.output])
    elif options == DerivativeOptions.Zero:
        kept = list(result.graph.output)[n_outputs:]
        del result.graph.output[:]
        result.graph.output.extend(kept)
    return result


def _fill(proto: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Gradients of outputs, which were inputs, are computed: ones of the outputs' shapes, right after these."""
    names = {f"{name}_grad": name for name in outputs}
    seeds = [i for i in proto.graph.input if i.name in names]
    nodes = list(proto.graph.node)
    for seed in seeds:
        source = names[seed.name]
        one = numpy_helper.to_array(helper.make_tensor("one", seed.type.tensor_type.elem_type, [1], [1.0]))
        fill = [
            helper.make_node("Shape", [source], [f"{source}_shape_of_grad"]),
            helper.make_node("ConstantOfShape", [f"{source}_shape_of_grad"], [seed.name], value=numpy_helper.from_array(one)),
        ]
        at = next((i + 1 for i, node in enumerate(nodes) if source in node.output), 0)
        nodes[at:at] = fill
        proto.graph.input.remove(seed)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _of_loss(
    proto: onnx.ModelProto, weights: Any, initializers: list[str], loss: Any, label: Any, path_name: Any
) -> onnx.ModelProto:
    if loss is None or label is None:
        raise ParameterError(
            "[train] options: Loss needs loss= (a name of add_loss_output, or of an output) and label= (the name of its input)"
        )
    name = loss
    if loss not in [o.name for o in proto.graph.output]:
        proto, name = add_loss_output(proto, loss, label_name=label), "loss"
    known = [i.name for i in proto.graph.input]
    if label not in known:
        raise ParameterError(f"[train] label: got {label!r}, expected the name of an input: {', '.join(known)}")
    result = build_gradient(proto, wrt=list(weights) if weights is not None else initializers, outputs=[name], unreachable="zero")
    _fill(result, [name])
    if path_name is not None:
        onnx.save(result, path_name)
    return result
