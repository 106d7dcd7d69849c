"""Training and eval models of a model with a loss: the gradient comes from the shared builder, the rest is inputs and outputs.

Training model. Inputs: those of the model, the parameters in the order of the model's initializers,
`<p>_grad.accumulation.buffer` for each trainable parameter p, `lazy_reset_grad`. Outputs: those of the model (the loss first),
`<p>_grad.accumulation.out` (the new buffer) for each trainable p, `<s>.updated` for each running statistic s that training changes.
Eval model: the same without gradients, buffers, flag and updates.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
import torch
from onnx import TensorProto, helper

from ortmod import _C
from ortmod._errors import GradientError, ModelError
from ortmod._model import ONNX_TO_TORCH, TORCH_TO_ONNX
from ortmod.gradient import at_opset, warn_of_old_forms
from ortmod.training.checkpoint import raw_bytes
from ortmod.training.onnxblock import _accessor
from ortmod.training.onnxblock import _proto as proto

BUFFER, ACCUMULATED, SUM = "_grad.accumulation.buffer", "_grad.accumulation.out", "_grad.accumulation.sum"
UPDATED, RESET = ".updated", "lazy_reset_grad"
NOTE = "ortmod.artifact"
_WHERE_OPSET = 9


@dataclass
class TrainingModels:
    """The two models, and the parameters that they take as inputs, in order."""

    training: onnx.ModelProto
    eval: onnx.ModelProto
    values: dict[str, torch.Tensor]
    trainable: list[str]
    frozen: list[str]
    reasons: dict[str, str]

    def parameters(self) -> tuple[list[onnx.TensorProto], list[onnx.TensorProto]]:
        return [self._tensor(name) for name in self.trainable], [self._tensor(name) for name in self.frozen]

    def declared(self) -> list[onnx.TensorProto]:
        """The trainable parameters without their values."""
        return [
            onnx.TensorProto(name=n, data_type=TORCH_TO_ONNX[self.values[n].dtype], dims=self.values[n].shape)
            for n in self.trainable
        ]

    def _tensor(self, name: str) -> onnx.TensorProto:
        value = self.values[name]
        return helper.make_tensor(name, TORCH_TO_ONNX[value.dtype], list(value.shape), raw_bytes(value), raw=True)


def build_models(
    model: onnx.ModelProto,
    loss: str,
    requires_grad: Iterable[str],
    frozen: Iterable[str],
    base_dir: str = "",
    opset: str = "keep",
    reached_only: bool = False,
) -> TrainingModels:
    """The models of `model`, whose first output is the loss.

    Args:
        model: what was built; its weights may be external data.
        loss: name of the output to differentiate.
        requires_grad: names of the parameters to train.
        frozen: names of parameters that are inputs but do not train; running statistics among them stay as they are.
        base_dir: folder of external data.
        opset: "keep", or "upgrade" to the lowest opset in which all gradients have a cheap form.
        reached_only: parameters of `requires_grad` that no gradient reaches are frozen.

    Raises:
        ModelError: a name is not a parameter, or named twice, or one that training models give to values of theirs.
        GradientError: there is nothing to train, or no gradient reaches a parameter.
    """
    graph = _loaded(model, base_dir)
    order = {tensor.name: i for i, tensor in enumerate(model.graph.initializer)}
    types = {name: kind for name, kind, _ in graph.weights}
    trainable, held = list(dict.fromkeys(requires_grad)), list(dict.fromkeys(frozen))
    _check_names(model, types, trainable, held)
    unnamed = {entry["name"] for entry in graph.choices() if entry["role"] == "running statistic"} - set(held)
    if wrong := unnamed & set(trainable):
        raise GradientError(
            f'[artifacts] requires_grad: "{sorted(wrong)[0]}" is a running statistic, which no gradient trains: '
            "leave it out, and training updates it; name it in frozen_params to keep it"
        )
    if not trainable:
        raise GradientError("[artifacts] there is nothing to train: name parameters in requires_grad")
    _check_generated(model, trainable)
    training, updates = _C.switched(graph, True, held)
    missed = _missed(training, loss, trainable)
    if missed and (not reached_only or len(missed) == len(trainable)):
        name, why = next(iter(missed.items()))
        raise GradientError(
            f'[artifacts] requires_grad: no gradient of the loss "{loss}" reaches "{name}": {why}; take it out of requires_grad, '
            "or name it in frozen_params"
            if not reached_only
            else f'[artifacts] there is nothing to train: no gradient of the loss "{loss}" reaches a parameter that trains by '
            f'default; "{name}": {why}'
        )
    trainable, held = [name for name in trainable if name not in missed], [*held, *missed]
    options = _C.GradientOptions(trainable, [loss])
    while forms := training.old_forms(options):
        target = max(needed for _, needed, _ in forms)
        if opset == "keep":
            warn_of_old_forms(graph.opsets.get("", 0), forms, target)
            break
        graph = at_opset(graph, target)
        training, updates = _C.switched(graph, True, held)
    reasons = {name: f"the loss does not reach it: {missed[name]}" if name in missed else "named in frozen_params" for name in held}
    reasons.update({name: "running statistic, updated by training" for name, _ in updates if name not in reasons})
    chosen = {*trainable, *held, *(name for name, _ in updates)}
    names = sorted(chosen, key=lambda name: order.get(name, len(order)))
    trainable = [name for name in names if name in set(trainable)]
    outputs = [value.name for value in model.graph.output]
    joint, seeds, gradients = training.differentiate(_C.GradientOptions(trainable, [loss]))
    values = {name: graph.weight(name).clone() for name in names}
    trained = _parse(joint.expanded())
    _add_gradients(trained, outputs, dict(seeds)[loss], dict(gradients), dict(updates), names, values)
    evaluated = _parse(_C.switched(graph, False, held)[0].expanded())
    _parameters_as_inputs(evaluated.graph, names, values)
    result = TrainingModels(trained, evaluated, values, trainable, [n for n in names if n not in set(trainable)], reasons)
    for part, kind in ((trained, "training"), (evaluated, "eval")):
        _note(part, {"kind": kind, "loss": loss, "trainable": result.trainable, "frozen": result.frozen})
    return result


def _loaded(model: onnx.ModelProto, base_dir: str) -> _C.Model:
    try:
        data = model.SerializeToString()
    except ValueError as error:
        raise ModelError(
            "[artifacts] the model is larger than 2 GiB; give the path to its file instead, with its weights as external data"
        ) from error
    return _C.Model.from_bytes(data, base_dir, foreign=_accessor.library() is not None)


def _parse(graph: _C.Model) -> onnx.ModelProto:
    """The model as written; onnxruntime refuses nodes that share a name."""
    model = onnx.load_from_string(graph.to_bytes())
    taken: set[str] = set()
    for node in model.graph.node:
        if node.name:
            node.name = proto.unique(model.graph, node.name, taken)
    return model


def _check_names(model: onnx.ModelProto, types: dict, trainable: list[str], held: list[str]) -> None:
    inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    for argument, names in (("requires_grad", trainable), ("frozen_params", held)):
        for name in names:
            if name in inputs:
                raise ModelError(
                    f'[artifacts] {argument}: "{name}" is an input of the model, not a parameter; '
                    "ortmod.build_gradient(model, wrt=[...]) gives gradients of inputs"
                )
            if name not in types and any(tensor.name == name for tensor in model.graph.initializer):
                raise GradientError(f'[artifacts] {argument}: no node reads the initializer "{name}"; leave it out')
            if name not in types:
                raise ModelError(
                    f'[artifacts] {argument}: the model has no parameter "{name}"{proto.near(name, types)}{_folded(model, name)}'
                )
    for name in trainable:
        dtype = ONNX_TO_TORCH.get(types[name][0])
        if dtype is None or not dtype.is_floating_point:
            raise GradientError(
                f'[artifacts] requires_grad: "{name}" is of type {dtype}, which has no gradient; expected a float type'
            )
    if both := set(trainable) & set(held):
        raise ModelError(
            "[artifacts] A parameter cannot be frozen and require gradient computation at the same time: got "
            + ", ".join(f'"{name}"' for name in sorted(both))
        )


def _missed(graph: _C.Model, loss: str, names: list[str]) -> dict[str, str]:
    """The names that no gradient of the loss reaches, and why."""
    kept = graph.keep_outputs([loss])
    known = {name for name, _, _ in kept.weights}
    missed = {name: why for name, reached, why in kept.reach([name for name in names if name in known]) if not reached}
    return {name: missed.get(name, "no path") for name in names if name in missed or name not in known}


def _check_generated(model: onnx.ModelProto, trainable: list[str]) -> None:
    """The names that `_add_gradients` gives are free."""
    made = {RESET, *(name + end for name in trainable for end in (BUFFER, ACCUMULATED, SUM))}
    if taken := sorted(made & proto.names(model.graph)):
        raise ModelError(
            f'[artifacts] the model has a value "{taken[0]}", a name that training models give to a value of their own; rename it'
        )


def folded_batch_norms(model: onnx.ModelProto) -> list[str]:
    """Nodes that an exporter made from a convolution and the BatchNormalization after it, as its notes say."""
    return [
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        and any("batchnorm" in p.value.lower().replace("_", "") for p in node.metadata_props if p.key.endswith("class_hierarchy"))
    ]


FOLDED = (
    "the exporter folded BatchNormalization into the weights before it (torch.onnx.export does so by default, with "
    "do_constant_folding=False and TrainingMode.TRAINING, too): it cannot train as in torch; export with optimize=False to keep it"
)


def _folded(model: onnx.ModelProto, name: str) -> str:
    nodes = folded_batch_norms(model)
    return f" ({FOLDED}: see node {nodes[0]!r})" if nodes else ""


def _note(model: onnx.ModelProto, note: dict) -> None:
    for entry in [entry for entry in model.metadata_props if entry.key == NOTE]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=NOTE, value=json.dumps(note))


def note_of(model: onnx.ModelProto) -> dict:
    return next((json.loads(entry.value) for entry in model.metadata_props if entry.key == NOTE), {})


def _parameters_as_inputs(graph: onnx.GraphProto, names: list[str], values: dict[str, torch.Tensor]) -> None:
    chosen = set(names)
    users = [value for value in graph.input if value.name not in chosen]
    kept = [tensor for tensor in graph.initializer if tensor.name not in chosen]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(users)
    graph.initializer.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(n, TORCH_TO_ONNX[values[n].dtype], list(values[n].shape)) for n in names)


def _add_gradients(
    model: onnx.ModelProto,
    outputs: list[str],
    seed: str,
    gradients: dict[str, str],
    updates: dict[str, str],
    names: list[str],
    values: dict[str, torch.Tensor],
) -> None:
    graph, loss = model.graph, outputs[0]
    _add_seed(graph, loss, seed)
    _parameters_as_inputs(graph, names, values)
    paste = proto.Paste(graph)
    declared = {value.name: value for value in graph.output}
    del graph.output[:]
    graph.output.extend(declared[name] for name in outputs)
    flag = _flag(paste, proto.opset(model))
    for name, gradient in gradients.items():
        value = values[name]
        code, shape = TORCH_TO_ONNX[value.dtype], list(value.shape)
        graph.input.append(helper.make_tensor_value_info(name + BUFFER, code, shape))
        graph.node.extend(flag(name, gradient, code))
        graph.output.append(helper.make_tensor_value_info(name + ACCUMULATED, code, shape))
    graph.input.append(helper.make_tensor_value_info(RESET, TensorProto.BOOL, [1]))
    for name, update in updates.items():
        rename(graph, update, name + UPDATED)
        graph.output.append(
            helper.make_tensor_value_info(name + UPDATED, TORCH_TO_ONNX[values[name].dtype], list(values[name].shape))
        )


def _flag(paste: proto.Paste, opset: int):  # type: ignore[no-untyped-def]
    """A function that makes the nodes which accumulate one gradient."""
    shape = paste.add("Constant", [], RESET + ".shape", value=helper.make_tensor("", TensorProto.INT64, [0], []))
    reset = paste.add("Reshape", [RESET, shape], RESET + ".scalar")

    def accumulate(name: str, gradient: str, code: int) -> Iterator[onnx.NodeProto]:
        total, kept = name + SUM, name + BUFFER
        if opset >= _WHERE_OPSET:
            yield helper.make_node("Add", [kept, gradient], [total])
            yield helper.make_node("Where", [reset, gradient, total], [name + ACCUMULATED])
        else:
            keep = paste.add("Cast", [paste.add("Not", [reset], RESET + ".not")], RESET + ".keep", to=code)
            yield helper.make_node("Mul", [kept, keep], [total])
            yield helper.make_node("Add", [total, gradient], [name + ACCUMULATED])

    return accumulate


def _add_seed(graph: onnx.GraphProto, loss: str, seed: str) -> None:
    """The gradient of the loss is one, or ones of its shape: what is minimised is the sum of a loss of several elements."""
    value = next(v for v in graph.input if v.name == seed)
    tensor = value.type.tensor_type
    graph.input.remove(value)
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if tensor.HasField("shape") and None not in dims:
        known = [int(d) for d in dims if d is not None]
        ones = helper.make_tensor(seed, tensor.elem_type, known, [1.0] * int(torch.Size(known).numel()))
        graph.initializer.append(ones)
        return
    one = helper.make_tensor("value", tensor.elem_type, [1], [1.0])
    made = [
        helper.make_node("Shape", [loss], [f"{seed}.shape"]),
        helper.make_node("ConstantOfShape", [f"{seed}.shape"], [seed], value=one),
    ]
    at = next((i for i, node in enumerate(graph.node) if loss in node.output), -1)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[: at + 1], *made, *nodes[at + 1 :]])


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Renames a value wherever it is used, in sub-graphs, too."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, old, new)
    for part in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in part:
            if value.name == old:
                value.name = new
