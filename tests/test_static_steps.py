"""On the CPU, known shapes: moving elements, forward and back, goes through no ATen kernel."""

import onnx
import pytest
import torch

import ortmod

MODELS = {
    "Transpose": ("float[3, 4, 5] x", "y = Transpose <perm = [2, 0, 1]> (x)"),
    "Slice": (
        "float[6, 5] x",
        "s = Constant <value_ints = [5, 1]> () e = Constant <value_ints = [0, 4]> () a = Constant <value_ints = [0, 1]> ()"
        " p = Constant <value_ints = [-2, 1]> () y = Slice (x, s, e, a, p)",
    ),
    "Concat": ("float[2, 3] x", "y = Concat <axis = 1> (x, x)"),
    "Split": ("float[2, 6] x", "a, y, b = Split <axis = 1, num_outputs = 3> (x)"),
    "Expand": ("float[3, 1] x", "s = Constant <value_ints = [2, 3, 4]> () y = Expand (x, s)"),
    "Tile": ("float[3, 2] x", "r = Constant <value_ints = [2, 2]> () y = Tile (x, r)"),
    "Gather": ("float[5, 3] x", "i = Constant <value_ints = [0, 4, 4]> () y = Gather (x, i)"),
    "ConstantOfShape": ("float[2, 3] x", "s = Shape (x) o = ConstantOfShape <value = float[1] {1.5}> (s) y = Add (x, o)"),
    "Reshape": ("float[4, 3] x", "s = Constant <value_ints = [-1, 2]> () r = Reshape (x, s) y = Tanh (r)"),
}


@pytest.mark.parametrize("op", MODELS)
def test_static(op):
    inputs, body = MODELS[op]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g ({inputs}) => (float y) {{ {body} }}')
    model.graph.output[0].type.ClearField("value")
    layer = ortmod.OnnxModule(model, trainable=[])
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    steps = layer._executable.report([torch.zeros(shape)], [0], True)["steps"]
    names = [name for _, _, name, _ in steps]
    assert not [name for _, through_aten, name, _ in steps if through_aten], names


@pytest.mark.parametrize("label", [torch.int64, torch.int32])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_is_static(label, reduction):
    kind = {torch.int64: "int64", torch.int32: "int32"}[label]
    shape = "n" if reduction == "none" else ""
    text = (
        f'<ir_version: 8, opset_import: ["": 18]> g (float[n,5] x, {kind}[n] l, float[5] w) => (float[{shape}] y) '
        f'{{ y = SoftmaxCrossEntropyLoss<reduction="{reduction}", ignore_index=2>(x, l, w) }}'
    )
    layer = ortmod.OnnxModule(onnx.parser.parse_model(text))
    x, w = torch.randn(7, 5, requires_grad=True), torch.rand(5)
    labels = torch.tensor([0, 2, 4, 1, 2, 3, 0])
    steps = layer._executable.report([x.detach(), labels.to(label), w], [0], False)["steps"]
    assert steps and not any(through_aten for _, through_aten, _, _ in steps)
    y = layer(x, labels.to(label), w)
    expected = torch.nn.functional.cross_entropy(x, labels, w, ignore_index=2, reduction=reduction)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))
    with pytest.raises(ortmod.OrtmodError, match="label 5 of row 6 .*expected 0 to 4"):
        layer(x, torch.tensor([0, 2, 4, 1, 2, 3, 5]).to(label), w)
