"""The exports: how many torch can make, that they say what torch says, that parameters are found by value."""

import pytest
import torch
import truth
import zoo

CASES = [(f, m) for f in zoo.FAMILIES for m in zoo.MODES]


def test_at_least_18_of_the_20_torchscript_exports_succeed():
    made = 0
    for family in zoo.FAMILIES:
        for mode in ("ts13", "ts17"):
            try:
                made += bool(zoo.export(family, mode))
            except zoo.ExportFailed:
                continue
    assert made >= 18


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize(("family", "mode"), CASES)
def test_file_says_what_torch_says(export, family, mode, dtype):
    net, proto = truth.twin(export), truth.without_dropout(export.proto())
    for batch, seq in [(2, 7), (3, 5)] if export.dynamic else [(2, 7)]:
        feed = zoo.inputs(family, dtype, batch, seq)
        got = torch.from_numpy(truth.run_onnxruntime(proto, feed))
        assert truth.relative(got, truth.forward(net, feed).detach()) < 1e-5


@pytest.mark.parametrize("dtype", list(zoo.DTYPES))
@pytest.mark.parametrize(("family", "mode"), CASES)
def test_every_parameter_is_in_the_file(export, family, mode, dtype):
    net, proto = truth.twin(export), export.proto()
    found = truth.copies(proto, net)
    assert not [n for n, copies in found.items() if not copies]
    if export.keeps_names:
        names = {n for n, _ in net.named_parameters(remove_duplicate=False)}
        assert {c.initializer for copies in found.values() for c in copies} <= names
