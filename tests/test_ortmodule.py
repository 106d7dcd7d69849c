"""ORTModule: a torch module through ONNX, parameters shared."""

import copy
import pickle

import nets
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import ortmod


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(4, 5)

    def forward(self, x, scale=None):
        h = self.norm(self.conv(x)).relu().mean((2, 3))
        y = self.head(self.drop(h))
        return y if scale is None else {"y": y * scale, "h": h}


def exports(wrapped):
    return sum(len(found) for state in wrapped._states for found in state.exports.values())


def test_parameters_are_shared_and_named_alike():
    net = Net()
    wrapped = ortmod.ORTModule(net)
    assert dict(wrapped.named_parameters()).keys() == dict(net.named_parameters()).keys()
    assert all(a is b for a, b in zip(wrapped.parameters(), net.parameters(), strict=True))
    assert wrapped.state_dict().keys() == net.state_dict().keys()


def test_eval_equals_torch_with_gradients():
    net = Net().eval()
    wrapped = ortmod.ORTModule(net)
    twin = copy.deepcopy(net)
    for shape in ((2, 3, 6, 6), (5, 3, 6, 6), (4, 3, 7, 5)):
        x = torch.randn(shape)
        nets.close(wrapped(x), twin(x))
    wrapped(x).square().sum().backward()
    twin(x).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None, name
        nets.close(p.grad, q.grad, 1e-4)
    assert exports(wrapped) == 1


def test_training_updates_parameters_and_statistics():
    net = Net()
    net.drop.p = 0.0
    twin = copy.deepcopy(net)
    wrapped = ortmod.ORTModule(net)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (wrapped, twin)]
    for _ in range(3):
        x = torch.randn(4, 3, 6, 6)
        for m, o in zip((wrapped, twin), optimizers, strict=True):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        nets.close(a.detach(), b.detach(), 1e-4)
    nets.close(net.norm.running_mean, twin.norm.running_mean, 1e-4)
    nets.close(net.norm.running_var, twin.norm.running_var, 1e-4)
    wrapped.eval()
    twin.eval()
    assert not net.training and not net.norm.training
    nets.close(wrapped(x), twin(x), 1e-4)


def test_dropout_in_training():
    net = nn.Sequential(nn.Dropout(0.5))
    wrapped = ortmod.ORTModule(net)
    x = torch.ones(40, 50)
    zeros = float((wrapped(x) == 0).float().mean())
    assert 0.4 < zeros < 0.6
    wrapped.eval()
    assert torch.equal(wrapped(x), x)


def test_keywords_and_structured_outputs():
    net = Net().eval()
    wrapped = ortmod.ORTModule(net)
    x, scale = torch.randn(2, 3, 6, 6), torch.tensor(2.0)
    found, expected = wrapped(x, scale=scale), net(x, scale=scale)
    assert isinstance(found, dict) and found.keys() == expected.keys()
    for key in expected:
        nets.close(found[key], expected[key])
    nets.close(wrapped(x), net(x))


class Returns(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.shape = shape

    def forward(self, a):
        return self.shape(self.l(a))


@pytest.mark.parametrize(
    "shape",
    [
        lambda h: (h, None),
        lambda h: (None, h),
        lambda h: {"h": h, "s": [h.sum(), (h.mean(0), None)], "none": None},
        lambda h: [h, "text", 3, 2.5, True, {"inner": (None, h * 2)}],
        lambda h: (h,),
        lambda h: [h],
        lambda h: h,
    ],
)
def test_outputs_that_are_no_tensors_come_back_in_their_places(shape):
    net = Returns(shape)
    seen = []
    net.register_forward_hook(lambda m, given, out: seen.append(out))
    wrapped = ortmod.ORTModule(net)
    for rows in (2, 5):
        x = torch.randn(rows, 4)
        (found, spec), (expected, other) = tree_flatten(wrapped(x)), tree_flatten(net(x))
        assert spec == other
        for a, b in zip(found, expected, strict=True):
            if isinstance(b, torch.Tensor):
                nets.close(a, b)
            else:
                assert a == b and type(a) is type(b)
    sum(leaf.sum() for leaf in found if isinstance(leaf, torch.Tensor)).backward()
    assert net.l.weight.grad is not None
    assert exports(wrapped) == 1 and len(seen) == 4  # one export, two calls of either


def test_outputs_of_an_unknown_kind_are_refused_by_the_export():
    with pytest.raises(ortmod.ModelError, match="cannot export Returns"):
        ortmod.ORTModule(Returns(lambda h: (h, object())))(torch.ones(2, 4))


def test_attributes_pickle_and_copies():
    net = Net().eval()
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(2, 3, 6, 6)
    expected = wrapped(x)
    assert wrapped.head is net.head
    for other in (pickle.loads(pickle.dumps(wrapped)), copy.deepcopy(wrapped)):
        nets.close(other(x), expected)
        assert other.head.weight is not net.head.weight
    wrapped.double()
    nets.close(wrapped(x.double()), net(x.double()))
