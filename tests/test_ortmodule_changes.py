"""ORTModule after the module has changed: modes, attributes, submodules, hooks, buffers that the forward writes."""

import copy

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional

import ortmod


def exports(wrapped):
    return sum(len(found) for state in wrapped._states for found in state.exports.values())


def same(net, wrapped, twin, *inputs, tol=1e-5):
    """One call of either: outputs, gradients and buffers."""
    for p in (*net.parameters(), *twin.parameters()):
        p.grad = None
    found, expected = wrapped(*inputs), twin(*inputs)
    nets.close(found, expected, tol)
    if expected.requires_grad:
        weight = torch.randn_like(expected)
        (found.tanh() * weight).sum().backward()
        (expected.tanh() * weight).sum().backward()
        for (name, p), q in zip(net.named_parameters(), twin.named_parameters(), strict=True):
            assert (p.grad is None) == (q[1].grad is None), name
            assert p.grad is None or torch.allclose(p.grad, q[1].grad, 1e-3, 1e-4), name
    for (name, a), b in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a, b, 1e-5, 1e-5), name


class Norms(nn.Module):
    def __init__(self, affine=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = nn.BatchNorm2d(4, eps=0.1, affine=affine)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 6)
        self.second = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.second(self.head(self.drop(self.first(self.conv(x)).relu().mean((2, 3)))))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("trains", [(), ("first",), ("second",), ("first", "second")])
def test_each_normalisation_is_in_its_own_mode(trains, affine):
    net = Norms(affine)
    net.first.running_mean.normal_()
    net.first.running_var.uniform_(0.5, 2)
    net.train()
    for name in ("first", "drop", "second"):
        getattr(net, name).train(name in trains)
    twin = copy.deepcopy(net)
    wrapped = ortmod.ORTModule(net)
    for rows in (5, 8):
        same(net, wrapped, twin, torch.randn(rows, 3, 6, 6) + 1, tol=1e-4)
    assert exports(wrapped) == 1
    assert net.first.num_batches_tracked == (2 if "first" in trains else 0)


def test_a_mode_changed_between_calls_counts():
    net = Norms()
    net.drop.p = 0.0
    twin = copy.deepcopy(net)
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(4, 3, 6, 6)
    for change in (
        lambda m: m,
        lambda m: m.first.eval(),
        lambda m: m.second.eval(),
        lambda m: m.first.train(),
        lambda m: m.train(),
    ):
        change(net)
        change(twin)
        same(net, wrapped, twin, x, tol=1e-4)
    assert exports(wrapped) == 4  # the last is the first again
    wrapped.eval()
    twin.eval()
    assert not net.training and not any(m.training for m in net.modules())
    same(net, wrapped, twin, x, tol=1e-4)
    net.train()
    assert wrapped.training


def test_a_dropout_beside_normalisations_in_eval():
    net = Norms().eval()
    net.drop.train()
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(4, 3, 6, 6)
    assert not torch.equal(wrapped(x), wrapped(x))
    assert torch.equal(net.first.running_mean, torch.zeros(4))
    torch.manual_seed(0)
    mean = torch.stack([wrapped(x) for _ in range(500)]).mean(0)
    net.drop.eval()
    nets.close(mean, net(x), 0.3)
    assert torch.equal(wrapped(x), wrapped(x))


def test_a_dropout_alone_off_and_a_function_that_is_always_on():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(50))
    net[0].eval()
    twin = copy.deepcopy(net)
    same(net, ortmod.ORTModule(net), twin, torch.randn(40, 50))

    class Always(nn.Module):
        def forward(self, x):
            return functional.dropout(x, 0.5)

    zeros = float((ortmod.ORTModule(Always().eval())(torch.ones(40, 50)) == 0).float().mean())
    assert 0.4 < zeros < 0.6


class Scaled(nn.Module):
    negative = False

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.scale = 1.0
        self.shifts = [0.0, 1.0]
        self.act = torch.relu
        self.register_buffer("chosen", torch.tensor([0, 1]))
        self.table = torch.tensor([1.0, 2.0])

    def forward(self, x):
        y = self.act(self.l(x) * self.scale + sum(self.shifts)) + self.table[self.chosen].sum()
        return -y if self.negative else y


def replace_buffer(m):
    m.chosen = torch.tensor([1, 1])


CHANGES = {
    "number": lambda m: setattr(m, "scale", 5.0),
    "list": lambda m: m.shifts.append(3.0),
    "function": lambda m: setattr(m, "act", torch.tanh),
    "shadowed": lambda m: setattr(m, "negative", True),
    "forward": lambda m: setattr(m, "forward", lambda x: m.l(x) * 7),
    "submodule": lambda m: setattr(m, "l", nn.Linear(4, 7)),
    "parameter": lambda m: setattr(m.l, "weight", nn.Parameter(torch.ones(3, 4))),
    "size": lambda m: (setattr(m.l, "weight", nn.Parameter(torch.ones(7, 4))), setattr(m.l, "bias", nn.Parameter(torch.ones(7)))),
    "no bias": lambda m: setattr(m.l, "bias", None),
    "buffer": replace_buffer,
    "buffer in place": lambda m: m.chosen.fill_(0),
    "tensor": lambda m: setattr(m, "table", torch.tensor([5.0, 6.0])),
    "tensor in place": lambda m: m.table.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES, ids=CHANGES.keys())
