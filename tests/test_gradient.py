"""build_gradient: names, order, split, opsets, second application; run by the stock runtime."""

import json

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import ortmod


def run(model, feeds):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: np.asarray(v) for k, v in feeds.items()}), strict=True))


@pytest.fixture
def net():
    network, model = nets.mlp()
    x, dy = torch.randn(4, 10, requires_grad=True), torch.randn(4, 3)
    wanted = torch.autograd.grad(network(x), [x, *network.parameters()], dy)
    names = ["x", *(n for n, _ in network.named_parameters())]
    return model, {"x": x.detach().numpy()}, {"y_grad": dy.numpy()}, dict(zip(names, wanted, strict=True))


def same(outputs, wanted, names):
    for name in names:
        nets.close(torch.from_numpy(outputs[f"{name}_grad"]), wanted[name])


def test_default_is_the_weights_that_train(net):
    model, feeds, seeds, wanted = net
    built = ortmod.build_gradient(model)
    assert [o.name for o in built.graph.output] == ["y", "0.weight_grad", "0.bias_grad", "2.weight_grad", "2.bias_grad"]
    assert [i.name for i in built.graph.input][:2] == ["x", "y_grad"]
    weights = {t.name for t in built.graph.initializer}
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= weights & {*weights}
    assert {"0.weight", "2.bias"} <= {i.name for i in built.graph.input}
    assert all(n.domain == "" for n in built.graph.node) and not built.functions
    assert built.opset_import[0].version == 18
    same(run(built, feeds | seeds), wanted, ["0.weight", "0.bias", "2.weight", "2.bias"])
    zeros = run(built, feeds | seeds | {"2.weight": np.zeros((3, 8), np.float32)})
    assert not zeros["0.weight_grad"].any()


def test_wrt_gives_the_order(net):
    model, feeds, seeds, wanted = net
    built = ortmod.build_gradient(model, wrt=["2.weight", "x"])
    assert [o.name for o in built.graph.output] == ["y", "2.weight_grad", "x_grad"]
    same(run(built, feeds | seeds), wanted, ["2.weight", "x"])


def test_functions_on_request():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 6] x) => (float[n, 6] y) { h = Exp(x)  y = LayerNormalization <axis = -1> (h, scale, bias) }"""
    model = nets.parse(text, scale=np.full(6, 1.5, np.float32), bias=np.zeros(6, np.float32))
    x, dy = torch.randn(3, 6, requires_grad=True), torch.randn(3, 6)
    y = torch.nn.functional.layer_norm(x.exp(), (6,), torch.full((6,), 1.5))
    (wanted,) = torch.autograd.grad(y, x, dy)
    built = ortmod.build_gradient(model, wrt=["x"], functions=True)
    assert built.functions and {n.domain for n in built.graph.node} == {"", "ortmod"}
    plain = ortmod.build_gradient(model, wrt=["x"])
    assert not plain.functions and {n.domain for n in plain.graph.node} == {""}
    for m in (built, plain):
        nets.close(torch.from_numpy(run(m, {"x": x.detach(), "y_grad": dy})["x_grad"]), wanted)


def test_split(net):
    model, feeds, seeds, wanted = net
    names = ["x", "0.weight", "0.bias", "2.weight", "2.bias"]
    forward, backward = ortmod.build_gradient(model, wrt=names, split=True)
    first = run(forward, feeds)
    kept = [o.name for o in forward.graph.output][1:]
    inputs = [i.name for i in backward.graph.input]
    assert forward.graph.output[0].name == "y" and inputs[0] == "y_grad" and inputs[1 : 1 + len(kept)] == kept
    available = {**feeds, **{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}, **first, **seeds}
    same(run(backward, {name: available[name] for name in inputs}), wanted, names)


def test_taken_names_and_second_application():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (double[n] x, double[n] x_grad) => (double[n] y) { h = Mul(x, x_grad)  y = Tanh(h) }"""
    model = nets.parse(text)
    built = ortmod.build_gradient(model, wrt=["x"])
    names = json.loads({p.key: p.value for p in built.metadata_props}["ortmod.gradient_names"])
    gradient = names["x"]
    assert names == {"y": "y_grad", "x": "x_grad_2"}
    assert built.graph.output[1].name == gradient
    twice = ortmod.build_gradient(built, wrt=["x"], outputs=[gradient])
    x, g, dy, ddx = (torch.randn(3, dtype=torch.float64) for _ in range(4))
    v = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(torch.tanh(v * g), v, dy, create_graph=True)
    (second,) = torch.autograd.grad(first, v, ddx)
    names = json.loads({p.key: p.value for p in twice.metadata_props}["ortmod.gradient_names"])
    assert names == {"x_grad_2": "x_grad_2_grad", "x": "x_grad_3"}
    feeds = {"x": x, "x_grad": g, "y_grad": dy, names[gradient]: ddx}
    nets.close(torch.from_numpy(run(twice, {k: t.numpy() for k, t in feeds.items()})[names["x"]]), second)


