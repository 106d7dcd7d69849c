"""The contract of OnnxModule: what a torch user expects of an nn.Module."""

import copy
import io
import pickle

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import ortmod


@pytest.fixture
def pair():
    network, model = nets.mlp()
    return network, ortmod.OnnxModule(model)


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_from_path_bytes_and_proto(tmp_path, pair):
    network, _ = pair
    _, model = nets.mlp()
    x = torch.randn(5, 10)
    onnx.save(model, tmp_path / "m.onnx")
    layers = [
        ortmod.OnnxModule(source) for source in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), model.SerializeToString(), model)
    ]
    for layer in layers[1:]:
        assert torch.equal(layer(x), layers[0](x))
    with pytest.raises(ortmod.ModelError, match="expected a path"):
        ortmod.OnnxModule(42)


def test_names_and_gradients_are_torchs(pair):
    network, layer = pair
    assert {k: v.shape for k, v in layer.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert all(p.is_leaf and p.requires_grad and isinstance(p, nn.Parameter) for p in layer.parameters())
    x = torch.randn(7, 10)
    nets.close(layer(x), network(x))
    layer(x).square().sum().backward()
    network(x).square().sum().backward()
    for name, p in network.named_parameters():
        nets.close(layer.get_parameter(name).grad, p.grad)


def test_training_follows_torch(pair):
    network, layer = pair
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (network, layer)]
    for _ in range(10):
        x = torch.randn(6, 10)
        for m, o in zip((network, layer), optimizers, strict=True):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    for name, p in network.named_parameters():
        nets.close(layer.get_parameter(name).detach(), p.detach(), 1e-4)


def test_call_by_position_and_name():
    layer = ortmod.OnnxModule(
        nets.parse(
            """<ir_version: 9, opset_import: ["": 18]>
            net (float[n] a, float[n] b, float k = {2}) => (float[n] y) { s = Sub(a, b)  y = Mul(s, k) }"""
        )
    )
    a, b = torch.randn(3), torch.randn(3)
    expected = (a - b) * 2
    for y in (layer(a, b), layer(a, b=b), layer(b=b, a=a), layer(a.numpy(), b)):
        assert torch.equal(y, expected)
    assert torch.equal(layer(a, b, k=torch.tensor(3.0)), (a - b) * 3)
    with pytest.raises(TypeError, match="'b' is missing"):
        layer(a)
    with pytest.raises(TypeError, match="unknown input 'c'"):
        layer(a, c=b)
    with pytest.raises(TypeError, match="by position and by name"):
        layer(a, b, a=a)
    with pytest.raises(TypeError, match="at most"):
        layer(a, b, a, b, a)


def test_outputs_are_a_tuple_or_chosen():
    layer = ortmod.OnnxModule(nets.two_outputs())
    x = torch.randn(5, 4, dtype=torch.float64)
    y, z, best = layer(x)
    assert best.dtype == torch.int64 and not best.requires_grad and y.requires_grad
    only = ortmod.OnnxModule(nets.two_outputs(), outputs=["h", "z"])
    h, z2 = only(x)
    assert torch.equal(h.tanh(), y) or torch.allclose(h.tanh(), y, rtol=1e-14)
    assert torch.equal(z2, z)
    one = ortmod.OnnxModule(nets.two_outputs(), outputs="z")
    assert torch.equal(one(x), z)
    assert set(dict(one.named_parameters())) <= {"v", "W"}
    with pytest.raises(ortmod.ModelError, match="nothing"):
        ortmod.OnnxModule(nets.two_outputs(), outputs=["nothing"])


