"""Models that are broken or hostile: each a typed error that names the place; then, in the same process, a good model trains."""

import os

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

import ortmod
from ortmod import _C

FLOAT = TensorProto.FLOAT


def value(name, shape=(2,), kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs=("x",), outputs=("y",), weights=(), opsets=(("", 18),), functions=(), ir=10) -> onnx.ModelProto:
    ins = [i if isinstance(i, onnx.ValueInfoProto) else value(i) for i in inputs]
    outs = [o if isinstance(o, onnx.ValueInfoProto) else value(o) for o in outputs]
    graph = helper.make_graph(list(nodes), "g", ins, outs, list(weights))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*o) for o in opsets], functions=list(functions), ir_version=ir
    )


def node(op, inputs, outputs, name="bad", **attributes):
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def good() -> onnx.ModelProto:
    w = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    return model([node("MatMul", ["x", "w"], ["y"], "ok")], [value("x", ("n", 2))], [value("y", ("n", 2))], [w])


def tensor(**fields) -> onnx.ModelProto:
    t = TensorProto(name="w", data_type=FLOAT, dims=[2])
    for key, v in fields.items():
        getattr(t, key).extend(v) if isinstance(v, list) and key != "dims" else None
        if key == "dims":
            del t.dims[:]
            t.dims.extend(v)
        elif not isinstance(v, list):
            setattr(t, key, v)
    return model([node("Add", ["x", "w"], ["y"])], weights=[t])


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a proto: Python's protobuf builds no deep nesting itself."""
    size, head = len(data), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + data


def nested(depth: int) -> bytes:
    graph = helper.make_graph([node("Neg", ["x"], ["r0"], "core")], "b0", [], [value("r0")]).SerializeToString()
    for i in range(1, depth + 1):
        attributes = b""
        for key, branch in [("then_branch", graph), ("else_branch", graph_of(i).SerializeToString())]:
            attribute = onnx.AttributeProto(name=key, type=onnx.AttributeProto.GRAPH)
            attributes += field(5, attribute.SerializeToString() + field(6, branch))
        branch = node("If", ["c"], [f"r{i}"], f"if{i}").SerializeToString() + attributes
        graph = field(1, branch) + helper.make_graph([], f"b{i}", [], [value(f"r{i}")]).SerializeToString()
    inputs = onnx.GraphProto(input=[value("x"), value("c", (), TensorProto.BOOL)]).SerializeToString()
    head = onnx.ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 18)]).SerializeToString()
    return head + field(7, graph + inputs)


def graph_of(i: int) -> onnx.GraphProto:
    return helper.make_graph([node("Neg", ["x"], [f"e{i}"], f"else{i}")], f"e{i}", [], [value(f"e{i}")])


def function(name, nodes, **extra):
    f = helper.make_function("f", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)])
    for key, v in extra.items():
        getattr(f, key).extend(v)
    return f


def calls(*functions):
    return model([node("F", ["x"], ["y"], domain="f")], opsets=(("", 18), ("f", 1)), functions=functions)


def sparse(at, dims=(2, 3), count=2):
    m = model([node("Identity", ["w"], ["y"])], [], [value("y", None)])
    values = helper.make_tensor("w", FLOAT, [count], [1.0] * count)
    m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [count], at), dims)
    )
    return m


def edited(m: onnx.ModelProto, edit) -> onnx.ModelProto:
    edit(m)
    return m


