"""The gradient graphs of whole networks, run by the stock onnxruntime: standard operators, gradients as torch."""

import onnx
import onnxruntime
import pytest
import torch
import truth
import zoo
from subject import Subject

MODES = ("default", "noopt", "ts13_keep", "ts17_keep")


def run(proto: onnx.ModelProto, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    results = session.run(None, {k: v.numpy() for k, v in feed.items() if k in wanted})
    return {o.name: torch.from_numpy(r) for o, r in zip(session.get_outputs(), results, strict=True)}


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize(("family", "mode"), [(f, m) for f in zoo.FAMILIES for m in MODES])
def test_stock_runtime_computes_the_gradients(export, family, mode, dtype):
    subject = Subject(export)
    proto = subject.module.gradient_model()
    onnx.checker.check_model(proto)
    assert not proto.functions
    assert {n.domain for n in proto.graph.node} <= {"", "ai.onnx"}
    for batch, seq in [(2, 7), (3, 5)] if export.dynamic else [(2, 7)]:
        feed = subject.feed(batch, seq)
        want = truth.gradients(subject.net, feed)
        name = export.proto().graph.output[0].name
        got = run(proto, {**feed, f"{name}_grad": truth.seed(want.output)})
        assert truth.relative(got[name], want.output) < 2e-5
        grads = subject.collect({n: got[f"{n}_grad"] for n in subject.parameters()})
        assert set(want.grads) - set(grads) <= truth.tied(subject.net) | truth.frozen_in_torch(export.net())
        errors = truth.errors(grads, want.grads)
        assert {n: e for n, e in errors.items() if not e < subject.tolerance("gradient")} == {}
