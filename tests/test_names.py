"""Names of initializers as names of torch: every name constructs, trains and is written back as it was."""

import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import ortmod
from ortmod._names import torch_names


def products(names):
    """x times matrices of these names; the i-th is 1 + i / 1000 times the identity."""
    nodes, last = [], "the input"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [last, name], [f"value {i}"]))
        last = f"value {i}"
    weights = [
        numpy_helper.from_array(np.float32(1 + i / 1000) * np.eye(2, dtype=np.float32), name) for i, name in enumerate(names)
    ]
    shape = ["n", 2]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("the input", 1, shape)],
        [helper.make_tensor_value_info(last, 1, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def works(names):
    model = products(names)
    layer = ortmod.OnnxModule(model)
    assert set(layer.torch_names) == set(names) and len(set(layer.torch_names.values())) == len(names)
    assert set(layer.state_dict()) == set(layer.torch_names.values()) == {n for n, _ in layer.named_parameters()}
    for i, name in enumerate(names):
        assert float(layer.get_parameter(layer.torch_names[name])[0, 0]) == np.float32(1 + i / 1000)
    x = torch.ones(1, 2)
    y = layer(x)
    assert float(y[0, 0].detach()) == pytest.approx(np.prod(1 + np.arange(len(names)) / 1000), rel=1e-3)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    written = layer.to_onnx()
    assert {w.name for w in written.graph.initializer} == set(names)
    onnx.checker.check_model(written)
    return layer


def attributes():
    """Whatever an OnnxModule, once made, has as attributes."""
    return sorted({*dir(ortmod.OnnxModule(products(["w"]))), "_argument_weights"} - {"w"})


def test_weights_may_be_named_like_attributes_of_the_module():
    works(attributes())


@pytest.mark.parametrize("name", ["type", "forward", "training", "_parameters", "_graph", "_call", "__init__", "_torch_names"])
def test_a_name_and_names_below_it(name):
    for names in ([name], [name, f"{name}.x"], [f"{name}.x", f"{name}_.x", f"{name}_"], [f"enc.{name}", f"enc.{name}.w"]):
        works(names)


def test_names_below_modules_are_escaped_like_those_at_the_top():
    layer = works(["enc.training.w", "enc.type.weight", "enc.forward", "enc._parameters", "a.type", "a.type_", "a.type_.x"])
    assert layer.torch_names["enc.training.w"] == "enc.training_.w"
    assert isinstance(layer.enc.training_, nn.Module) and layer.enc.training is True
    layer.eval()
    assert layer.enc.training is False
    assert torch_names(["a", "a.b", "w"]) == {"a": "a_", "a.b": "a.b", "w": "w"}
