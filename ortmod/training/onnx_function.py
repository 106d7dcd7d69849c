"""function_onnx_graph: small graphs by name."""

from typing import Any

import numpy as np
import onnx

from ortmod.training import graphs
from ortmod.training.excs import ParameterError

_HEAD = '<ir_version: 8, opset_import: ["" : $opset]>\n'


def _text(inputs: str, outputs: str, body: str) -> str:
    return f"{_HEAD}$name ({inputs}) => ({outputs}) {{\n{body}\n}}"


_D = """  to_rows = Constant <value = int64[2] {0, -1}> ()
  rows = Reshape (X2, to_rows)
  shape = Shape (rows)
  target = Reshape (X1, shape)
"""


# name: (inputs, outputs, body, what it computes)
_FUNCTIONS: dict[str, tuple[str, str, str, str]] = {
    "axpy": ("$T[n] X1, $T[n] X2, $T[1] alpha", "$T[n] Y", "  a = Mul (X1, alpha)\n  Y = Add (a, X2)", "Y = alpha X1 + X2"),
    "axpyw": (
        "$T[n] X1, $T[n] X2, $T[n] G, $T[1] alpha, $T[1] beta",
        "$T[n] Y, $T[n] Z",
        "  g = Mul (G, beta)\n  a = Mul (X1, alpha)\n  Z = Add (g, a)\n  Y = Add (Z, X2)",
        "Z = beta G + alpha X1, Y = Z + X2",
    ),
    "axpyw2": (
        "$T[n] X1, $T[n] X2, $T[n] G, $T[1] alpha, $T[1] beta",
        "$T[n] Y, $T[n] Z",
        "  g = Mul (G, beta)\n  a = Mul (X1, alpha)\n  Z = Add (g, a)\n  z = Mul (Z, beta)\n  za = Add (z, a)\n  Y = Add (za, X2)",
        "Z = beta G + alpha X1, Y = beta Z + alpha X1 + X2",
    ),
    "copy": ("$T[n] X", "$T[n] Y", "  Y = Identity (X)", "Y = X"),
    "zero": (
        "$T[n] X",
        "$T[n] Y",
        "  shape = Shape (X)\n  Y = ConstantOfShape <value = $T[1] {0}> (shape)",
        "Y = 0, of the shape of X",
    ),
    "linear_regression": (
        "$T[n, c] X, $T[c, k] A, $T[k] B",
        "$T[n, k] Y",
        "  XA = MatMul (X, A)\n  Y = Add (XA, B)",
        "Y = X A + B",
    ),
}

# Losses: name -> (text of the losses of the rows, factor, names of arguments with defaults, integer labels)
_LOSSES: dict[str, tuple[str, float, dict[str, float], bool]] = {
    "square_error": ("square_loss", 1.0, {}, False),
    "grad_square_error": ("square_loss", 1.0, {}, False),
    "grad_loss_square_error": ("square_loss", 0.5, {"multiply": 2.0}, False),
    "grad_loss_absolute_error": ("absolute_loss", 1.0, {}, False),
    "grad_loss_elastic_error": ("elastic_loss", 1.0, {"l1_weight": 0.01, "l2_weight": 0.01}, False),
    "grad_sigmoid_neg_log_loss_error": ("neg_log_loss", 1.0, {"eps": 1e-5}, True),
}
_PENALTIES = ("grad_penalty_elastic_error", "n_penalty_elastic_error", "update_penalty_elastic_error")


def get_supported_functions() -> dict[str, str]:
    """What each name computes."""
    says = {name: entry[3] for name, entry in _FUNCTIONS.items()}
    for name in _LOSSES:
        outputs = {"square_error": "the sum over the rows", "grad_square_error": "the gradient by X2"}
        says[name] = outputs.get(name, "the sum over the rows and its gradient by X2")
    says["grad_penalty_elastic_error"] = "l1 sum abs(X) + l2 sum X^2 and its gradient"
    says["n_penalty_elastic_error"] = "loss + the penalties of n_tensors weights"
    says["update_penalty_elastic_error"] = "X - gradient of l1 sum abs(X) + l2 sum X^2"
    return says


def _loss(name: str, common: dict[str, Any], weight_name: str | None, given: dict[str, Any]) -> onnx.ModelProto:
    text, factor, defaults, integer = _LOSSES[name]
    values = {key: float(given.pop(key, default)) for key, default in defaults.items()}
    factor *= values.pop("multiply", 1.0)
    label = "int64" if integer else "$T"
    signature = f"{label}[n, k] X1, $T[n, k] X2" + (f", $T[n] {weight_name}" if weight_name else "")
    body = _D + "$losses\n"
    if weight_name:
        body += "  to_column = Constant <value = int64[2] {-1, 1}> ()\n"
        body += f"  w = Reshape ({weight_name}, to_column)\n  weighted = Mul (losses, w)\n"
    total = "weighted" if weight_name else "losses"
    body += f"  total = ReduceSum <keepdims = 0> ({total})\n"
    body += "  factor = Constant <value = $T {$factor}> ()\n  scaled = Mul (factor, total)\n"
    body += "  one = Constant <value = int64[1] {1}> ()\n  Y = Reshape (scaled, one)"
    losses = graphs.text(text, **{**common, **values})
    forward = graphs.fill(_text(signature, "$T[1] Y", body), name=name, losses=losses, factor=factor, **common)
    if name == "square_error":
        return forward
    return _with_gradient(forward, "X2", keep_output=name != "grad_square_error")


