"""train() and optimizer steps of whole networks: statistics, dropout, and losses step by step as in torch."""

import onnx
import pytest
import torch
import truth
import zoo
from subject import Subject

KEEP = list(zoo.KEEP_NAMES)


@pytest.mark.parametrize("dtype", list(zoo.DTYPES))
@pytest.mark.parametrize("mode", KEEP)
@pytest.mark.parametrize("family", ["resnet"])
def test_batch_statistics_as_in_torch(export, family, mode, dtype):
    subject = Subject(export)
    net, module = subject.net.train(), subject.module.train()
    for batch in (4, 5):
        feed = subject.feed(batch)
        want = truth.gradients(net, feed)
        module.zero_grad(set_to_none=True)
        got = subject(feed)
        assert truth.relative(got.detach(), want.output) < subject.tolerance("forward") * 10
        got.backward(truth.seed(got))
        grads, mine = subject.gradients(), dict(module.named_buffers())
        assert set(grads) == set(want.grads)
        errors = truth.errors(grads, want.grads)
        assert {n: e for n, e in errors.items() if not e < subject.tolerance("gradient")} == {}
        statistics = {n: b for n, b in net.named_buffers() if "running" in n}
        assert statistics
        for n, b in statistics.items():
            assert truth.relative(mine[n], b) < max(subject.tolerance("forward"), 1e-7) * 10, n  # momentum is a float32
    saved = onnx.load_from_string(module.to_onnx().SerializeToString())
    net.eval()
    assert truth.relative(subject_of(saved, subject.feed()), truth.forward(net, subject.feed()).detach().float()) < 1e-4


def subject_of(proto: onnx.ModelProto, feed: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the saved file computes, by onnxruntime (float32) or by a module made of it (float64)."""
    import ortmod

    if next(iter(feed.values())).dtype == torch.float32:
        return torch.from_numpy(truth.run_onnxruntime(proto, feed))
    return ortmod.OnnxModule(proto).eval()(*feed.values()).detach().float()


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "t5"])
@pytest.mark.parametrize(("mode", "dtype"), [("noopt_train", "float64")])
def test_dropout_follows_train_and_seed(export, family, mode, dtype):
    subject = Subject(export)
    feed = subject.feed()
    calm = subject(feed).detach()
    subject.module.train()

    def drawn(number):
        torch.manual_seed(number)
        return subject(feed)

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first, again)
    assert truth.relative(first.detach(), other.detach()) > 1e-3
    assert truth.relative(first.detach(), calm) > 1e-3
    seed = truth.seed(first)
    first.backward(seed)
    parameters = {n: p for n, p in subject.parameters().items() if p.grad is not None}
    g = torch.Generator().manual_seed(5)
    way = {n: torch.randn(p.shape, generator=g, dtype=torch.float64) * p.detach().abs().mean() for n, p in parameters.items()}
    slope = sum(float((p.grad * way[n]).sum()) for n, p in parameters.items())
    values = []
    step = 1e-5
    with torch.no_grad():
        for sign in (1, -2):
            for n, p in parameters.items():
                p.add_(sign * step * way[n])
            values.append(float((drawn(1) * seed).sum()))
    scale = sum(float((p.grad * way[n]).norm()) for n, p in parameters.items())
    assert abs((values[0] - values[1]) / (2 * step) - slope) < (2e-3 if truth.computes_in_float32(subject.proto) else 1e-6) * scale


@pytest.mark.parametrize("family", list(zoo.FAMILIES))
@pytest.mark.parametrize(("mode", "dtype"), [("noopt", "float64")])
def test_losses_of_an_optimizer_equal_torch(export, family, mode, dtype):
    """Six steps of AdamW on a squared loss, from the same start."""
    subject = Subject(export)
    feed = subject.feed(3)
    target = truth.seed(truth.forward(subject.net, feed))
    for n, p in subject.net.named_parameters():
        p.requires_grad_(any(c.initializer in subject.parameters() for c in subject.copies[n]))

    def train(call, parameters):
        optimizer = torch.optim.AdamW(list(parameters), lr=1e-3, eps=1e-3)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            loss = ((call(feed) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return torch.tensor(losses, dtype=torch.float64)

    want = train(lambda f: truth.forward(subject.net, f), subject.net.parameters())
    got = train(subject, subject.module.parameters())
    assert want[-1] < want[0]
    assert truth.relative(got, want) < (1e-5 if truth.computes_in_float32(subject.proto) else 1e-8)
