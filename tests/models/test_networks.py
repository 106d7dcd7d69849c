"""Forward and every parameter's gradient of ten networks in seven exports and two dtypes, against torch."""

import pytest
import torch
import truth
import zoo
from subject import Subject

CASES = [
    pytest.param(f, m, d, id=f"{f}-{m}-{d}") for f in zoo.FAMILIES for m in zoo.MODES for d in zoo.DTYPES
]  # fmt: skip


@pytest.mark.parametrize(("family", "mode", "dtype"), CASES)
def test_forward_and_gradients_equal_torch(export, family, mode, dtype):
    subject = Subject(export)
    sizes = [(2, 7), (3, 5)] if export.dynamic else [(2, 7)]
    for batch, seq in sizes:
        feed = subject.feed(batch, seq)
        want = truth.gradients(subject.net, feed)
        subject.module.zero_grad(set_to_none=True)
        got = subject(feed)
        assert got.dtype == want.output.dtype
        assert truth.relative(got.detach(), want.output) < subject.tolerance("forward")
        got.backward(truth.seed(got))
        grads = subject.gradients()
        untrained = set(want.grads) - set(grads)
        dtypes = {n: p.grad.dtype for n, p in subject.parameters().items() if p.grad is not None}
        assert set(dtypes.values()) == {want.output.dtype}
        assert untrained <= truth.tied(subject.net) | truth.frozen_in_torch(export.net())
        errors = truth.errors(grads, want.grads)
        bad = {n: e for n, e in errors.items() if not e < subject.tolerance("gradient")}
        assert not bad, f"{len(bad)} of {len(errors)} gradients differ: {dict(list(bad.items())[:8])}"


@pytest.mark.parametrize(("family", "dtype"), [(f, d) for f in zoo.FAMILIES for d in zoo.DTYPES])
@pytest.mark.parametrize("mode", ["default"])
def test_directional_derivative(export, family, mode, dtype):
    """Along all parameters at once: backward against central differences of ortmod and onnxruntime."""
    subject = Subject(export)
    feed = subject.feed()
    out = subject(feed)
    seed = truth.seed(out)
    out.backward(seed)
    parameters = subject.parameters()
    g = torch.Generator().manual_seed(5)
    way = {
        n: torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype) * p.detach().abs().mean()
        for n, p in parameters.items()
    }
    slope = sum(float((p.grad.double() * way[n].double()).sum()) for n, p in parameters.items())
    start = {n: p.detach().clone() for n, p in parameters.items()}

    def moved(step):
        return {n: start[n] + step * way[n] for n in start}

    def by_ortmod(step):
        with torch.no_grad():
            for n, value in moved(step).items():
                parameters[n].copy_(value)
            return float((subject(feed).double() * seed.double()).sum())

    def by_onnxruntime(step):
        proto = truth.with_initializers(export.proto(), moved(step))
        return float((torch.from_numpy(truth.run_onnxruntime(proto, feed)).double() * seed.double()).sum())

    exact = dtype == "float64" and not truth.computes_in_float32(subject.proto)
    step, tolerance = (1e-5, 1e-6) if exact else (1e-5, 2e-3) if dtype == "float64" else (2e-4, 2e-2)
    scale = sum(float((p.grad.double() * way[n].double()).norm()) for n, p in parameters.items())
    for run in (by_ortmod, by_onnxruntime):
        try:
            rough = (run(step) - run(-step)) / (2 * step)
        except truth.onnxruntime_lacks_kernel():
            assert run is by_onnxruntime and dtype == "float64"
            continue
        assert abs(rough - slope) < tolerance * scale, run.__name__
