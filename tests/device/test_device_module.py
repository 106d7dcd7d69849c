"""OnnxModule and ORTModule on the device: outputs, gradients, statistics and errors as on the CPU."""

import copy

import numpy as np
import onnx
import pytest
import torch
from networks import NETWORKS
from torch import nn
from train_models import mlp, with_weights

import ortmod


def close(there, here, tol=1e-4):
    torch.testing.assert_close(there.cpu(), here, rtol=tol, atol=tol * max(1.0, float(here.abs().max())))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, device):
    make, shape = NETWORKS[name]
    here = ortmod.OnnxModule(make())
    there = ortmod.OnnxModule(make()).to(device)
    for batch in (shape[0], 3):
        x = torch.randn(batch, *shape[1:])
        inputs = [x.clone().requires_grad_(), x.to(device).requires_grad_()]
        outputs = [module(v) for module, v in zip((here, there), inputs, strict=True)]
        assert outputs[1].device == device
        close(outputs[1].detach(), outputs[0].detach())
        for y in outputs:
            y.pow(2).mean().backward()
        close(inputs[1].grad, inputs[0].grad)
        for a, b in zip(here.parameters(), there.parameters(), strict=True):
            close(b.grad, a.grad)


def test_an_optimizer_of_torch_trains_it(device):
    here, there = ortmod.OnnxModule(mlp([3, 8, 1])), ortmod.OnnxModule(mlp([3, 8, 1])).to(device)
    x = torch.randn(32, 3)
    for module, at in ((here, "cpu"), (there, device)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(module(x.to(at)), x[:, :1].to(at)).backward()
            optimizer.step()
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        close(b.detach(), a.detach())
    again = copy.deepcopy(there)
    assert next(again.parameters()).device == device
    close(again(x.to(device)).detach(), here(x).detach())
    np.testing.assert_allclose(
        onnx.numpy_helper.to_array(there.cpu().to_onnx().graph.initializer[0]),
        onnx.numpy_helper.to_array(here.to_onnx().graph.initializer[0]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_double_backward(device):
    results = []
    for at in ("cpu", device):
        module = ortmod.OnnxModule(mlp([3, 8, 1])).to(at)
        x = torch.linspace(-1, 1, 12).reshape(4, 3).to(at).requires_grad_()
        (d,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        d.pow(2).sum().backward()
        results.append([d.detach().cpu(), x.grad.cpu(), *(p.grad.cpu() for p in module.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        close(b, a)


def test_ortmodule_with_statistics_and_dropout(device):
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 2))
    there = ortmod.ORTModule(copy.deepcopy(here).to(device))
    x = torch.randn(16, 4)
    for training in (True, False):
        here.train(training)
        there.train(training)
        a, b = here(x), there(x.to(device))
        close(b.detach(), a.detach())
        a.sum().backward()
        b.sum().backward()
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        close(q.grad, p.grad)
    for p, q in zip(here.buffers(), there.buffers(), strict=True):
        assert q.device == device
        close(q, p)


def test_autocast(device):
    module = ortmod.OnnxModule(mlp([3, 8, 1])).to(device)
    x = torch.randn(4, 3).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        y = module(x.bfloat16())
    assert y.device == device
    close(y.detach().float(), ortmod.OnnxModule(mlp([3, 8, 1]))(x.cpu()).detach(), 2e-2)


def test_arguments_of_another_device_are_named(device):
    module = ortmod.OnnxModule(mlp([3, 8, 1])).to(device)
    with pytest.raises(ortmod.DeviceError, match="is on another device: got"):
        module(torch.randn(4, 3))


def test_shapes_are_computed_on_the_host(device):
    """Reshape, Expand, Slice and Range by values that a graph computes, and by values of an input."""
    text = """net (float[N, 6] X, int64[2] shape) => (float[a, b] y, float[c, d] z) {
        zero = Constant<value_ints = [0]>()
        one = Constant<value_ints = [1]>()
        size = Shape(X)
        rows = Gather(size, zero)
        half = Constant<value_ints = [3]>()
        target = Concat<axis = 0>(rows, half)
        cut = Slice(X, zero, half, one)
        y0 = Reshape(cut, target)
        y = Mul(y0, w)
        z = Reshape(X, shape)
    }"""
    model = with_weights(text, {"w": np.full(3, 2, np.float32)})
    x = torch.randn(4, 6)
    here, there = ortmod.OnnxModule(model), ortmod.OnnxModule(model).to(device)
    wanted = here(x, torch.tensor([3, 8]))
    for shape in (torch.tensor([3, 8]), torch.tensor([3, 8])):
        for a, b in zip(wanted, there(x.to(device), shape.to(device)), strict=True):
            assert b.device == device
            close(b.detach(), a.detach())