def _with_gradient(forward: onnx.ModelProto, by: str, keep_output: bool = True) -> onnx.ModelProto:
    """The graph with the gradient by one input as output Y_grad, the output's own gradient being one."""
    from ortmod.training.grad_helper import DerivativeOptions, onnx_derivative

    options = DerivativeOptions.KeepOutputs | DerivativeOptions.FillGrad
    proto = onnx_derivative(forward, weights=[], inputs=[by], options=options)
    for node in proto.graph.node:
        for part in (node.input, node.output):
            for i, value in enumerate(part):
                part[i] = {f"{by}_grad": "Y_grad", "Y_grad": "Y_one"}.get(value, value)
    for output in proto.graph.output:
        output.name = {f"{by}_grad": "Y_grad"}.get(output.name, output.name)
    if not keep_output:
        kept = [o for o in proto.graph.output if o.name == "Y_grad"]
        del proto.graph.output[:]
        proto.graph.output.extend(kept)
    return proto


def function_onnx_graph(
    name: str, target_opset: int | None = None, dtype: Any = np.float32, weight_name: str | None = None, **kwargs: Any
) -> onnx.ModelProto:
    """A small graph by name (`get_supported_functions` lists them); the gradients are derived, so their signs and factors follow
    the forward.

    `weight_name`: the losses take the weights of the rows as input of that name. `dtype`: float32 or float64.
    """
    common = {"dtype": dtype, "opset": target_opset}
    given = dict(kwargs)
    if name in _FUNCTIONS:
        inputs, outputs, body, _ = _FUNCTIONS[name]
        result = graphs.fill(_text(inputs, outputs, body), name=name, **common)
    elif name in _LOSSES:
        result = _loss(name, common, weight_name, given)
    elif name in _PENALTIES:
        result = _penalty(name, common, given)
    else:
        raise ParameterError(f"[train] name: got {name!r}, expected one of {', '.join(sorted(get_supported_functions()))}")
    if given:
        raise TypeError(f"function_onnx_graph: unexpected arguments {', '.join(given)} for {name!r}")
    return result


def _elastic(value: str, k: str = "") -> str:
    return (
        f"  absolute{k} = Abs ({value})\n  sum_absolute{k} = ReduceSum <keepdims = 0> (absolute{k})\n"
        f"  sum_square{k} = ReduceSumSquare <keepdims = 0> ({value})\n  l1_part{k} = Mul (l1, sum_absolute{k})\n"
        f"  l2_part{k} = Mul (l2, sum_square{k})\n  penalty{k} = Add (l1_part{k}, l2_part{k})\n"
    )


def _penalty(name: str, common: dict[str, Any], given: dict[str, Any]) -> onnx.ModelProto:
    update = name == "update_penalty_elastic_error"
    names = ("l1", "l2") if update else ("l1_weight", "l2_weight")
    factors = {key: float(given.pop(key, 1e-4 if update else 0.01)) for key in names}
    constants = "".join(
        f"  {short} = Constant <value = $T {{{v!r}}}> ()\n" for short, v in zip(("l1", "l2"), factors.values(), strict=True)
    )
    one = "  one = Constant <value = int64[1] {1}> ()\n"
    if name == "n_penalty_elastic_error":
        n = given.pop("n_tensors", 1)
        shape = given.pop("loss_shape", (1, 1))
        if n <= 0:
            raise ParameterError(f"[train] n_tensors: got {n}, expected at least 1")
        dims = f"[{', '.join(str(d) for d in shape)}]" if shape else ""
        signature = f"$T{dims} loss, " + ", ".join(f"$T[n{i}] W{i}" for i in range(n))
        body = constants + one + "  flat = Reshape (loss, one)\n" + "".join(_elastic(f"W{i}", str(i)) for i in range(n))
        total = "flat"
        for i in range(n):
            body += f"  {'Y' if i == n - 1 else f'sum{i}'} = Add ({total}, penalty{i})\n"
            total = f"sum{i}"
        return graphs.fill(_text(signature, "$T[1] Y", body), name=name, **common)
    body = constants + one + _elastic("X") + "  Y = Reshape (penalty, one)"
    result = _with_gradient(graphs.fill(_text("$T[n] X", "$T[1] Y", body), name=name, **common), "X")
    if update:
        for node in result.graph.node:
            for i, value in enumerate(node.output):
                node.output[i] = "penalty_sum" if value == "Y" else value
            for i, value in enumerate(node.input):
                node.input[i] = "penalty_sum" if value == "Y" else value
        node = onnx.helper.make_node("Sub", ["X", "Y_grad"], ["Y"])
        result.graph.node.append(node)
        info = onnx.ValueInfoProto()
        info.CopyFrom(result.graph.input[0])
        info.name = "Y"
        del result.graph.output[:]
        result.graph.output.append(info)
    return result
