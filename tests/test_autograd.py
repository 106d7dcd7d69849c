"""Autograd: gradients of first and second order, saved tensors, versions, types, threads."""

import threading

import nets
import onnx.parser
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import ortmod


def double_mlp(activation="Tanh"):
    network, model = nets.mlp((4, 5, 3), torch.float64, activation)
    return network, ortmod.OnnxModule(model)


def as_function(layer, *inputs):
    """The layer as a function of inputs and parameters, for gradcheck."""
    names = [name for name, _ in layer.named_parameters()]

    def call(*tensors):
        given = dict(zip(names, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(layer, given, tensors[: len(inputs)])

    values = [*inputs, *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    return call, values


@pytest.mark.parametrize("activation", ["Tanh", "Sigmoid", "Relu"])
def test_gradcheck_and_gradgradcheck(activation):
    _, layer = double_mlp(activation)
    call, values = as_function(layer, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
    assert gradcheck(call, values)
    assert gradgradcheck(call, values)


def test_gradgradcheck_of_two_outputs():
    layer = ortmod.OnnxModule(nets.two_outputs())
    call, values = as_function(layer, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
    assert gradcheck(lambda *v: call(*v)[:2], values)
    assert gradgradcheck(lambda *v: call(*v)[:2], values)


def test_third_order_and_gradient_penalty():
    network, layer = double_mlp()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    grads = []
    for m in (network, layer):
        (gx,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
        (gxx,) = torch.autograd.grad(gx.square().sum(), x, create_graph=True)
        gxx.square().sum().backward()
        grads.append([x.grad.clone(), *(p.grad.clone() for p in m.parameters())])
        x.grad = None
    for got, expected in zip(grads[1], grads[0], strict=True):
        nets.close(got, expected, 1e-9)


def test_double_backward_of_batchnorm_in_training():
    layer = ortmod.OnnxModule(nets.batchnorm(), dtype=torch.float64)
    twin = torch.nn.BatchNorm2d(3).double()
    twin.load_state_dict(
        {k.removeprefix("bn."): v for k, v in layer.state_dict().items()} | {"num_batches_tracked": torch.tensor(0)}
    )
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    found = []
    for m in (twin, layer):
        (gx,) = torch.autograd.grad(m(x).exp().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gx.pow(2).sum(), [x, *m.parameters()]))
    for got, expected in zip(found[1], found[0], strict=True):
        nets.close(got, expected, 1e-8)
    nets.close(layer.get_buffer("bn.running_mean"), twin.running_mean, 1e-6)  # the momentum is a float32 attribute


def test_double_backward_of_dropout_keeps_the_mask():
    layer = ortmod.OnnxModule(nets.dropout(), dtype=torch.float64, trainable=["W"])
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    mask = (y != 0).double() / 0.75
    expected = torch.tanh(x * layer.W * mask)
    nets.close(y, expected)
    (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (ex,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    nets.close(gx, ex)
    for got, want in zip(
        torch.autograd.grad(gx.square().sum(), [x, layer.W]), torch.autograd.grad(ex.square().sum(), [x, layer.W]), strict=True
    ):
        nets.close(got, want)


def test_two_forwards_before_one_backward():
    network, layer = double_mlp()
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    for m in (network, layer):
        first, second = m(a), m(b)
        (first.sum() * second.sum()).backward()
    for got, expected in zip(layer.parameters(), network.parameters(), strict=True):
        nets.close(got.grad, expected.grad)


def test_retain_graph_gives_the_same_twice():
    _, layer = double_mlp()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    loss = layer(x).square().sum()
    first = torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=True)
    third = torch.autograd.grad(loss, [x, *layer.parameters()])
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_changes_in_place_between_forward_and_backward_raise():
    _, layer = double_mlp()
    x = torch.randn(3, 4, dtype=torch.float64)
    y = layer(x)
    with torch.no_grad():
        layer.get_parameter("2.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    tanh = ortmod.OnnxModule(
        nets.parse(
            """<ir_version: 9, opset_import: ["": 18]> net (float[n] x) => (float[n] y) { h = Mul(x, x)  y = Tanh(h) }""",
        )
    )
    x = torch.randn(4, requires_grad=True)
    y = tanh(x)
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_undefined_gradients_are_zeros():
    layer = ortmod.OnnxModule(nets.two_outputs(), trainable=["W", "v"])
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y, z, _ = layer(x)
    gx, gW = torch.autograd.grad(y.sum(), [x, layer.W], retain_graph=True)
    reference = x.detach().requires_grad_()
    W = layer.W.detach().requires_grad_()
    ex, eW = torch.autograd.grad(torch.tanh(reference @ W).sum(), [reference, W])
    nets.close(gx, ex)
    nets.close(gW, eW)
    (gv,) = torch.autograd.grad(z.sum(), [layer.v])
    nets.close(gv, x.detach().sum(0))


def test_integer_outputs_have_no_gradient():
    layer = ortmod.OnnxModule(nets.two_outputs())
    y, _, best = layer(torch.randn(5, 4, dtype=torch.float64))
    assert best.grad_fn is None and not best.requires_grad
    assert torch.equal(best, y.argmax(1))


def test_needs_input_grad():
    _, layer = double_mlp()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for p in layer.parameters():
        p.requires_grad_(False)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None and all(p.grad is None for p in layer.parameters())
    assert not layer(x.detach()).requires_grad
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        assert layer(x).is_inference()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x.detach())
    assert not kept


def test_non_contiguous_inputs_and_gradients():
    network, layer = double_mlp()
    x = torch.randn(4, 6, dtype=torch.float64).t()[:, :4]
    x = x.requires_grad_()
    seed = torch.randn(3, 6, dtype=torch.float64).t()
    assert not x.is_contiguous() and not seed.is_contiguous()
    got = torch.autograd.grad(layer(x), [x, *layer.parameters()], seed)
    expected = torch.autograd.grad(network(x), [x, *network.parameters()], seed)
    for a, b in zip(got, expected, strict=True):
        nets.close(a, b)
    expanded = torch.autograd.grad(layer(x).sum(), x)[0]  # a gradient of stride 0
    nets.close(expanded, torch.autograd.grad(network(x).sum(), x)[0])


def test_zero_size_batches():
    network, layer = double_mlp()
    x = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    for m in (network, layer):
        y = m(x)
        assert y.shape == (0, 3)
        y.sum().backward()
    assert x.grad.shape == (0, 4)
    for got, expected in zip(layer.parameters(), network.parameters(), strict=True):
        nets.close(got.grad, expected.grad)


def test_no_output_is_an_input():
    layer = ortmod.OnnxModule(
        nets.parse(
            """<ir_version: 9, opset_import: ["": 18]>
            net (float[n] x) => (float[n] y, float[n] z, float[n] w) { y = Identity(x)  z = Identity(x)  w = Identity(y) }"""
        )
    )
    x = torch.randn(4, requires_grad=True)
    outputs = layer(x)
    pointers = {t.data_ptr() for t in (x, *outputs)}
    assert len(pointers) == 4
    sum(k * o.sum() for k, o in enumerate(outputs, 1)).backward()
    assert torch.equal(x.grad, torch.full((4,), 6.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_float_types(dtype):
    network, model = nets.mlp((6, 8, 3), dtype)
    layer = ortmod.OnnxModule(model)
    x = torch.randn(5, 6, dtype=dtype, requires_grad=True)
    nets.close(layer(x), network(x))
    got = torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(network(x).sum(), [x, *network.parameters()])
    for a, b in zip(got, expected, strict=True):
        nets.close(a, b)


def test_autocast_and_grad_scaler():
    network, model = nets.mlp((6, 8, 3))
    layer = ortmod.OnnxModule(model)
    stem = torch.nn.Linear(6, 6)
    optimizer = torch.optim.SGD([*stem.parameters(), *layer.parameters()], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = stem(x)
        assert h.dtype == torch.bfloat16
        y = layer(h)
        assert y.dtype == torch.float32
        nets.close(y.detach(), network(h.float()).float().detach(), 2e-2)
        loss = y.square().mean()
    scaler.scale(loss).backward()
    assert stem.weight.grad is not None
    before = layer.get_parameter("0.weight").detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, layer.get_parameter("0.weight"))
    with pytest.raises(ortmod.DTypeError):
        layer(h)


def test_threads_share_a_module():
    network, layer = double_mlp()
    inputs = [torch.randn(n % 5 + 1, 4, dtype=torch.float64) for n in range(40)]
    expected = [torch.autograd.grad(network(x).square().sum(), list(network.parameters())) for x in inputs]
    wrong = []

    def work(first):
        for i in range(first, len(inputs), 4):
            got = torch.autograd.grad(layer(inputs[i]).square().sum(), list(layer.parameters()))
            if not all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(got, expected[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_tensor_subclasses_are_used_or_refused():
    _, layer = double_mlp()

    class Tagged(torch.Tensor):
        pass

    x = torch.randn(3, 4, dtype=torch.float64)
    nets.close(layer(x.as_subclass(Tagged)).as_subclass(torch.Tensor), layer(x))
    for bad in (x.to_sparse(), torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8)):
        with pytest.raises((ortmod.DTypeError, ortmod.OrtmodError)):
            layer(bad)


def test_views_with_lazy_bits():
    network, layer = double_mlp()
    z = torch.randn(3, 4, dtype=torch.complex128)
    x = z.conj().imag
    assert x.is_neg()
    nets.close(layer(x), network(x))


def test_accumulates_and_hooks():
    _, layer = double_mlp()
    x = torch.randn(3, 4, dtype=torch.float64)
    seen = []
    layer.get_parameter("0.weight").register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    layer(x).sum().backward()
    layer(x).sum().backward()
    nets.close(seen[1], 2 * seen[0])


def test_empty_function_gives_every_gradient():
    tensors = [torch.randn(n, requires_grad=n > 1) for n in (1, 2, 3)]
    y = ortmod._C.empty_function((4, 2), *tensors)
    assert y.shape == (4, 2) and y.grad_fn is not None and len(y.grad_fn.next_functions) == 3
    y.backward(torch.ones_like(y))
    assert [t.grad is None for t in tensors] == [True, False, False]


def test_an_output_of_data_dependent_shape_without_a_gradient():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[n, 3] x) => (float[m] picked, float[n, 3] y) <float[3] w = {1.0, 2.0, 3.0}> {
            y = Mul (x, w)
            flat = Flatten <axis = 0> (y)
            zero = Constant <value_float = 0.0> ()
            positive = Greater (flat, zero)
            shape = Constant <value_ints = [-1]> ()
            row = Reshape (positive, shape)
            picked = Compress (y, row)
        }""")
    x = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, 0.5]])
    for which in (0, 1):
        layer = ortmod.OnnxModule(model, trainable=["w"])
        w = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = x * w
        layer(x)[which].square().sum().backward()
        (y[y > 0] if which == 0 else y).square().sum().backward()
        torch.testing.assert_close(layer.w.grad, w.grad)