def test_taken_names_count_up():
    """Of inner values, inputs and output gradients; sums of several parts take the name, not its parts."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (double[n] x, double[n] x_grad_2, double[n] y_grad) => (double[n] y)
    { x_grad = Exp(x)  a = Mul(x_grad, x)  b = Mul(a, x)  c = Mul(b, x_grad_2)  y = Mul(c, y_grad) }"""
    model = nets.parse(text)
    built = ortmod.build_gradient(model, wrt=["x", "y_grad"])
    names = json.loads({p.key: p.value for p in built.metadata_props}["ortmod.gradient_names"])
    assert names == {"y": "y_grad_2", "x": "x_grad_3", "y_grad": "y_grad_grad"}
    assert [o.name for o in built.graph.output] == ["y", "x_grad_3", "y_grad_grad"]
    x, g, k, dy = (torch.randn(3, dtype=torch.float64) for _ in range(4))
    v = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(v.exp() * v * v * g * k, v, dy)
    found = run(built, {"x": x, "x_grad_2": g, "y_grad": k, "y_grad_2": dy})
    nets.close(torch.from_numpy(found["x_grad_3"]), wanted)
    _, backward = ortmod.build_gradient(model, wrt=["x"], split=True)
    names = json.loads({p.key: p.value for p in backward.metadata_props}["ortmod.gradient_names"])
    assert names == {"y": "y_grad_2", "x": "x_grad_3"} and backward.graph.input[0].name == "y_grad_2"