def test_trainable_and_frozen(pair):
    _, model = nets.mlp()
    trained = lambda layer: {n for n, p in layer.named_parameters() if p.requires_grad}  # noqa: E731
    assert trained(ortmod.OnnxModule(model, trainable=["*.bias"])) == {"0.bias", "2.bias"}
    assert trained(ortmod.OnnxModule(model, trainable="2.weight")) == {"2.weight"}
    assert trained(ortmod.OnnxModule(model, trainable=lambda name: name.startswith("0"))) == {"0.weight", "0.bias"}
    frozen = ortmod.OnnxModule(model, frozen=["0.*"])
    assert trained(frozen) == {"2.weight", "2.bias"}
    assert set(frozen.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    frozen(torch.randn(2, 10)).sum().backward()
    assert frozen.get_parameter("0.weight").grad is None
    frozen.get_parameter("0.weight").requires_grad_(True)
    frozen(torch.randn(2, 10)).sum().backward()
    assert frozen.get_parameter("0.weight").grad is not None
    with pytest.raises(ortmod.ModelError, match="'nope"):
        ortmod.OnnxModule(model, trainable=["nope*"])


def test_report_says_what_and_why():
    layer = ortmod.OnnxModule(nets.batchnorm(), frozen=["bn.bias"])
    report = {c.name: c for c in layer.parameter_report()}
    assert {n: c.kind for n, c in report.items()} == {
        "bn.weight": "parameter",
        "bn.bias": "frozen",
        "bn.running_mean": "buffer",
        "bn.running_var": "buffer",
    }
    assert all(c.reason for c in report.values())
    assert "bn.running_mean" in str(layer.parameter_report())


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.375, 1.0])
@pytest.mark.parametrize("opset", [9, 13, 14, 18])
def test_running_variance_is_that_of_the_population_once(opset, momentum):
    """Batches of 2 to 5 numbers per channel, where n / (n - 1) is large, over several steps."""
    text = nets.BATCHNORM.replace('["": 18]', f'["": {opset}]').replace("momentum = 0.9", f"momentum = {1 - momentum}")
    assert f'"": {opset}' in text and f"momentum = {1 - momentum}" in text
    layer = ortmod.OnnxModule(nets.batchnorm(text)).double()
    twin = nn.BatchNorm2d(3, momentum=momentum).double()
    for n in (2, 3, 4, 5, 2):
        x = torch.randn(n, 3, 1, 1, dtype=torch.float64) * 2 + 1
        layer(x), twin(x)
        nets.close(layer.get_buffer("bn.running_mean"), twin.running_mean, 1e-6)
        nets.close(layer.get_buffer("bn.running_var"), twin.running_var, 1e-6)


def test_statistics_that_the_model_reads_itself():
    """The model's own outputs are ONNX's, with the variance of the batch; the buffers become torch's."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 3, h, w] x) => (float[n, 3, h, w] y, float[3] m, float[3] v)
    { y, m, v = BatchNormalization <momentum = 0.5, training_mode = 1>
        (x, bn__weight, bn__bias, bn__running_mean, bn__running_var) }"""
    layer, twin = ortmod.OnnxModule(nets.batchnorm(text)).double(), nn.BatchNorm2d(3, momentum=0.5).double()
    for n in (3, 4):
        x = torch.randn(n, 3, 1, 1, dtype=torch.float64, requires_grad=True)
        old_mean, old_var = twin.running_mean.clone(), twin.running_var.clone()
        y, m, v = layer(x)
        wanted = twin(x) * 1.5 + 0.25
        nets.close(y, wanted)
        nets.close(m, (old_mean + x.mean((0, 2, 3))) / 2)
        nets.close(v, (old_var + x.var((0, 2, 3), correction=0)) / 2)
        nets.close(layer.get_buffer("bn.running_mean"), twin.running_mean)
        nets.close(layer.get_buffer("bn.running_var"), twin.running_var)
        dy = torch.randn_like(x)
        nets.close(*(torch.autograd.grad(out, x, dy)[0] for out in (y, wanted)))


def test_two_layers_of_one_set_of_statistics():
    text = """<ir_version: 9, opset_import: ["": 18]> net (float[n, 3, h, w] x) => (float[n, 3, h, w] y)
    { t = BatchNormalization (x, bn__weight, bn__bias, bn__running_mean, bn__running_var)
      e = Exp (t) y = BatchNormalization (e, bn__weight, bn__bias, bn__running_mean, bn__running_var) }"""
    layer, twin = ortmod.OnnxModule(nets.batchnorm(text)), nn.BatchNorm2d(3)
    with torch.no_grad():
        twin.weight.fill_(1.5)
        twin.bias.fill_(0.25)
    x = torch.randn(4, 3, 2, 2)
    nets.close(layer(x), twin(twin(x).exp()))
    nets.close(layer.get_buffer("bn.running_mean"), twin.running_mean)
    nets.close(layer.get_buffer("bn.running_var"), twin.running_var)


