"""Gradient rules that users give for an operator."""

import copy
import pickle

import nets
import onnx.parser
import onnxruntime
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
    for name in ("Round", "LeakyRelu", "ai.onnx::Tanh", "f::Twice", "f::Quantise", "f::Pair"):
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
    head = '<ir_version: 9, opset_import: ["": 18]> rule (float[n] x, float[n] y, float[n] dy) => '
    with pytest.raises(ortmod.UnsupportedOpError, match="Zap"):
        ortmod.register_gradient("Round", head + "(float[n] dx) { dx = Zap (dy) }")


def test_a_rule_that_gives_integers_is_refused(restored):
    head = '<ir_version: 9, opset_import: ["": 18]> rule (float[n] x, float[n] y, float[n] dy) => '
    ortmod.register_gradient("Round", head + "(int64[n] dx) { dx = Cast <to = 7> (dy) }")
    model = nets.parse('<ir_version: 9, opset_import: ["": 18]> net (float[n] x) => (float[n] y) { y = Round (x) }')
    with pytest.raises(ortmod.GradientError, match="gradient of type int64.*Round"):
        ortmod.build_gradient(model, wrt=["x"])


TWICE = """
<domain: "f", opset_import: ["": 18]>
Twice <gain: float = 2.0> (a) => (b) { g = Constant <value_float: float = @gain> ()  b = Mul(a, g) }
"""
QUANTISE = """
<domain: "f", opset_import: ["": 18]>
Quantise (a, step) => (b) { d = Div(a, step)  r = Round(d)  b = Mul(r, step) }
"""
PAIR = """
<domain: "f", opset_import: ["": 18, "f": 1]>
Pair (a) => (b, c) { b = Exp(a)  t = f.Twice <gain = 3.0> (a)  c = Neg(t) }
"""


def with_functions(nodes, outputs="float[n] y", inputs="float[n] x"):
    head = '<ir_version: 10, opset_import: ["": 18, "f": 1]>'
    return nets.parse(f"{head} net ({inputs}) => ({outputs}) {{ {nodes} }} {TWICE} {QUANTISE} {PAIR}")


def test_local_functions_keep_their_rules(restored):
    model = with_functions("h = Mul(x, x)  t = f.Twice <gain = 5.0> (h)  y = Exp(t)")
    x = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    plain = gradient(ortmod.OnnxModule(model))
    ortmod.register_gradient(
        "f::Twice",
        '<domain: "rules", opset_import: ["": 18]> rule (a, b, db) => (da) '
        "{ k = Constant <value_float: float = @gain> ()  s = Mul(k, k)  da = Mul(db, s) }",
    )
    layer = ortmod.OnnxModule(model)
    nets.close(layer(x), (5 * x * x).exp())
    nets.close(gradient(layer), 5 * plain)
    saved = layer.to_onnx()
    assert {n.domain for n in saved.graph.node} == {""} and not saved.functions
    built = ortmod.build_gradient(model, wrt=["x"])
    assert {n.domain for n in built.graph.node} == {""}
    session = onnxruntime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["x_grad"], {"x": x.detach().numpy(), "y_grad": torch.ones(3).numpy()})[0]
    (wanted,) = torch.autograd.grad((5 * x * x).exp().sum(), x)
    nets.close(torch.from_numpy(found), 5 * wanted)
    assert any(n.op.startswith("ortmod::WithGradient") and n.gradient == "yes" for n in ortmod.explain(model).nodes)
    ortmod.register_gradient("f::Twice", None)
    nets.close(gradient(ortmod.OnnxModule(model)), plain)


def test_a_rule_makes_a_function_differentiable(restored):
    """Straight through: what is inside has no gradient, weights before it train, the step has none."""
    model = with_functions("h = Mul(x, x)  y = f.Quantise(h, step)", inputs="float[n] x, float step")
    with pytest.raises(ortmod.GradientError, match="Round"):
        ortmod.build_gradient(model, wrt=["x"])
    rule = '<domain: "rules", opset_import: ["": 18]> rule (a, step, b, db) => (da) { da = Identity(db) }'
    ortmod.register_gradient("f::Quantise", rule)
    x, step = torch.tensor([0.3, -1.2, 2.0], requires_grad=True), torch.tensor(0.5)
    y = ortmod.OnnxModule(model)(x, step)
    nets.close(y, (x * x / step).round() * step)
    nets.close(torch.autograd.grad(y.sum(), x)[0], 2 * x)
    ortmod.build_gradient(model, wrt=["x"])


def test_second_order_and_inner_calls_of_functions(restored):
    model = with_functions("b, c = f.Pair(x)  p = Mul(b, c)  y = Mul(p, x)")
    rule = '<domain: "rules", opset_import: ["": 18]> rule (a, b, db) => (da) { s = Mul(db, a)  da = Mul(s, a) }'
    ortmod.register_gradient("f::Twice", rule)

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return 3 * a

        @staticmethod
        def backward(ctx, db):
            (a,) = ctx.saved_tensors
            return db * a * a

    x = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    results = []
    for y in (ortmod.OnnxModule(model)(x), x.exp() * -Twice.apply(x) * x):
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        results.append((y, first, torch.autograd.grad(first.pow(2).sum(), x)[0]))
    for got, wanted in zip(*results, strict=True):
        nets.close(got, wanted)


def test_unwanted_outputs_of_functions(restored):
    model = with_functions("b, c = f.Pair(x)  y = Neg(c)")
    model.graph.node[0].output[0] = ""
    rule = '<domain: "rules", opset_import: ["": 18]> rule (a, b, c, db, dc) => (da) { da = Mul(dc, a) }'
    ortmod.register_gradient("f::Pair", rule)
    nets.close(gradient(ortmod.OnnxModule(model)), torch.tensor([-0.3, 1.2, -2.0]))


def test_rules_of_functions_stay_with_copies(restored):
    rule = '<domain: "rules", opset_import: ["": 18]> rule (a, b, db) => (da) { da = Mul(db, a) }'
    ortmod.register_gradient("f::Twice", rule)
    model = with_functions("t = f.Twice <gain = 5.0> (x)  y = Exp(t)")
    layer = ortmod.OnnxModule(model)
    x = torch.tensor([0.3, -1.2, 2.0])
    wanted = (5 * x).exp() * x
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        nets.close(gradient(each), wanted)
        built = each.gradient_model(wrt=["x"])
        assert [(o.domain, o.version) for o in built.opset_import if o.domain != "f"] == [("", 18)]
        session = onnxruntime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(["x_grad"], {"x": x.numpy(), "y_grad": torch.ones(3).numpy()})[0]
        nets.close(torch.from_numpy(found), wanted)
    with pytest.raises(ortmod.ModelError, match="keeps its opset"):
        ortmod.build_gradient(model, wrt=["x"], opset=20)
