"""What is known of operators: register_gradient, supported_ops, explain."""

from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx.parser

from ortmod import _C
from ortmod._errors import GradientError, UnsupportedOpError, said
from ortmod._model import load, type_text
from ortmod._table import table


def register_gradient(name: str, rule: Any) -> None:
    """Gives an operator its gradient, instead of the built-in rule if there is one; or a local function of models read from now on.

    Args:
        name: "domain::Op" or "domain::Function"; "Op" alone or "ai.onnx::Op" is a standard operator.
        rule: ONNX text of a model or of a function, an `onnx.FunctionProto`, or an onnxscript function; None removes the
            registered rule. Its inputs are the operator's inputs, then its outputs, then one gradient per output; its outputs
            are one gradient per input, in order. A function's attribute references read the operator's attributes.

    Raises:
        GradientError: the rule cannot be read.
    """
    domain, _, op = name.rpartition("::")
    domain = "" if domain == "ai.onnx" else domain
    if not op:
        raise GradientError(f"[differentiate] name: got {name!r}, expected 'domain::Op'")
    if rule is None:
        _C.unregister_gradient(domain, op)
        return
    try:
        proto = _rule_proto(rule)
    except (onnx.parser.ParseError, onnx.checker.ValidationError) as error:
        raise GradientError(f"[differentiate] rule of {name}: {said(error)}") from error
    if isinstance(proto, onnx.FunctionProto):
        proto = _as_model(proto)
    _C.register_gradient(domain, op, proto.SerializeToString())


def _as_model(function: onnx.FunctionProto) -> onnx.ModelProto:
    """A model with the function's body as its graph; attribute references stay."""
    graph = onnx.GraphProto(name=function.name, node=function.node)
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
    return onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, opset_import=function.opset_import)


def _rule_proto(rule: Any) -> Any:
    if isinstance(rule, str):
        head = rule.split(">", 1)[0]
        return onnx.parser.parse_function(rule) if "domain" in head else onnx.parser.parse_model(rule)
    if isinstance(rule, onnx.FunctionProto | onnx.ModelProto):
        return rule
    if hasattr(rule, "to_function_proto"):
        return rule.to_function_proto()
    raise GradientError(
        f"[differentiate] rule: got {type(rule).__name__}, expected ONNX text, an onnx.FunctionProto or an onnxscript function"
    )


@dataclass
class SupportedOp:
    """One operator: opsets, and whether it runs and has a gradient ("yes", "zero", "no")."""

    domain: str
    op: str
    since: int
    newest: int
    forward: bool
    gradient: str
    limits: str = ""


class SupportedOps(list):
    """A list of SupportedOp that prints as a table."""

    def __str__(self) -> str:
        rows = [
            [o.domain or "ai.onnx", o.op, f"{o.since}-{o.newest}", "yes" if o.forward else "no", o.gradient, o.limits] for o in self
        ]
        return table(["domain", "operator", "opsets", "forward", "gradient", "limits"], rows)

    __repr__ = __str__


def supported_ops() -> SupportedOps:
    """Every operator that ortmod knows, by domain and name; operators of domain `ortmod` are its own and carry standard bodies."""
    found = [SupportedOp(**entry) for entry in _C.operators()]
    return SupportedOps(sorted(found, key=lambda o: (o.domain, o.op)))


@dataclass
class NodeFacts:
    """What becomes of a node: runs, its gradient ("yes", "zero" or why not), may be fused with its neighbours."""

    name: str
    op: str
    output: str
    runs: str
    gradient: str
    fused: bool


@dataclass
class WeightFacts:
    """What becomes of a weight: does it train by default and why, does a gradient reach it, else where it stops."""

    name: str
    type: str
    trainable: bool
    why: str
    reached: bool
    stopped: str


@dataclass
class Explanation:
    """Facts on all nodes and weights of a model; prints as two tables and a summary."""

    nodes: list[NodeFacts] = field(default_factory=list)
    weights: list[WeightFacts] = field(default_factory=list)

    def __str__(self) -> str:
        nodes = [[n.name or f"-> {n.output}", n.op, n.runs, n.gradient, "yes" if n.fused else "no"] for n in self.nodes]
        weights = [
            [w.name, w.type, "yes" if w.trainable else "no", "yes" if w.reached else "no", w.stopped or w.why] for w in self.weights
        ]
        trained = [w for w in self.weights if w.trainable]
        missed = [w.name for w in trained if not w.reached]
        without = [n for n in self.nodes if n.gradient not in ("yes", "zero")]
        summary = (
            f"{len(self.nodes)} nodes, {len(without)} without a gradient; {len(trained)} of {len(self.weights)} weights "
            f"train by default, {len(missed)} of them not reached"
        )
        return "\n\n".join(
            [
                table(["node", "operator", "runs", "differentiable", "fusable"], nodes),
                table(["weight", "type", "trains", "reached", "why"], weights),
                summary + (f": {', '.join(missed)}" if missed else ""),
            ]
        )


def explain(model: Any) -> Explanation:
    """What ortmod would do with a model: per node, does it run, is it differentiable, can it be fused, why not; per weight, does
    it train by default, does a gradient reach it, where it stops. Operators that are not known are listed, not raised."""
    graph = model if isinstance(model, _C.Model) else _readable(model)
    nodes = [
        NodeFacts(
            n["name"],
            f"{n['domain'] or 'ai.onnx'}::{n['op']}-{n['version']}",
            n["output"],
            n["runs"],
            n["gradient"],
            n["fused"],
        )
        for n in graph.nodes()
    ]
    choices = graph.choices()
    types = {name: type_text(t) for name, t, _ in graph.weights}
    reached = {name: (yes, why) for name, yes, why in graph.reach([c["name"] for c in choices])}
    weights = [
        WeightFacts(c["name"], types[c["name"]], c["trainable"], c["reason"], *reached.get(c["name"], (False, ""))) for c in choices
    ]
    return Explanation(nodes, weights)


def _readable(model: Any) -> _C.Model:
    """The model in canonical form, or, when it has unknown operators, as it was written."""
    try:
        return load(model)
    except UnsupportedOpError:
        return load(model, check=False)