@pytest.mark.parametrize("opset", [9, 13, 14, 18])
def test_one_value_per_channel_is_refused_as_in_torch(opset):
    text = nets.BATCHNORM.replace('["": 18]', f'["": {opset}]')
    layer, twin = ortmod.OnnxModule(nets.batchnorm(text)), nn.BatchNorm2d(3)
    x = torch.randn(1, 3, 1, 1)
    for module in (twin, layer):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
            module(x)
    nets.close(layer.get_buffer("bn.running_var"), torch.ones(3))
    nets.close(layer.eval()(x), twin.eval()(x) * 1.5 + 0.25)


def test_running_statistics_follow_torch():
    layer, twin = ortmod.OnnxModule(nets.batchnorm()), nn.BatchNorm2d(3)
    assert set(dict(layer.named_buffers())) == {"bn.running_mean", "bn.running_var"}
    with torch.no_grad():
        twin.weight.fill_(1.5)
        twin.bias.fill_(0.25)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5) * 2 + 1
        nets.close(layer(x), twin(x))
    nets.close(layer.get_buffer("bn.running_mean"), twin.running_mean)
    nets.close(layer.get_buffer("bn.running_var"), twin.running_var)
    layer.eval()
    twin.eval()
    before = layer.get_buffer("bn.running_mean").clone()
    nets.close(layer(x), twin(x))
    assert torch.equal(before, layer.get_buffer("bn.running_mean"))
    layer.load_state_dict({f"bn.{k}": v for k, v in nn.BatchNorm2d(3).state_dict().items()})  # num_batches_tracked, too


def test_dropout_follows_train_and_eval():
    layer = ortmod.OnnxModule(nets.dropout())
    x = torch.ones(50, 64)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x)) and not torch.equal(first, layer(x))
    zeros = float((first == 0).float().mean())
    assert 0.2 < zeros < 0.3
    layer.eval()
    assert torch.equal(layer(x), torch.tanh(x))


def test_dropout_masks_of_forward_are_used_by_backward():
    layer = ortmod.OnnxModule(nets.dropout())
    x = torch.ones(20, 64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_to_onnx_is_the_inference_form_with_todays_weights(tmp_path):
    for model, shape in ((nets.batchnorm(), (4, 3, 5, 5)), (nets.dropout(), (4, 64))):
        layer = ortmod.OnnxModule(model)
        x = torch.randn(shape)
        for p in layer.parameters():
            p.data.mul_(1.25)
        layer(x)
        saved = layer.to_onnx()
        onnx.checker.check_model(saved, full_check=True)
        assert [v.name for v in saved.graph.input] == [v.name for v in model.graph.input]
        assert [v.name for v in saved.graph.output] == [v.name for v in model.graph.output]
        assert saved.opset_import[0].version == 18
        assert {t.name for t in model.graph.initializer} <= {t.name for t in saved.graph.initializer}
        layer.eval()
        nets.close(torch.from_numpy(session(saved).run(None, {"x": x.numpy()})[0]), layer(x).detach())
        layer.to_onnx(tmp_path / "saved.onnx")
        again = ortmod.OnnxModule(tmp_path / "saved.onnx").eval()
        assert torch.equal(again(x), layer(x))


def test_pickle_deepcopy_and_state(pair):
    _, layer = pair
    layer.get_parameter("0.weight").data.mul_(2)
    x = torch.randn(3, 10)
    expected = layer(x)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    copies = [pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer), torch.load(stream, weights_only=False)]
    for other in copies:
        assert torch.equal(other(x), expected)
    deep = copies[1]
    deep.get_parameter("0.weight").data.zero_()
    assert torch.equal(layer(x), expected) and not torch.equal(deep(x), expected)
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    deep.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(deep(x), expected)


