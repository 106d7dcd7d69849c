"""Initializers that the exporter merged because their values were equal: refused, trained as one, or untied."""

import torch
import truth
import zoo
from subject import trained

import ortmod

# The exporter rounds the scale of attention to float32.
FORWARD, GRADIENT = 1e-7, 2e-6
# A Gemm whose bias is all zeros is written without one.
DROPPED = {"net.bert.pooler.dense.bias", "net.classifier.bias"}


def merged() -> tuple[zoo.Export, dict[str, list[str]]]:
    """BERT as transformers initialises it, and per shared initializer the torch parameters that it stands for."""
    export = zoo.export("bert", "default", "float64", distinct=False)
    proto, net = export.proto(), export.net(distinct=False)
    values = truth.initializers(proto)
    shared = {}
    for name, value in values.items():
        written = [(n, p.detach()) for n, p in net.named_parameters() if n not in DROPPED]
        equal = [n for n, p in written if p.shape == value.shape and torch.equal(p, value)]
        if len(equal) > 1:
            shared[name] = equal
    return export, shared


def test_the_export_merges():
    export, shared = merged()
    assert shared
    named = {t.name for t in export.proto().graph.initializer}
    gone = {p for params in shared.values() for p in params} - named
    assert gone - DROPPED, "torch no longer merges: this file tests nothing"
    gemms = [len(node.input) for node in export.proto().graph.node if node.op_type == "Gemm"]
    assert gemms == [2, 2]


def test_a_merged_weight_is_not_trained_by_default():
    export, shared = merged()
    module = ortmod.OnnxModule(str(export.path))
    assert not set(shared) & set(trained(module))
    report = str(module.parameter_report())
    assert "merged" in report
    net = export.net(distinct=False)
    feed = zoo.inputs("bert", "float64")
    assert truth.relative(module.eval()(*feed.values()).detach(), truth.forward(net, feed).detach()) < FORWARD


def test_allow_merged_trains_it_as_one():
    export, shared = merged()
    module = ortmod.OnnxModule(str(export.path), allow_merged=True).eval()
    feed, net = zoo.inputs("bert", "float64"), export.net(distinct=False)
    want = truth.gradients(net, feed)
    out = module(*feed.values())
    out.backward(truth.seed(out))
    mine = trained(module)
    assert set(shared) <= set(mine)
    for name, params in shared.items():
        total = torch.stack([want.grads[p] for p in params]).sum(0)
        assert truth.relative(mine[name].grad, total) < GRADIENT, name


def test_untie_gives_every_use_its_own():
    export, shared = merged()
    module = ortmod.OnnxModule(str(export.path), untie=list(shared)).eval()
    feed, net = zoo.inputs("bert", "float64"), export.net(distinct=False)
    want = truth.gradients(net, feed)
    out = module(*feed.values())
    assert truth.relative(out.detach(), want.output) < FORWARD
    out.backward(truth.seed(out))
    mine = [p for p in module.parameters()]
    expected = [g for n, g in want.grads.items() if n not in DROPPED]
    assert len(mine) == len(expected)
    left = [p.grad for p in mine]
    most = max(float(g.abs().max()) for g in expected)
    for grad in expected:
        scale = grad.abs().max().clamp_min(1e-5 * most)
        hits = [
            i
            for i, g in enumerate(left)
            for t in (g, g.T if g.dim() == 2 else g)
            if t.shape == grad.shape and (t - grad).abs().max() < GRADIENT * scale
        ]
        assert hits
        left.pop(hits[0])
