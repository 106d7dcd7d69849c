"""torch.compile and torch.export keep the graph as one operator; opcheck of the operators."""

import io

import nets
import pytest
import torch
from torch import nn

import ortmod


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pair(dtype=torch.float32):
    network, model = nets.mlp((6, 8, 3), dtype)
    return network, ortmod.OnnxModule(model)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_fullgraph(backend):
    network, layer = pair()
    model = nn.Sequential(nn.Linear(6, 6), layer)
    twin = nn.Sequential(model[0], network)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(5, 6)
    nets.close(compiled(x), twin(x))
    got = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
    expected = torch.autograd.grad(twin(x).square().sum(), list(twin.parameters()))
    for a, b in zip(got, expected, strict=True):
        nets.close(a, b)


def test_dynamic_sizes_compile_once():
    network, layer = pair()
    compilations = []

    def backend(graph, example):
        compilations.append([n.target for n in graph.graph.nodes if n.op == "call_function"])
        return graph

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for rows in (3, 5, 17):
        x = torch.randn(rows, 6)
        nets.close(compiled(x), network(x))
    assert len(compilations) == 1
    assert torch.ops.ortmod.run in compilations[0] or torch.ops.ortmod.run.default in compilations[0]


def test_dynamic_gradients():
    network, layer = pair()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5, 17):
        x = torch.randn(rows, 6, requires_grad=True)
        got = torch.autograd.grad(compiled(x).square().sum(), [x, *layer.parameters()])
        expected = torch.autograd.grad(network(x).square().sum(), [x, *network.parameters()])
        for a, b in zip(got, expected, strict=True):
            nets.close(a, b)


def test_compiled_batchnorm_updates_its_buffers():
    layer, eager = ortmod.OnnxModule(nets.batchnorm()), ortmod.OnnxModule(nets.batchnorm())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 5, 5)
    for _ in range(2):
        nets.close(compiled(x), eager(x))
    for name, buffer in eager.named_buffers():
        nets.close(layer.get_buffer(name), buffer)


def test_compiled_autocast():
    _, layer = pair()
    stem = nn.Linear(6, 6)
    x = torch.randn(4, 6)

    def step(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(stem(x))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert compiled(x).dtype == torch.float32
    nets.close(compiled(x), step(x), 1e-2)


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_the_operator(strict):
    network, layer = pair()
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(layer, (torch.randn(4, 6),), dynamic_shapes={"args": ({0: rows},)}, strict=strict)
    targets = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert torch.ops.ortmod.run.default in targets
    x = torch.randn(9, 6)
    nets.close(program.module()(x), network(x))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    nets.close(torch.export.load(stream).module()(x), network(x))


def test_a_compiled_function_outlives_its_module():
    network, layer = pair()
    program = torch.export.export(layer, (torch.randn(4, 6),))
    del layer
    x = torch.randn(4, 6)
    nets.close(program.module()(x), network(x))


def test_unknown_handles_are_typed_errors():
    with pytest.raises(ortmod.ModelError, match="12345"):
        torch.ops.ortmod.run(12345, [torch.randn(2)], False)


@pytest.mark.parametrize("make, shape", [(lambda: pair()[1], (5, 6)), (lambda: ortmod.OnnxModule(nets.batchnorm()), (4, 3, 5, 5))])
def test_opcheck(make, shape):
    layer = make()
    args = [torch.randn(shape, requires_grad=True), *layer._weights()]
    torch.library.opcheck(torch.ops.ortmod.run.default, (layer._handle, args, False))
    torch.library.opcheck(torch.ops.ortmod.run.default, (layer._handle, args, True))


def test_fake_sizes_are_the_real_ones():
    for layer, shape in (
        (pair()[1], (5, 6)),
        (ortmod.OnnxModule(nets.batchnorm()), (4, 3, 5, 5)),
        (ortmod.OnnxModule(nets.dropout()), (7, 64)),
    ):
        args = [torch.randn(shape), *(w.detach() for w in layer._weights())]
        needs = list(range(len(layer._weights()) + 1)) if layer._handle and not layer._updated else [0, 1, 2]
        real = torch.ops.ortmod.forward(layer._handle, args, needs, True)
        fake = torch.ops.ortmod.forward(layer._handle, [a.to("meta") for a in args], needs, True)
        assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in fake]


def test_dispatch_modes_see_the_operator():
    _, layer = pair()
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(4, 6)
    with Watch():
        y = layer(x)
        y.sum().backward()
    assert torch.ops.ortmod.forward.default in seen and torch.ops.ortmod.backward.default in seen