def test_load_state_dict_of_the_original():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.norm = nn.BatchNorm1d(6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.norm(self.embed(ids)))

    original = Tied().eval()
    layer = ortmod.OnnxModule(nets.exported(original, torch.tensor([1, 2, 3]))).eval()
    other = Tied().eval()
    other.norm.running_mean.normal_()
    result = layer.load_state_dict(other.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    ids = torch.tensor([4, 0, 10, 3, 3])
    nets.close(layer(ids).detach(), other(ids).detach())
    with pytest.raises(RuntimeError, match="stranger"):
        layer.load_state_dict({**other.state_dict(), "stranger": torch.randn(2)})
    with pytest.raises(RuntimeError, match="Missing"):
        layer.load_state_dict({})


def test_moves_and_types(pair):
    network, layer = pair
    x = torch.randn(4, 10, dtype=torch.float64)
    layer.double()
    network.double()
    assert all(p.dtype == torch.float64 for p in layer.parameters())
    nets.close(layer(x), network(x))
    layer.to(torch.bfloat16)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    layer.float()
    with pytest.raises(ortmod.DTypeError, match="'x'"):
        layer(x)
    assert layer.to_onnx().graph.initializer[0].data_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_argument(dtype):
    network, model = nets.mlp()
    layer = ortmod.OnnxModule(model, dtype=dtype)
    x = torch.randn(4, 10, dtype=dtype)
    nets.close(layer(x), network.to(dtype)(x), None if dtype == torch.float64 else 5e-2)
    with pytest.raises(ortmod.DTypeError, match="dtype"):
        ortmod.OnnxModule(model, dtype=torch.int32)


@pytest.mark.parametrize("trainable", [["a"], ["*"], ["a", "c"]])
def test_weights_that_no_output_reads(trainable):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        g (float[n, 3] x) => (float[n, 3] y)
        <float[3] a = {1, 2, 3}, float[3] c = {1, 2, 3}, float[3] m = {0, 0, 0}, float[3] v = {1, 1, 1}> {
            y = Mul (x, a)
            dead = Mul (y, c)
            normed = BatchNormalization (dead, c, c, m, v)
        }""")
    layer = ortmod.OnnxModule(model, trainable=trainable)
    x = torch.randn(4, 3)
    for mode in (layer.train(), layer.eval()):
        layer.zero_grad()
        y = mode(x)
        torch.testing.assert_close(y, x * torch.tensor([1.0, 2.0, 3.0]))
        y.sum().backward()
        torch.testing.assert_close(layer.a.grad, x.sum(0))
    assert session(layer.to_onnx()).run(None, {"x": x.numpy()})[0].shape == (4, 3)


def test_the_gradient_model_passes_over_weights_that_no_output_reads():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        g (float[n, 3] x) => (float[n, 3] y)
        <float[3, 3] a = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3, 3] b = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
            y = MatMul (x, a)
            dead = MatMul (y, b)
        }""")
    assert [v.name for v in ortmod.build_gradient(model).graph.output] == ["y", "a_grad"]
    with pytest.raises(ortmod.GradientError, match='"b".*no output depends on it'):
        ortmod.build_gradient(model, wrt=["a", "b"])


def test_meta_device(pair):
    network, _ = pair
    _, model = nets.mlp()
    layer = ortmod.OnnxModule(model, device="meta")
    assert all(p.is_meta for p in layer.parameters())
    y = layer(torch.empty(6, 10, device="meta"))
    assert y.is_meta and y.shape == (6, 3)
    with pytest.raises(ortmod.ModelError, match="meta"):
        layer.to_onnx()
    layer.to_empty(device="cpu")
    layer.load_state_dict(network.state_dict())
    x = torch.randn(2, 10)
    nets.close(layer(x), network(x))


def test_parameters_are_read_at_each_call(pair):
    _, layer = pair
    x = torch.randn(3, 10)
    before = layer(x)
    zeros = {k: torch.zeros_like(v) for k, v in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zeros, (x,)).any()
    assert torch.equal(layer(x), before)
    averaged = torch.optim.swa_utils.AveragedModel(layer)
    averaged.update_parameters(layer)
    assert torch.equal(averaged(x), before)
    layer._modules["0"].weight = nn.Parameter(torch.zeros(8, 10))
    assert not torch.equal(layer(x), before)