CHAIN = [node("Neg", ["x"], ["a"], "first"), node("Exp", ["a"], ["y"], "second")]
MODEL, UNSUPPORTED = ortmod.ModelError, ortmod.UnsupportedOpError
BAD = {
    # name: (what is read, error, words of the message)
    "empty": (b"", MODEL, "empty"),
    "text": (b"hello, world", MODEL, "not an ONNX model"),
    "zeros": (bytes(64), MODEL, "not an ONNX model"),
    "no_graph": (onnx.ModelProto(ir_version=8), MODEL, "no graph"),
    "no_ir_version": (edited(good(), lambda m: m.ClearField("ir_version")), MODEL, "IR version"),
    "new_ir_version": (model(CHAIN, ir=999), MODEL, "999"),
    "no_opset": (model(CHAIN, opsets=()), MODEL, "opset_import"),
    "opset_0": (model(CHAIN, opsets=(("", 0),)), MODEL, "opset 0"),
    "opset_6": (model(CHAIN, opsets=(("", 6),)), MODEL, "too old"),
    "opset_999": (model(CHAIN, opsets=(("", 999),)), MODEL, "opset 999"),
    "two_opsets": (model(CHAIN, opsets=(("", 17), ("ai.onnx", 18))), MODEL, "two versions"),
    "undeclared_domain": (model([node("F", ["x"], ["y"], domain="my.ops")]), MODEL, 'my.ops.*"bad"'),
    "unknown_operators": (
        model([node("Zip", ["x"], ["a"], "n1"), node("Zap", ["a"], ["y"], "n2", domain="c")], opsets=(("", 18), ("c", 1))),
        UNSUPPORTED,
        '(?s)2 operators.*ai.onnx::Zip-18.*"n1".*c::Zap-1.*"n2"',
    ),
    "cycle": (model([node("Add", ["x", "b"], ["a"], "n1"), node("Exp", ["a"], ["b"], "n2")], outputs=("b",)), MODEL, '(?s)cycle.*"n[12]"'),
    "self_cycle": (model([node("Add", ["x", "y"], ["y"])]), MODEL, "cycle"),
    "unsorted": (model(CHAIN[::-1]), MODEL, '(?s)not sorted.*"first".*"second"'),
    "undefined_input": (model([node("Add", ["x", "nowhere"], ["y"])]), MODEL, '"nowhere".*"bad"'),
    "output_not_computed": (model(CHAIN, outputs=("z",)), MODEL, '"z"'),
    "no_outputs": (model(CHAIN, outputs=()), MODEL, "no outputs"),
    "two_values_of_a_name": (model([node("Neg", ["x"], ["y"], "n1"), node("Exp", ["x"], ["y"], "n2")]), MODEL, '"y".*"n2"'),
    "output_hides_input": (model([node("Neg", ["x"], ["x"]), node("Exp", ["x"], ["y"])]), MODEL, '"x"'),
    "output_hides_weight": (
        model([node("Neg", ["x"], ["w"]), node("Exp", ["w"], ["y"])], weights=[numpy_helper.from_array(np.zeros(2, np.float32), "w")]),
        MODEL,
        '"w"',
    ),
    "two_inputs_of_a_name": (model(CHAIN, inputs=("x", "x")), MODEL, '"x"'),
    "input_without_type": (model(CHAIN, inputs=[onnx.ValueInfoProto(name="x")]), MODEL, '"x" has no type'),
    "missing_inputs": (model([node("Add", ["x"], ["y"])]), MODEL, 'inputs.*"bad"'),
    "absent_input": (model([node("MatMul", ["", "x"], ["y"])]), MODEL, 'missing.*"bad"'),
    "too_many_inputs": (model([node("Neg", ["x", "x"], ["y"])]), MODEL, 'inputs.*"bad"'),
    "too_many_outputs": (model([node("Neg", ["x"], ["y", "z"])]), MODEL, 'outputs.*"bad"'),
    "unknown_attribute": (model([node("Neg", ["x"], ["y"], slope=1.0)]), MODEL, '"slope".*"bad"'),
    "attribute_of_wrong_type": (model([node("Softmax", ["x"], ["y"], axis="last")]), MODEL, '"axis".*"bad"'),
    "missing_attribute": (model([node("Cast", ["x"], ["y"])]), MODEL, '"to".*"bad"'),
    "attribute_twice": (edited(model([node("Softmax", ["x"], ["y"], axis=0)]), lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])), MODEL, "twice"),
    "reference_outside": (edited(model([node("Softmax", ["x"], ["y"], axis=0)]), lambda m: setattr(m.graph.node[0].attribute[0], "ref_attr_name", "k")), MODEL, "outside"),
    "mixed_types": (model([node("Add", ["x", "i"], ["y"])], inputs=("x", value("i", (2,), TensorProto.INT64))), ortmod.DTypeError, 'types.*"bad"'),
    "strings_as_floats": (model([node("Neg", ["s"], ["y"])], inputs=(value("s", (2,), TensorProto.STRING),)), ortmod.DTypeError, '"bad"'),
    "declared_type": (model(CHAIN, outputs=[value("y", (2,), TensorProto.INT64)]), MODEL, '(?s)declared.*"second"'),
    "declared_shape": (model(CHAIN, outputs=[value("y", (5,))]), MODEL, '(?s)declared.*"second"'),
    "declared_inner_type": (
        edited(model(CHAIN), lambda m: m.graph.value_info.append(value("a", (2,), TensorProto.DOUBLE))),
        MODEL,
        '(?s)declared.*"first"',
    ),
    "broadcast": (model([node("Add", ["x", "z"], ["y"])], inputs=("x", value("z", (3,)))), ortmod.ShapeError, '"bad"'),
    "short_raw_data": (tensor(raw_data=b"1234567"), MODEL, '(?s)7 bytes, expected 8.*"w"'),
    "long_raw_data": (tensor(raw_data=bytes(12)), MODEL, "12 bytes"),
    "no_data": (tensor(), MODEL, "got 0, expected 2"),
    "two_kinds_of_data": (tensor(raw_data=bytes(8), float_data=[1.0, 2.0]), MODEL, "both"),
    "dims_overflow": (tensor(dims=[2**40, 2**40], raw_data=b""), MODEL, "overflow"),
    "negative_dim": (tensor(dims=[-2], raw_data=bytes(8)), MODEL, "negative"),
    "huge_dims": (tensor(dims=[2**40], raw_data=bytes(8)), MODEL, "expected 4398046511104"),
    "rank_70": (tensor(dims=[1] * 70, raw_data=bytes(4)), MODEL, "rank 70"),
    "unknown_dtype": (tensor(data_type=77, raw_data=bytes(8)), MODEL, "77"),
    "undefined_dtype": (tensor(data_type=0, raw_data=bytes(8)), MODEL, "0"),
    "unknown_dtype_of_input": (model(CHAIN, inputs=[value("x", (2,), 99)]), MODEL, "99"),
    "memory_marker": (tensor(data_location=TensorProto.EXTERNAL, external_data=[onnx.StringStringEntryProto(key="location", value="*/_ORT_MEM_ADDR_/*")]), MODEL, '"w"'),
    "sparse_out_of_range": (sparse([1, 6]), MODEL, "out of range"),
    "sparse_unsorted": (sparse([4, 1]), MODEL, "sorted"),
    "sparse_huge": (sparse([1, 2], (2**20, 2**20)), MODEL, "too large"),
    "two_weights_of_a_name": (edited(good(), lambda m: m.graph.initializer.append(m.graph.initializer[0])), MODEL, '"w"'),
    "bytes_name": (good().SerializeToString().replace(b"\x0a\x01x", b"\x0a\x01\xff"), MODEL, "UTF-8"),
    "operator_newer_than_the_opset": (model([node("Gelu", ["x"], ["y"])]), UNSUPPORTED, 'Gelu-18, which came with opset 20.*"bad"'),
    "bytes_of_a_dimension": (
        model(CHAIN, inputs=(value("x", ("batchsize",)),)).SerializeToString().replace(b"batchsize", b"batchsiz\xff"),
        MODEL,
        "UTF-8",
    ),
    "bytes_of_an_attribute": (
        model([node("GridSample", ["x", "x"], ["y"], mode="linear")]).SerializeToString().replace(b"linear", b"linea\xff"),
        ortmod.OrtmodError,
        "bad",
    ),
    "nested_33": (nested(33), MODEL, '(?s)nested deeper than 32.*"if1"'),
    "nested_400": (nested(400), MODEL, "not an ONNX model|nested"),
    "function_calls_itself": (calls(function("F", [node("F", ["a"], ["b"], domain="f")])), MODEL, '"F" calls itself'),
    "functions_call_each_other": (
        calls(function("F", [node("G", ["a"], ["b"], domain="f")]), function("G", [node("F", ["a"], ["b"], domain="f")])),
        MODEL,
        "calls itself",
    ),
    "function_without_output": (calls(function("F", [node("Neg", ["a"], ["c"])])), MODEL, '"b"'),
    "function_defined_twice": (calls(function("F", [node("Neg", ["a"], ["b"])]), function("F", [node("Neg", ["a"], ["b"])])), MODEL, "twice"),
    "function_bomb": (
        calls(
            *[
                function("F" if i == 0 else f"F{i}", [node(f"F{i + 1}", [f"t{k}" if k else "a"], ["b" if k == 15 else f"t{k + 1}"], domain="f") for k in range(16)])
                for i in range(7)
            ],
            function("F7", [node("Neg", ["a"], ["b"])]),
        ),
        MODEL,
        "more than",
    ),
    "function_of_another_opset": (
        calls(
            helper.make_function("f", "F", ["a"], ["b"], [node("Softmax", ["a"], ["b"])], [helper.make_opsetid("", 11)])
        ),
        MODEL,
        '(?s)another opset.*"bad"',
    ),
    "deprecated_operator": (model([node("Upsample", ["x", "x"], ["y"])]), UNSUPPORTED, '(?s)deprecated.*"bad"'),
}  # fmt: skip


