"""torch.func transforms and forward-mode derivatives: right, or a typed error, never zero tangents."""

import nets
import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import ortmod


@pytest.fixture
def functions():
    network, model = nets.mlp((4, 5, 3), torch.float64)
    layer = ortmod.OnnxModule(model)
    parameters = {k: p.detach() for k, p in layer.named_parameters()}
    return (lambda p, x: functional_call(layer, p, (x,))), (lambda p, x: functional_call(network, p, (x,))), parameters


def compare(got, expected):
    got, expected = (torch.utils._pytree.tree_leaves(v) for v in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        nets.close(a, b, 1e-9)


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def test_grad(functions):
    ours, torchs, p = functions
    found = [grad(lambda p, x, f=f: f(p, x).square().sum(), argnums=(0, 1))(p, X) for f in (ours, torchs)]
    compare(*found)


def test_vjp_and_jacrev(functions):
    ours, torchs, p = functions
    compare(*(vjp(lambda x, f=f: f(p, x), X)[1](torch.ones(3, 3, dtype=torch.float64)) for f in (ours, torchs)))
    compare(*(jacrev(f)(p, X) for f in (ours, torchs)))


def test_vmap(functions):
    ours, torchs, p = functions
    batch = torch.stack([X, 2 * X, 3 * X])
    compare(*(vmap(f, in_dims=(None, 0))(p, batch) for f in (ours, torchs)))
    compare(*(vmap(f, in_dims=(None, 2))(p, batch.movedim(0, 2)) for f in (ours, torchs)))


def test_per_sample_gradients(functions):
    ours, torchs, p = functions
    compare(*(vmap(grad(lambda p, x, f=f: f(p, x[None]).square().sum()), in_dims=(None, 0))(p, X) for f in (ours, torchs)))


def test_jvp_and_jacfwd(functions):
    ours, torchs, p = functions
    tangents = ({k: torch.randn_like(v) for k, v in p.items()}, torch.randn_like(X))
    found = [jvp(f, (p, X), tangents) for f in (ours, torchs)]
    assert float(found[0][1].abs().max()) > 0
    compare(*found)
    compare(*(jacfwd(lambda x, f=f: f(p, x))(X) for f in (ours, torchs)))


def test_hessians(functions):
    ours, torchs, p = functions
    compare(*(hessian(lambda x, f=f: f(p, x).square().sum())(X) for f in (ours, torchs)))
    compare(*(jacrev(jacrev(lambda x, f=f: f(p, x).square().sum()))(X) for f in (ours, torchs)))


def test_forward_mode(functions):
    import torch.autograd.forward_ad as forward

    ours, torchs, p = functions
    tangent = torch.randn_like(X)
    found = []
    for f in (ours, torchs):
        with forward.dual_level():
            found.append(forward.unpack_dual(f(p, forward.make_dual(X, tangent))).tangent)
    compare(*found)
    with torch.no_grad(), forward.dual_level():
        compare(forward.unpack_dual(ours(p, forward.make_dual(X, tangent))).tangent, found[1])


def test_batched_gradients_and_jacobian(functions):
    ours, torchs, p = functions
    x = X.clone().requires_grad_()
    seeds = torch.randn(5, 3, 3, dtype=torch.float64)
    compare(*(torch.autograd.grad(f(p, x), x, seeds, is_grads_batched=True) for f in (ours, torchs)))
    for vectorize in (False, True):
        compare(*(torch.autograd.functional.jacobian(lambda v, f=f: f(p, v), X, vectorize=vectorize) for f in (ours, torchs)))


def test_batchnorm_in_eval():
    layer = ortmod.OnnxModule(nets.batchnorm(), dtype=torch.float64).eval()
    twin = torch.nn.BatchNorm2d(3).double().eval()
    twin.load_state_dict(
        {k.removeprefix("bn."): v for k, v in layer.state_dict().items()} | {"num_batches_tracked": torch.tensor(0)}
    )
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    compare(*(jvp(m, (x,), (torch.ones_like(x),))[1] for m in (layer, twin)))


def test_random_graphs_refuse():
    layer = ortmod.OnnxModule(nets.dropout())
    x = torch.randn(3, 64)
    with pytest.raises(ortmod.GradientError, match="eval"):
        jvp(layer, (x,), (torch.ones_like(x),))
    layer.eval()
    assert jvp(layer, (x,), (torch.ones_like(x),))[1].any()