def test_parametrize_and_prune(pair):
    _, layer = pair
    x = torch.randn(3, 10)
    inner = layer.get_submodule("0")

    class Halved(nn.Module):
        def forward(self, w):
            return w / 2

    plain = layer(x)
    torch.nn.utils.parametrize.register_parametrization(inner, "weight", Halved())
    halved = layer(x)
    assert not torch.equal(plain, halved)
    halved.sum().backward()
    assert inner.parametrizations.weight.original.grad is not None
    torch.nn.utils.parametrize.remove_parametrizations(inner, "weight")
    torch.nn.utils.prune.l1_unstructured(layer.get_submodule("2"), "weight", amount=1.0)
    y = layer(x)
    assert torch.equal(y, layer.get_parameter("2.bias").expand_as(y))


def test_names_that_torch_forbids():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 4] x) => (float[n, 4] y)
    { a0 = MatMul(x, a)  a1 = MatMul(a0, a.b)  a2 = MatMul(a1, forward)  a3 = MatMul(a2, p..q)  y = MatMul(a3, training) }"""
    rng = np.random.default_rng(0)
    matrix = lambda: rng.standard_normal((4, 4)).astype(np.float32)  # noqa: E731
    model = nets.parse(text.replace("a.b", "a_b").replace("p..q", "p_q"))
    for node in model.graph.node:
        node.input[:] = [{"a_b": "a.b", "p_q": "p..q"}.get(name, name) for name in node.input]
    for name in ("a", "a.b", "forward", "p..q", "training"):
        model.graph.initializer.append(nets.initializer(name, matrix()))
    layer = ortmod.OnnxModule(model)
    assert set(layer.torch_names.values()) == {"a_", "a.b", "forward_", "p._.q", "training_"}
    assert set(layer.state_dict()) == set(layer.torch_names.values())
    layer(torch.randn(2, 4)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert {t.name for t in layer.to_onnx().graph.initializer} >= {"a", "a.b", "forward", "p..q", "training"}


def test_tie_and_untie():
    text = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 4] x) => (float[n, 4] y) { h = MatMul(x, A)  i = MatMul(h, A)  y = MatMul(i, B) }"""
    rng = np.random.default_rng(0)
    model = nets.parse(text, A=rng.standard_normal((4, 4)).astype(np.float32), B=rng.standard_normal((4, 4)).astype(np.float32))
    x = torch.randn(3, 4)
    apart = ortmod.OnnxModule(model, untie=["A"])
    assert set(apart.state_dict()) == {"A", "A_2", "B"}
    together = ortmod.OnnxModule(model, tie=[["A", "B"]])
    assert set(together.state_dict()) == {"A"}
    plain = ortmod.OnnxModule(model)
    plain(x).sum().backward()
    apart(x).sum().backward()
    nets.close(apart.get_parameter("A").grad + apart.get_parameter("A_2").grad, plain.get_parameter("A").grad)
    a = together.get_parameter("A").detach().requires_grad_()
    together(x).sum().backward()
    (x @ a @ a @ a).sum().backward()
    nets.close(together.get_parameter("A").grad, a.grad)
    with pytest.raises(ortmod.ModelError, match="'?none"):
        ortmod.OnnxModule(model, untie=["none"])


def test_repr(pair):
    _, layer = pair
    text = repr(layer)
    assert "x: float32[batch, 10]" in text and "y: float32[batch, 3]" in text
    assert "ai.onnx 18" in text and "trainable=115" in text


def test_gradient_model_equals_backward(pair):
    _, layer = pair
    x, dy = torch.randn(4, 10), torch.randn(4, 3)
    layer(x).backward(dy)
    model = layer.gradient_model()
    onnx.checker.check_model(model, full_check=True)
    outputs = session(model).run(None, {"x": x.numpy(), "y_grad": dy.numpy()})
    named = dict(zip([o.name for o in model.graph.output], outputs, strict=True))
    for name, p in layer.named_parameters():
        nets.close(torch.from_numpy(named[f"{name}_grad"]), p.grad)


def test_wrong_sizes_are_typed_errors(pair):
    _, layer = pair
    with pytest.raises(ortmod.ShapeError, match="x"):
        layer(torch.randn(3, 9))
    with pytest.raises(ortmod.ShapeError):
        layer(torch.randn(10))
    nets.close(layer(torch.randn(3, 10)), layer(torch.randn(3, 10)) * 0 + layer(torch.randn(3, 10)), 1e9)


def test_data_parallel_replicas(pair):
    _, layer = pair
    replica = layer._replicate_for_data_parallel()
    assert replica._call is None