LISTS = {
    "an_input": ("seq(float[2]) s, int64 i", "y = SequenceAt (s, i)", '"y"'),
    "a_position_of_the_call": (
        "float[4, 2] x, int64 i",
        "s = SplitToSequence <axis = 0> (x, i) y = SequenceAt (s, i)",
        '"s".*"y"|"y".*"s"',
    ),
    "an_unknown_length": (
        "float[n, 2] x",
        "s = SplitToSequence <axis = 0> (x) n = SequenceLength (s) y = Cast <to = 1> (n)",
        '"n"',
    ),
    "of_a_loop": (
        "int64 m, bool c, float[2] x",
        """e = SequenceEmpty () s = Loop (m, c, e) <body = b (int64 i, bool go, seq(float[2]) v) => (bool go2, seq(float[2]) w)
           { go2 = Identity (go) w = SequenceInsert (v, x) }> y = ConcatFromSequence <axis = 0> (s)""",
        '(?s)"y".*"e".*"w"',
    ),
    "optional": ("optional(float[2]) x", "y = OptionalGetElement (x)", '"y"'),
}


@pytest.mark.parametrize("name", LISTS)
def test_sequences_without_a_form_as_tensors_are_refused_by_name(name):
    inputs, nodes, words = LISTS[name]
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => (float[] y) {{ {nodes} }}'
    with pytest.raises(UNSUPPORTED, match=words) as caught:
        load(parser.parse_model(text))
    assert "sequences and optionals run where constants say" in str(caught.value)