def test_unreachable():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n] x, float[n] a) => (float[n] y) { r = Round(a)  y = Mul(x, r) }"""
    model = nets.parse(text)
    with pytest.raises(ortmod.GradientError, match="Round"):
        ortmod.build_gradient(model, wrt=["x", "a"])
    built = ortmod.build_gradient(model, wrt=["x", "a"], unreachable="zero")
    found = run(built, {"x": np.ones(2, np.float32), "a": np.ones(2, np.float32), "y_grad": np.ones(2, np.float32)})
    assert not found["a_grad"].any() and found["x_grad"].all()


def test_names_are_checked(net):
    model = net[0]
    for wrong in ({"wrt": ["none"]}, {"wrt": ["x", "x"]}, {"outputs": ["none"]}):
        with pytest.raises(ortmod.OrtmodError):
            ortmod.build_gradient(model, **wrong)
    with pytest.raises(ortmod.GradientError, match="unreachable"):
        ortmod.build_gradient(model, unreachable="maybe")


def test_training_form():
    model = nets.batchnorm()
    x = torch.randn(4, 3, 2, 2)
    dy = torch.randn_like(x)
    for training in (False, True):
        built = ortmod.build_gradient(model, wrt=["x"], training=training)
        twin = torch.nn.BatchNorm2d(3).train(training)
        with torch.no_grad():
            twin.weight.fill_(1.5)
        v = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(twin(v), v, dy)
        found = run(built, {"x": x.numpy(), "y_grad": dy.numpy()})["x_grad"]
        nets.close(torch.from_numpy(found), wanted, 1e-4)


GATHER = """<ir_version: 7, opset_import: ["": 13]>
net (int64[n] ids) => (float[n, 4] y) { y = Gather(table, ids) }"""


def test_opsets():
    table = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    model = nets.parse(GATHER, table=table)
    ids, dy = np.array([1, 1, 5]), np.ones((3, 4), np.float32)
    wanted = np.zeros((6, 4), np.float32)
    np.add.at(wanted, ids, dy)
    with pytest.warns(UserWarning, match="one-hot"):
        kept = ortmod.build_gradient(model)
    upgraded = ortmod.build_gradient(model, opset="upgrade")
    numbered = ortmod.build_gradient(model, opset=20)
    for built, version in ((kept, 13), (upgraded, 16), (numbered, 20)):
        assert built.opset_import[0].version == version
        np.testing.assert_array_equal(run(built, {"ids": ids, "y_grad": dy})["table_grad"], wanted)
    with pytest.raises(ortmod.ModelError, match="opset"):
        ortmod.build_gradient(model, opset=999)


PICK = np.array([[1, 0, 1], [3, 1, 1]])
UPGRADES = {
    # name: (opset, inputs, nodes, feeds besides x, torch, the opset with the cheap form, what the old form does)
    "GatherElements": (13, "float[4, 3] x, int64[2, 3] i", "y = GatherElements <axis = 0> (x, i)", {"i": PICK},
                       lambda x, i: x.gather(0, i), 16, "one-hot"),
    "GatherND": (12, "float[4, 3] x, int64[2, 3, 1] i", "y = GatherND (x, i)", {"i": PICK[..., None]},
                 lambda x, i: x[i[..., 0]], 16, "one-hot"),
    "MaxPool": (11, "float[1, 2, 6, 6] x", "y = MaxPool <kernel_shape = [3, 3]> (x)", {},
                lambda x: torch.nn.functional.max_pool2d(x, 3, 1), 16, "transposed convolution"),
    "Scatter": (9, "float[4, 3] x, int64[2, 3] i, float[2, 3] u", "y = Scatter <axis = 0> (x, i, u)",
                {"i": np.array([[1, 0, 1], [3, 1, 2]]), "u": np.ones((2, 3), np.float32)},
                lambda x, i, u: x.scatter(0, i, u), 11, "GatherElements"),
    "Slice": (10, "float[n, 3] x", "y = Slice (x, one, far, zero)", {}, lambda x: x[1:], 12, "joined"),
    "Pad": (12, "float[3, 2] x, int64[4] p", 'y = Pad <mode = "reflect"> (x, p)', {"p": np.array([1, 0, 0, 1])},
            lambda x, p: torch.nn.functional.pad(x[None], (0, 1, 1, 0), "reflect")[0], 16, None),
    "Tanh": (7, "float[3] x", "y = Tanh (x)", {}, torch.tanh, 7, None),
    "two": (11, "float[n, 3] x, int64[3] i", "g = Gather (x, i) y = Slice (g, one, far, zero)", {"i": np.array([2, 1, 1])},
            lambda x, i: x[i][1:], 16, "one-hot"),
}  # fmt: skip


@pytest.mark.parametrize("name", UPGRADES)
def test_upgrade_finds_the_lowest_opset_of_cheap_forms(name):
    """Of every rule that has an old form; what is written is right in both opsets."""
    opset, inputs, nodes, others, function, best, cost = UPGRADES[name]
    constants = "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] far = {9223372036854775807}>"
    model = nets.parse(f'<ir_version: 7, opset_import: ["": {opset}]> net ({inputs}) => (float[] y) {constants} {{ {nodes} }}')
    model.graph.output[0].type.tensor_type.ClearField("shape")
    wrt = ["x", "u"] if "u" in others else ["x"]
    built = ortmod.build_gradient(model, wrt=wrt, opset="upgrade")
    assert built.opset_import[0].version == best
    shape = [d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim]
    tensors = {"x": torch.randn(shape), **{k: torch.from_numpy(v) for k, v in others.items()}}
    leaves = [tensors[k].requires_grad_() for k in wrt]
    y = function(*tensors.values())
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(y, leaves, dy)
    versions = [built]
    if cost:
        with pytest.warns(UserWarning, match=cost):
            versions.append(ortmod.build_gradient(model, wrt=wrt))
        assert versions[1].opset_import[0].version == opset
    for version in versions:
        found = run(version, {k: t.detach() for k, t in tensors.items()} | {"y_grad": dy})
        for name, gradient in zip(wrt, wanted, strict=True):
            nets.close(torch.from_numpy(found[f"{name}_grad"]), gradient)


def test_deterministic_bytes(net):
    model = net[0]
    assert ortmod.build_gradient(model).SerializeToString() == ortmod.build_gradient(model).SerializeToString()


def test_supported_ops_and_explain(net):
    table = {(o.domain, o.op): o for o in ortmod.supported_ops()}
    assert table["", "Tanh"].gradient == "yes" and table["", "Round"].gradient == "zero"
    assert all(o.forward for o in table.values())
    facts = ortmod.explain(net[0])
    assert [n.op for n in facts.nodes] == ["ai.onnx::Gemm-18", "ai.onnx::Tanh-18", "ai.onnx::Gemm-18"]
    assert all(w.trainable and w.reached for w in facts.weights)
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 4] x) => (float[n, 4] y) { h = MatMul(x, A)  r = Round(h)  y = MatMul(r, B) }"""
    eye = np.eye(4, dtype=np.float32)
    stopped = {w.name: w for w in ortmod.explain(nets.parse(text, A=eye * 2, B=eye * 3)).weights}
    assert stopped["B"].reached and not stopped["A"].reached and "Round" in stopped["A"].stopped