def test_a_changed_module_is_exported_anew(change):
    net = Scaled()
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    nets.close(wrapped(x), net(x))
    CHANGES[change](net)
    for _ in range(2):
        nets.close(wrapped(x), net(x))
    assert exports(wrapped) == (1 if change in ("parameter", "size", "no bias") else 2)


def test_weights_that_are_no_longer_tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    nets.close(wrapped(x), net(x))
    net[1].weight = nn.Parameter(torch.randn(4, 4))
    nets.close(wrapped(x), net(x))


def test_a_bias_that_was_not_there():
    net = nn.Linear(4, 3, bias=False)
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    nets.close(wrapped(x), net(x))
    net.bias = nn.Parameter(torch.ones(3))
    nets.close(wrapped(x), net(x))


def test_attributes_set_on_the_wrapper_are_the_modules():
    net = Scaled()
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    wrapped(x)
    wrapped.scale = 3.0
    assert net.scale == 3.0 and wrapped.scale == 3.0
    nets.close(wrapped(x), net(x))
    wrapped.l = nn.Linear(4, 2)
    assert wrapped(x).shape == (5, 2) and net.l is wrapped.l
    del wrapped.scale
    assert not hasattr(net, "scale")


def test_few_exports_are_kept_of_an_attribute_that_always_changes():
    net = nn.Dropout(0.5)
    wrapped = ortmod.ORTModule(net)
    for step in range(9):
        net.p = step / 100
        wrapped(torch.ones(2, 3))
    assert exports(wrapped) == 8


@pytest.mark.parametrize(
    "kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"], ids=lambda k: k
)
def test_hooks_of_submodules_are_refused_by_name(kind):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    wrapped(x)
    handle = getattr(net[0], f"register_{kind}")(lambda *values: None)
    for _ in range(2):
        with pytest.raises(ortmod.ModelError, match=r"hooks of the submodule '0' \(Linear\).*the ORTModule"):
            wrapped(x)
    handle.remove()
    nets.close(wrapped(x), net(x))
    assert exports(wrapped) == 1


def test_hooks_of_the_module_itself_run():
    net = nn.Sequential(nn.Linear(4, 3))
    wrapped = ortmod.ORTModule(net)
    seen = []
    net.register_forward_hook(lambda m, given, out: out * 2)
    wrapped.register_forward_pre_hook(lambda m, given: seen.append(len(given)))
    wrapped.register_full_backward_hook(lambda m, ours, theirs: seen.append("backward"))
    x = torch.randn(5, 4)
    for _ in range(2):
        nets.close(wrapped(x), net[0](x) * 2)
    assert seen == [1, 1]
    wrapped(x).sum().backward()
    assert seen == [1, 1, 1, "backward"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["weight_norm", "prune", "spectral_norm"])
def test_reparametrised_weights_are_part_of_the_graph(form):
    def made():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        if form == "weight_norm":
            nn.utils.weight_norm(net[0])
        elif form == "prune":
            from torch.nn.utils import prune

            prune.random_unstructured(net[0], "weight", 3)
        else:
            nn.utils.parametrizations.spectral_norm(net[0])  # its power iteration writes buffers
        return net

    net, twin = made(), made()
    wrapped = ortmod.ORTModule(net)
    for _ in range(3):
        same(net, wrapped, twin, torch.randn(5, 4))
    assert exports(wrapped) == 1


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x):
        self.calls += 2
        self.average.mul_(0.9).add_(x.mean(0) * 0.1)
        return self.l(x - self.average)


def test_buffers_that_the_forward_writes():
    net = Counts()
    twin = copy.deepcopy(net)
    wrapped = ortmod.ORTModule(net)
    for rows in (5, 5, 3):
        same(net, wrapped, twin, torch.randn(rows, 4))
    assert net.calls == 6
    assert exports(wrapped) == 1


def test_statistics_that_the_exporter_drops_are_refused():
    net = nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True))
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(2, 4, 5, 5)
    with pytest.raises(ortmod.ModelError, match="InstanceNorm2d '0' with track_running_stats"):
        wrapped(x)
    nets.close(wrapped.eval()(x), net(x))


def test_compiled_calls_follow_the_modes():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    twin = copy.deepcopy(net)
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    for mode in (False, True):
        net[1].train(mode)
        twin[1].train(mode)
        same(net, wrapped, twin, x)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    for mode in (False, True, False):
        net[1].train(mode)
        twin[1].train(mode)
        same(net, compiled, twin, x)


def test_functional_call_takes_other_weights_without_an_export():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    wrapped = ortmod.ORTModule(net)
    x = torch.randn(5, 4)
    wrapped(x)
    weights = {name: p.detach() * 2 for name, p in net.named_parameters()}
    nets.close(torch.func.functional_call(wrapped, weights, (x,)), torch.func.functional_call(net, weights, (x,)))
    assert exports(wrapped) == 1
