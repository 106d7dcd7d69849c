"""Of an export in which modules train and others do not: the modes that ONNX has one switch for, held by the graph itself."""

from typing import Any

from onnx import ModelProto, NodeProto, helper

from ortmod._errors import ModelError


def hold_modes(model: ModelProto) -> bool:
    """Whether the graph runs in training mode.

    The export leaves out each Dropout that is in eval mode; a BatchNormalization looks the same in either, so that those in eval
    mode beside nodes that train are written as arithmetic on their running statistics.
    """
    nodes = model.graph.node
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    still = [node for node in norms if not _trains(node)]
    training = len(still) < len(norms) or any(node.op_type == "Dropout" for node in nodes)
    if training and still:
        ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*model.graph.value_info, *model.graph.input)}
        ranks.update((v.name, len(v.type.tensor_type.shape.dim)) for v in model.graph.output)
        held = {node.output[0] for node in still}
        expanded = {node.output[0] for node in nodes if node.op_type == "Expand"}
        written: list[NodeProto] = []
        for node in nodes:
            if node.op_type == "BatchNormalization" and node.output[0] in held:
                written += _arithmetic(node, ranks, plain=node.input[1] in expanded)
            else:
                written.append(node)
        del nodes[:]
        nodes.extend(written)
    return training


def _trains(node: NodeProto) -> bool:
    said = next((p.value for p in node.metadata_props if p.key == "namespace"), "") + node.name
    return not any(form in said for form in ("no_training", "no_update", "instance_norm"))


def _arithmetic(node: NodeProto, ranks: dict[str, int], plain: bool) -> list[NodeProto]:
    """(x - mean) * (scale / sqrt(var + epsilon)) + bias, along the axis of channels; plain: without weights.

    The exporter writes weights that are not there as ones and zeros of the size of x.
    """
    x, scale, bias, mean, var = node.input
    y = node.output[0]
    rank = ranks.get(x, ranks.get(y, 0))
    if not rank:
        raise ModelError(
            f"[export] BatchNormalization {node.name!r} in eval mode beside modules that train: the rank of its input is not "
            "known; put all modules in one mode"
        )
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    made: list[NodeProto] = []

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        made.append(helper.make_node(op, inputs, [name], name=f"{node.name}/{name}", **attributes))
        made[-1].metadata_props.extend(node.metadata_props)
        return name

    def along(vector: str, name: str) -> str:
        return add("Unsqueeze", [vector, axes], name) if rank > 2 else vector

    axes = add("Constant", [], f"{y}.axes", value_ints=list(range(1, rank - 1))) if rank > 2 else ""
    tiny = add("CastLike", [add("Constant", [], f"{y}.epsilon", value_float=epsilon), var], f"{y}.epsilon.cast")
    deviation = add("Sqrt", [add("Add", [var, tiny], f"{y}.variance")], f"{y}.deviation")
    centred = add("Sub", [x, along(mean, f"{y}.mean.along")], f"{y}.centred")
    if plain:
        add("Div", [centred, along(deviation, f"{y}.deviation.along")], y)
        return made
    factor = along(add("Div", [scale, deviation], f"{y}.factor"), f"{y}.factor.along")
    scaled = add("Mul", [centred, factor], f"{y}.scaled")
    add("Add", [scaled, along(bias, f"{y}.bias.along")], y)
    return made
