"""Gradient rules that users give for an operator."""

import nets
import onnx.parser
import pytest
import torch

import ortmod

MODEL = """
<ir_version: 9, opset_import: ["": 18]>
rule (float[n] x, float[n] y, float[n] dy) => (float[n] dx)
{ k = Constant <value = float {7}> ()  dx = Mul(dy, k) }
"""
FUNCTION = """
<domain: "rules", opset_import: ["": 18]>
rule (x, y, dy) => (dx)
{ k = Constant <value_float: float = @alpha> ()  dx = Mul(dy, k) }
"""


@pytest.fixture
def restored():
    yield
    for name in ("Round", "LeakyRelu", "ai.onnx::Tanh"):
        ortmod.register_gradient(name, None)


def layer_of(node):
    return ortmod.OnnxModule(nets.parse(f'<ir_version: 9, opset_import: ["": 18]> net (float[n] x) => (float[n] y) {{ {node} }}'))


def gradient(layer):
    x = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    layer(x).sum().backward()
    return x.grad


def test_text_of_a_model(restored):
    x = torch.randn(3, requires_grad=True)
    assert not layer_of("y = Round(x)")(x).requires_grad
    ortmod.register_gradient("Round", MODEL)
    assert torch.equal(gradient(layer_of("y = Round(x)")), torch.full((3,), 7.0))
    ortmod.register_gradient("Round", None)
    assert not layer_of("y = Round(x)")(x).requires_grad


def test_function_reads_the_attributes(restored):
    for rule in (FUNCTION, onnx.parser.parse_function(FUNCTION)):
        ortmod.register_gradient("ai.onnx::LeakyRelu", rule)
        nets.close(gradient(layer_of("y = LeakyRelu <alpha = 0.5> (x)")), torch.full((3,), 0.5))
        ortmod.register_gradient("LeakyRelu", None)
    nets.close(gradient(layer_of("y = LeakyRelu <alpha = 0.5> (x)")), torch.tensor([1.0, 0.5, 1.0]))


def test_onnxscript(restored):
    onnxscript = pytest.importorskip("onnxscript")
    from onnxscript import opset18 as op

    @onnxscript.script(onnxscript.values.Opset("rules", 1))
    def straight(x, y, dy):
        return op.Mul(dy, op.Cos(x))

    ortmod.register_gradient("ai.onnx::Tanh", straight)
    x = torch.tensor([0.3, -1.2, 2.0])
    nets.close(gradient(layer_of("y = Tanh(x)")), x.cos())


def test_in_gradient_models_too(restored):
    ortmod.register_gradient("Round", MODEL)
    model = nets.parse('<ir_version: 9, opset_import: ["": 18]> net (float[n] x) => (float[n] y) { y = Round(x) }')
    built = ortmod.build_gradient(model, wrt=["x"])
    assert "Mul" in {n.op_type for n in built.graph.node}


def test_bad_rules_are_typed_errors():
    with pytest.raises(ortmod.GradientError, match="rule of Round"):
        ortmod.register_gradient("Round", "<ir_version: 9> not a model")
    with pytest.raises(ortmod.GradientError, match="got int"):
        ortmod.register_gradient("Round", 3)
    with pytest.raises(ortmod.GradientError, match="domain::Op"):
        ortmod.register_gradient("", MODEL)
