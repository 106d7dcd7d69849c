"""Which initializers the default rule trains: exactly the weights, found here by value among torch's parameters."""

import onnx
import pytest
import truth
import zoo
from subject import Subject, trained

import ortmod

DYNAMO = ("default", "noopt", "noopt_train")
# What a file without torch's records cannot tell from a table or a mask: it enters by these operators only.
SILENT = {"Add", "Concat", "Div", "Expand", "Mul", "Sub", "Where"}
PASSING = {"Cast", "CastLike", "Identity", "Reshape", "Transpose", "Unsqueeze"}


def weights(export: zoo.Export) -> tuple[set[str], set[str]]:
    """Initializers that hold parameters which torch trains, and those that hold frozen ones."""
    frozen = truth.frozen_in_torch(export.net())
    found = truth.copies(export.proto(), truth.twin(export))
    learnt = {c.initializer for n, copies in found.items() for c in copies if n not in frozen}
    return learnt, {c.initializer for n, copies in found.items() for c in copies if n in frozen}


def consumers(proto: onnx.ModelProto, name: str) -> set[str]:
    """Operators that use the initializer, seen through operators that only pass it on."""
    ops = set()
    for node in proto.graph.node:
        if name in node.input:
            ops |= {o for out in node.output for o in consumers(proto, out)} if node.op_type in PASSING else {node.op_type}
    return ops


@pytest.mark.parametrize("dtype", list(zoo.DTYPES))
@pytest.mark.parametrize(("family", "mode"), [(f, m) for f in zoo.FAMILIES for m in DYNAMO])
def test_exactly_the_weights_are_trainable(export, family, mode, dtype):
    wanted, frozen = weights(export)
    got = set(trained(ortmod.OnnxModule(str(export.path))))
    recorded = frozen if export.keeps_names else set()  # torch writes PARAMETER for a frozen parameter as well
    assert got - recorded == wanted
    assert got & frozen <= recorded


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize(("family", "mode"), [(f, m) for f in zoo.FAMILIES for m in zoo.MODES if m.startswith("ts")])
def test_torchscript_files_train_only_weights(export, family, mode, dtype):
    wanted, frozen = weights(export)
    got = set(trained(ortmod.OnnxModule(str(export.path))))
    assert got <= wanted
    proto = export.proto()
    missed = {n: sorted(consumers(proto, n)) for n in wanted - got}
    assert not {n: ops for n, ops in missed.items() if not set(ops) <= SILENT}
    assert len(got) > len(wanted) / 2


@pytest.mark.parametrize("family", list(zoo.FAMILIES))
def test_report_names_every_float_initializer(family):
    export = zoo.export(family, "default")
    module = ortmod.OnnxModule(str(export.path))
    report = {c.name: c for c in module.parameter_report()}
    assert [n for n in truth.initializers(export.proto()) if n not in report] == []
    assert {n for n, c in report.items() if c.kind == "parameter"} == set(trained(module))
    assert all(c.reason for c in report.values())


@pytest.mark.parametrize("family", list(zoo.FAMILIES))
def test_state_dict_of_the_torch_network_loads(family):
    export = zoo.export(family, "noopt", "float64")
    subject = Subject(export)
    other = zoo.build(family, "float64", export.attn)
    zoo.randomise(other, 99)
    subject.module.load_state_dict(other.state_dict())
    feed = subject.feed()
    want = truth.forward(other, feed).detach()
    assert truth.relative(subject(feed).detach(), want) < subject.tolerance("forward")
    assert truth.relative(want, truth.forward(subject.net, feed).detach()) > 1e-2