@pytest.mark.parametrize("nodes", ["y = Identity (s)", "y = Neg (x)"])
def test_lists_are_neither_inputs_nor_outputs(nodes):
    kind = "seq(float[2])" if "s" in nodes else "float[2]"
    text = f'<ir_version: 10, opset_import: ["" : 18]> g (seq(float[2]) s, float[2] x) => ({kind} y) {{ {nodes} }}'
    with pytest.raises(UNSUPPORTED, match='input "s" is no tensor'):
        load(parser.parse_model(text))


def load(what):
    ortmod.OnnxModule(what if isinstance(what, bytes) else what.SerializeToString())


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_refused_by_name(name):
    what, error, words = BAD[name]
    with pytest.raises(error, match=words) as caught:
        load(what)
    assert str(caught.value).startswith("[") and len(str(caught.value)) < 2000


def test_all_in_one_process_then_a_good_model_trains():
    for what, error, _ in BAD.values():
        with pytest.raises(error):
            load(what)
    trains()


def trains():
    module = ortmod.OnnxModule(good())
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    x, target = torch.randn(8, 2), torch.randn(8, 2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_truncated_and_flipped_bytes():
    source = parser.parse_model("""<ir_version: 10, opset_import: ["" : 18, "f" : 1]> g (bool c, float[2] x) => (float[2] y)
    <float[2] w = {1, 2}> { t = f.F <k: float = 2.0> (x) y = If (c) <then_branch = a () => (float[2] r) { r = Add (t, w) },
                            else_branch = b () => (float[2] q) { q = Abs (x) }> }
    <domain: "f", opset_import: ["" : 18]> F <k> (a) => (b) { s = Constant <value_float: float = @k> () b = Mul (a, s) }""")
    data = source.SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(len(data)):
        refused += is_refused(data[:i])
    for _ in range(1000):
        flipped = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            flipped[at] ^= 1 << rng.integers(0, 8)
        refused += is_refused(bytes(flipped))
    for _ in range(300):
        refused += is_refused(rng.integers(0, 256, rng.integers(1, 200), dtype=np.uint8).tobytes())
    assert refused > len(data) + 300
    trains()


def is_refused(data: bytes) -> bool:
    try:
        read = _C.Model.unchecked_from_bytes(data)
        str(read), read.to_bytes()
    except ortmod.OrtmodError:
        return True
    return False


DATA = np.arange(4, dtype=np.float32).tobytes()


def external(folder, location="w.bin", write=True, **keys):
    m = model([node("Add", ["x", "w"], ["y"])], [value("x", (4,))], [value("y", (4,))])
    t = m.graph.initializer.add(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, v in {"location": location, **keys}.items():
        t.external_data.add(key=key, value=str(v))
    if write:
        (folder / "w.bin").write_bytes(DATA)
    path = folder / "m.onnx"
    path.write_bytes(m.SerializeToString())
    return path


def symbolic(folder):
    (folder / "secret").write_bytes(DATA)
    path = external(folder, write=False)
    os.symlink(folder / "secret", folder / "w.bin")
    return path


def symbolic_folder(folder):
    inner = folder / "m"
    inner.mkdir()
    (folder / "out").mkdir()
    (folder / "out" / "w.bin").write_bytes(DATA)
    os.symlink(folder / "out", inner / "d")
    return external(inner, "d/w.bin", write=False)


def hard(folder):
    (folder / "secret").write_bytes(DATA)
    path = external(folder, write=False)
    os.link(folder / "secret", folder / "w.bin")
    return path


def inner(folder, location):
    (folder / "m").mkdir()
    (folder / "w.bin").write_bytes(DATA)
    return external(folder / "m", location)


def fifo(folder):
    os.mkfifo(folder / "w.bin")
    return external(folder, write=False)


EXTERNAL = {
    "missing": (lambda f: external(f, write=False), "missing"),
    "parent": (lambda f: inner(f, "../w.bin"), "leaves"),
    "parent_inside": (lambda f: inner(f, "./../w.bin"), "leaves"),
    "absolute": (lambda f: external(f, str(f / "w.bin")), "absolute"),
    "drive": (lambda f: external(f, "C:\\w.bin"), "absolute"),
    "symbolic_link": (symbolic, "symbolic"),
    "symbolic_folder": (symbolic_folder, "symbolic"),
    "hard_link": (hard, "hard links"),
    "pipe": (fifo, "regular"),
    "folder": (lambda f: external(f, "."), "no file"),
    "empty_location": (lambda f: external(f, ""), "empty"),
    "too_short": (lambda f: external(f, offset=4), "too short"),
    "empty_file": (lambda f: (external(f), (f / "w.bin").write_bytes(b""))[0], "too short"),
    "length": (lambda f: external(f, length=8), "length"),
    "negative_offset": (lambda f: external(f, offset=-4), "offset"),
    "huge_offset": (lambda f: external(f, offset=2**62), "too short"),
    "offset_no_number": (lambda f: external(f, offset="4x"), "offset"),
    "unknown_key": (lambda f: external(f, basedir="/"), "basedir"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data_that_is_not_safe(tmp_path, name):
    make, words = EXTERNAL[name]
    with pytest.raises(ortmod.ModelError, match=words) as caught:
        ortmod.OnnxModule(str(make(tmp_path)))
    assert '"w"' in str(caught.value)
    assert ortmod.OnnxModule(
        str(external(tmp_path.joinpath("good").absolute() if tmp_path.joinpath("good").mkdir() is None else tmp_path))
    )


def test_external_data_of_bytes_is_refused(tmp_path):
    with pytest.raises(ortmod.ModelError, match="no folder"):
        ortmod.OnnxModule(external(tmp_path).read_bytes())


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ortmod.ModelError, match="cannot be opened"):
        ortmod.OnnxModule(str(tmp_path / "none.onnx"))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ortmod.ModelError, match="empty"):
        ortmod.OnnxModule(str(tmp_path / "empty.onnx"))


def test_long_chains_are_read_without_recursion():
    nodes = [node("Neg", ["x" if i == 0 else f"v{i}"], ["y" if i == 99_999 else f"v{i + 1}"], f"n{i}") for i in range(100_000)]
    got = _C.Model.from_bytes(model(nodes).SerializeToString())
    again, reports = _C.optimised(got)
    assert len(got.nodes()) == 100_000 and [r["nodes"] for r in reports][-1] <= 2
    assert again.outputs[0][0] == "y"


LAYER = """<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3] X, int64[n] k) => (float[n, 1] y, int64[n] q)
<float[3, 1] w = {1, 2, 3}> { y = MatMul(X, w)  q = Add(k, k) }"""


@pytest.mark.parametrize(
    "value",
    [
        "abc",
        object(),
        {1: 2},
        [[1, 2, 3], [1, 2]],
        [["a", "b", "c"]],
        np.full((2, 3), "a"),
        np.ones((2, 3), dtype=object),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_inputs_that_are_no_dense_numbers_are_named(value):
    module = ortmod.OnnxModule(onnx.parser.parse_model(LAYER))
    k = torch.ones(2, dtype=torch.int64)
    says = "nested tensor|NestedTensor" if isinstance(value, torch.Tensor) else "input 'X': got .*, expected a tensor, or numbers"
    for call in (lambda: module(value, k), lambda: module(X=value, k=k)):
        with pytest.raises(ortmod.DTypeError, match=says):
            call()
    assert torch.equal(module(np.ones((2, 3), np.float32)[:, ::-1], k)[0], torch.full((2, 1), 6.0))


def test_texts_in_a_model_are_named_with_a_way_out():
    text = '<ir_version: 8, opset_import: ["" : 18]> g (string[n] X, float[n] z) => (string[n] s, float[n] y) { s = Identity(X)  y = Neg(z) }'
    with pytest.raises(ortmod.DTypeError, match="elements of 'X', 's': got a type that torch has no tensors of.*cut the model"):
        ortmod.OnnxModule(onnx.parser.parse_model(text))(torch.ones(2), torch.ones(2))


def test_classes_that_are_texts_are_named_with_the_output_to_take():
    text = """<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 1]>
        g (float[n, 2] X) => (string[n] label, float[n, 2] probabilities) {
            label, probabilities = ai.onnx.ml.LinearClassifier <
                coefficients = [1.0, -1.0, 0.5, 2.0], intercepts = [0.0, 1.0], classlabels_strings = ["a", "b"]> (X)
        }"""
    classifier = onnx.parser.parse_model(text)
    with pytest.raises(ortmod.DTypeError, match=r"elements of 'label': .*\(outputs=\['probabilities'\]\)"):
        ortmod.OnnxModule(classifier)(torch.ones(3, 2))
    assert ortmod.OnnxModule(classifier, outputs=["probabilities"])(torch.ones(3, 2)).shape == (3, 2)