def test_bodies_leave_outputs_as_they_are():
    count, axes = 300, (0, 2)
    lines = [
        f"t{i} = Add ({f'y{i - 1}' if i else 'x'}, x)\n y{i} = MeanVarianceNormalization <axes = [0, 2]> (t{i})"
        for i in range(count)
    ]
    declared = ", ".join(f"double[n, 3, 2] y{i}" for i in range(count))
    head = f'<ir_version: 9, opset_import: ["": 18]> net (double[n, 3, 2] x) => ({declared})'
    model = onnx.parser.parse_model(head + " {" + "\n".join(lines) + "}")
    x, dy = torch.randn(4, 3, 2, dtype=torch.double, requires_grad=True), torch.randn(4, 3, 2, dtype=torch.double)
    wanted, y = [], x
    for _ in range(count):
        t = y + x
        centred = t - t.mean(axes, keepdim=True)
        y = centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)
        wanted.append(y)
    (dx,) = torch.autograd.grad(y, [x], dy)
    built = ortmod.build_gradient(model, wrt=["x"], outputs=f"y{count - 1}")
    names = [f"y{i}" for i in range(count)]
    assert [o.name for o in built.graph.output] == [*names, "x_grad"]
    assert {n.op_type for n in built.graph.node}.isdisjoint({"MeanVarianceNormalization", "Identity"})
    outputs = run(built, {"x": x.detach().numpy(), f"y{count - 1}_grad": dy.numpy()})
    nets.close(torch.from_numpy(outputs["x_grad"]), dx)
    layer = ortmod.OnnxModule(model)
    assert layer.output_names == tuple(names)
    for name, theirs, ours in zip(names, wanted, layer(x.detach()), strict=True):
        nets.close(torch.from_numpy(outputs[name]), theirs.detach())
        nets.close(ours, theirs.detach())


def test_no_form_is_old_from_opset_16_on():
    text = '<ir_version: 9, opset_import: ["": %d]> net (float[n, 6] x, int64[k] i) => (float[k, 6] y) { y = Gather (x, i) }'
    for opset, old in ((13, True), (15, True), (16, False), (18, False)):
        graph = ortmod._C.Model.from_bytes(onnx.parser.parse_model(text % opset).SerializeToString())
        assert bool(graph.old_forms(ortmod._C.GradientOptions(["x"], []))) == old
