"""Reading and writing ONNX: types, external data, functions, constants, canonical form, names that stay."""

import os
import resource

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

import ortmod
from ortmod import _C

ort.set_default_logger_severity(4)
ML = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


def parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def raw(model: onnx.ModelProto) -> onnx.ModelProto:
    """Read and written without any canonical form."""
    return onnx.load_from_string(_C.Model.unchecked_from_bytes(model.SerializeToString()).to_bytes())


def read(model: onnx.ModelProto) -> onnx.ModelProto:
    """Read as OnnxModule reads it."""
    return onnx.load_from_string(_C.Model.from_bytes(model.SerializeToString()).to_bytes())


def run(model: onnx.ModelProto, *inputs):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def same_results(model: onnx.ModelProto, *inputs, want=None):
    """The stock runtime gives the same for the model as read, and the engine agrees."""
    want = run(model, *inputs) if want is None else want
    for a, b in zip(want, run(read(model), *inputs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b) if a.dtype.kind in "iUOb" else np.testing.assert_allclose(a, b, 1e-6, 1e-7)
    got = ortmod.OnnxModule(model).eval()(*[torch.from_numpy(x) for x in inputs])
    for a, b in zip(want, got if isinstance(got, tuple) else (got,), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), 1e-5, 1e-6)


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", tensor.data_type, list(tensor.dims))
    tensor.name = "w"
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [out], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])


KINDS = [
    np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: np.dtype(k).name)
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 2)], ids=str)
def test_every_element_type_comes_back_bit_by_bit(kind, typed, shape):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 7, shape) - (3 if np.dtype(kind).kind in "ifc" or "int4" == np.dtype(kind).name else 0)
    array = np.asarray(values).astype(kind)
    tensor = numpy_helper.from_array(array)
    if typed:
        code, flat = tensor.data_type, array.flatten()
        if np.dtype(kind).name.startswith("float8") or "int4" in np.dtype(kind).name:
            # numbers in int32_data are the packed bytes themselves
            packed = np.frombuffer(tensor.raw_data, np.uint8)
            tensor = TensorProto(data_type=code, dims=shape, int32_data=[int(x) for x in packed])
        else:
            tensor = helper.make_tensor("w", code, shape, flat.tolist() if kind != ml_dtypes.bfloat16 else flat.astype(np.float32))
    back = raw(with_tensor(tensor)).graph.initializer[0]
    assert back.data_type == tensor.data_type and list(back.dims) == list(shape)
    assert numpy_helper.to_array(back).tobytes() == array.tobytes()


def test_strings_and_special_floats_come_back():
    words = helper.make_tensor("w", TensorProto.STRING, [2, 2], [b"a", b"\xff\x00b", b"", "ä".encode()])
    assert list(raw(with_tensor(words)).graph.initializer[0].string_data) == list(words.string_data)
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324], np.float64)
    assert numpy_helper.to_array(raw(with_tensor(numpy_helper.from_array(odd))).graph.initializer[0]).tobytes() == odd.tobytes()


def test_sparse_initializers_become_dense():
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [5.0, 7.0])
    for dims, at in [([2], [1, 5]), ([2, 2], [0, 1, 1, 2])]:
        model = with_tensor(helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [0] * 6))
        del model.graph.initializer[:]
        indices = helper.make_tensor("i", TensorProto.INT64, dims, at)
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
        np.testing.assert_array_equal(numpy_helper.to_array(raw(model).graph.initializer[0]), [[0, 5, 0], [0, 0, 7]])


CONSTANTS = """
<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y, int64 i, float f, int64[3] is, float[2] fs)
{
  c = Constant <value = float[2] {1, 2}> ()
  y = Add (x, c)
  i = Constant <value_int = -7> ()
  f = Constant <value_float = 0.5> ()
  is = Constant <value_ints = [1, -2, 3]> ()
  fs = Constant <value_floats = [1.5, 2.5]> ()
}
"""


def test_constants_become_weights_with_their_names():
    model = read(parse(CONSTANTS))
    assert operators(model) == ["Add"]
    assert {t.name for t in model.graph.initializer} == {"c", "i", "f", "is", "fs"}
    got = run(model, np.zeros(2, np.float32))
    np.testing.assert_array_equal(got[0], [1, 2])
    assert got[1] == -7 and got[2] == 0.5
    np.testing.assert_array_equal(got[3], [1, -2, 3])
    np.testing.assert_array_equal(got[4], [1.5, 2.5])


def test_initializers_that_are_inputs_too_are_weights():
    model = parse(
        '<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {3, 4}> { y = Mul(x, w) }'
    )
    assert [i.name for i in read(model).graph.input] == ["x"]
    np.testing.assert_array_equal(run(read(model), np.ones(2, np.float32))[0], [3, 4])


FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 20, "f" : 1]>
g (float[n] x) => (float[n] y, float[n] z)
{
  [first] y = f.Outer <scale: float = 3.0> (x)
  [second] z = f.Outer (x)
}
<domain: "f", opset_import: ["" : 20, "f" : 1]>
Outer <scale: float = 2.0> (a) => (b)
{
  t = f.Inner <gain: float = @scale> (a)
  one = Constant <value_float: float = 1.0> ()
  b = Add (t, one)
}
<domain: "f", opset_import: ["" : 20]>
Inner <gain> (a) => (b)
{
  g = Constant <value_float: float = @gain> ()
  b = Mul (a, g)
}
"""


def test_functions_are_inlined_with_attributes_defaults_and_nesting():
    model = parse(FUNCTIONS)
    back = raw(model)
    assert not back.functions and operators(back) == ["Mul", "Add", "Mul", "Add"]
    assert [o.name for o in back.graph.output] == ["y", "z"]
    y, z = run(read(model), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(y, [4, 7])
    np.testing.assert_array_equal(z, [3, 5])
    same_results(model, np.array([1, 2], np.float32))


def test_overloads_and_outputs_that_pass_through():
    inner = helper.make_function(
        "f", "F", ["a"], ["a", "b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    other = helper.make_function(
        "f",
        "F",
        ["a"],
        ["b", "b2"],
        [helper.make_node("Abs", ["a"], ["b"]), helper.make_node("Exp", ["b"], ["b2"])],
        [helper.make_opsetid("", 18)],
    )
    other.overload = "two"
    nodes = [
        helper.make_node("F", ["x"], ["p", "q"], domain="f"),
        helper.make_node("F", ["q"], ["r", ""], domain="f", overload="two"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "pqr"]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])], values)
    model = helper.make_model(
        graph, functions=[inner, other], ir_version=10, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    )
    p, q, r = run(read(model), np.array([1, -2], np.float32))
    np.testing.assert_array_equal([p, q, r], [[1, -2], [-1, 2], [1, 2]])


def test_names_hidden_by_sub_graphs_stay_apart():
    model = parse("""<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2] x) => (float[2] y)
    {
      t = Neg (x)
      y = If (c) <then_branch = a () => (float[2] r) { u = Exp (t) t = Add (u, t) r = Identity (t) },
                  else_branch = b () => (float[2] t) { t = Abs (x) }>
    }""")
    back = raw(model)
    onnx.checker.check_model(back)
    x = np.array([1, -2], np.float32)
    for c in (True, False):
        want = np.exp(-x) - x if c else np.abs(x)
        np.testing.assert_allclose(run(back, np.array(c), x)[0], want, 1e-6)


CONTROL = """<ir_version: 8, opset_import: ["" : 17]> g (int64 m, bool c, float[2] x) => (float[2] y, float[k, 2] s)
{
  y, s = Loop (m, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go2, float[2] w, float[2] o)
    { go2 = Identity (go) w = Add (v, x) o = Neg (w) }>
}"""


def test_control_flow_comes_back():
    model = parse(CONTROL)
    feeds = [np.array(3), np.array(True), np.array([1, 2], np.float32)]
    for a, b in zip(run(model, *feeds), run(raw(model), *feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("flag", [0, 1])
def test_if_of_a_constant_is_its_branch(flag):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) <bool c = {%d}>
    { t = Neg (x) z = If (c) <then_branch = a () => (float[2] r) { w = Constant <value = float[2] {1, 2}> () r = Add (t, w) },
                              else_branch = b () => (float[2] q) { q = Abs (x) }> y = Exp (z) }"""
        % flag
    )
    assert operators(read(model)) == (["Neg", "Add", "Exp"] if flag else ["Neg", "Abs", "Exp"])
    same_results(model, np.array([0.5, -1], np.float32))


SEQUENCES = {
    "split_sizes": "s = SplitToSequence <axis: int = 1> (x, sizes) a = SequenceAt (s, i0) b = SequenceAt (s, m1) y = Concat <axis: int = 1> (b, a)",
    "split_scalar": "s = SplitToSequence <axis: int = 1> (x, two) a = SequenceAt (s, i0) b = SequenceAt (s, m1) y = Concat <axis: int = 1> (b, a)",
    "split_ones": "s = SplitToSequence <axis: int = 1, keepdims: int = 0> (x) a = SequenceAt (s, i0) b = SequenceAt (s, m1) y = Add (b, a)",
    "dynamic_axis": "s = SplitToSequence <axis: int = 0> (x, two) y = SequenceAt (s, i0)",
    "dynamic_squeeze": "s = SplitToSequence <axis: int = 0, keepdims: int = 0> (x) y = SequenceAt (s, m1)",
    "construct": "t = Neg (x) s = SequenceConstruct (x, t) a = SequenceAt (s, i0) b = SequenceAt (s, m1) y = Sub (a, b)",
    "concat": "t = Neg (x) s = SequenceConstruct (x, t) y = ConcatFromSequence <axis: int = 1> (s)",
    "stack": "t = Neg (x) s = SequenceConstruct (x, t) y = ConcatFromSequence <axis: int = 0, new_axis: int = 1> (s)",
    "insert_erase": "e = SequenceEmpty () s = SequenceInsert (e, x) t = Neg (x) u = SequenceInsert (s, t, i0) v = SequenceErase (u) y = SequenceAt (v, i0)",
    "length": "t = Neg (x) s = SequenceConstruct (x, t) n = SequenceLength (s) f = CastLike (n, x) y = Mul (x, f)",
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequence_detours_go(name):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 6] x) => (float[] y)
    <int64[2] sizes = {2, 4}, int64 two = {2}, int64 i0 = {0}, int64 m1 = {-1}> { %s }"""
        % SEQUENCES[name].replace(") ", ")\n")
    )
    assert not [o for o in operators(read(model)) if "Sequence" in o or o == "CastLike"]
    same_results(model, np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))


def ml_model(op: str, outputs: list[str], kind=TensorProto.FLOAT, **attributes) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], outputs, name="N", domain="ai.onnx.ml", **attributes)
    x = helper.make_tensor_value_info("x", kind, ["n", 3])
    graph = helper.make_graph([node], "g", [x], [helper.make_empty_tensor_value_info(o) for o in outputs])
    return helper.make_model(graph, opset_imports=ML, ir_version=8)


ROWS = np.array([[-3, 1, 2], [0, 0, 0], [1, -1, 0.5], [-4, -2, -1]], np.float32)
TWO, ONE = [0.1, 0.2, -0.3, 0.4, -0.5, 0.6], [0.1, 0.2, 0.3]
LINEAR = {
    "regressor": (["y"], dict(coefficients=ONE, intercepts=[0.5])),
    "regressor_two": (["y"], dict(coefficients=TWO, intercepts=[0.5, -1.0], targets=2)),
    "regressor_bare": (["y"], dict(coefficients=TWO, targets=2)),
    "classifier_softmax": (["l", "p"], dict(coefficients=TWO, intercepts=[0.1, -0.1], classlabels_ints=[4, 9], post_transform="SOFTMAX")),
    "classifier_logistic": (["l", "p"], dict(coefficients=TWO, intercepts=[0.1, -0.1], classlabels_ints=[4, 9], post_transform="LOGISTIC")),
    "classifier_one_row": (["l", "p"], dict(coefficients=ONE, intercepts=[0.05], classlabels_ints=[5, 7])),
    "classifier_one_row_logistic": (["l", "p"], dict(coefficients=ONE, intercepts=[0.05], classlabels_ints=[5, 7], post_transform="LOGISTIC")),
    "scaler": (["y"], dict(offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, -1.0])),
    "scaler_one": (["y"], dict(offset=[1.0], scale=[0.5])),
    "normalizer_l1": (["y"], dict(norm="L1")),
    "normalizer_l2": (["y"], dict(norm="L2")),
    "normalizer_max": (["y"], dict(norm="MAX")),
}  # fmt: skip


@pytest.mark.parametrize("kind", [np.float32, np.int64])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_ml_operators_become_standard(name, kind):
    outputs, attributes = LINEAR[name]
    op = {"regressor": "LinearRegressor", "classifier": "LinearClassifier", "scaler": "Scaler", "normalizer": "Normalizer"}[
        name.split("_")[0]
    ]
    model = ml_model(op, outputs, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), **attributes)
    back = read(model)
    assert all(n.domain == "" for n in back.graph.node)
    rows = ROWS.astype(kind)
    want = None
    if (op, kind) == ("LinearRegressor", np.int64):  # of which the stock runtime has float32 only
        want = run(ml_model(op, outputs, **attributes), rows.astype(np.float32))
    same_results(model, rows, want=want)
    names = {t.name for t in back.graph.initializer}
    for key in ("coefficients", "intercepts", "offset", "scale"):
        assert (key in attributes) == (f"N.{key}" in names)


def test_string_labels_are_looked_up():
    model = ml_model("LinearClassifier", ["l", "p"], coefficients=TWO, intercepts=[0.1, -0.1], classlabels_strings=["a", "b"])
    for a, b in zip(run(model, ROWS), run(read(model), ROWS), strict=True):
        assert a.tolist() == b.tolist() if a.dtype == object else np.allclose(a, b)


def test_attribute_weights_train():
    module = ortmod.OnnxModule(ml_model("LinearRegressor", ["y"], coefficients=ONE, intercepts=[0.5]))
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {"N.coefficients": (1, 3), "N.intercepts": (1,)}
    module(torch.from_numpy(ROWS)).sum().backward()
    np.testing.assert_allclose(dict(module.named_parameters())["N.coefficients"].grad.numpy()[0], ROWS.sum(0))


def linear(external: bool = False, rows: int = 64) -> onnx.ModelProto:
    w = numpy_helper.from_array(np.arange(rows * 32, dtype=np.float32).reshape(rows, 32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("aligned", [True, False])
def test_external_data_is_mapped(tmp_path, aligned):
    model = linear()
    (tmp_path / "data").mkdir()
    data = model.graph.initializer[0].raw_data
    (tmp_path / "data" / "w.bin").write_bytes(b"." * (64 if aligned else 61) + data + b"end")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "data/w.bin", "offset": 64 if aligned else 61, "length": len(data)}.items():
        tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    module = _C.Model.from_file(str(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(module.weight("w").numpy().tobytes(), data)


GIB = 2**30


def big_model(folder) -> str:
    """A table of 2.5 GiB in a sparse file, which takes no room on the disk, and a weight behind it."""
    size = 5 * GIB // 2
    with open(folder / "w.bin", "wb") as f:
        f.seek(size)
        f.write(np.arange(6, dtype=np.float32).tobytes())
    model = parse("""<ir_version: 8, opset_import: ["" : 17]> g (float[n, 2] x, int64[1] i) => (float[n, 3] y)
    { r = Gather (table, i) c = Cast <to = 1> (r) h = MatMul (x, w) y = Add (h, c) }""")
    for name, kind, dims, offset, length in [
        ("table", TensorProto.UINT8, [size], 0, size),
        ("w", TensorProto.FLOAT, [2, 3], size, 24),
    ]:
        tensor = model.graph.initializer.add(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "w.bin", "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return str(folder / "m.onnx")


def test_models_over_2_gib_are_mapped_not_read(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layer = ortmod.OnnxModule(big_model(tmp_path))
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = layer(x, torch.tensor([5 * GIB // 2 - 1]))
    y.sum().backward()
    np.testing.assert_array_equal(y.detach().numpy(), x.numpy() @ np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(dict(layer.named_parameters())["w"].grad.numpy(), np.repeat([[4], [6]], 3, 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024  # KiB
    with pytest.raises(ortmod.ModelError, match="larger than 2 GiB: write it to a file"):
        layer.to_onnx()


@pytest.mark.skipif(not os.environ.get("ORTMOD_BIG_TESTS"), reason="writes 2.5 GiB; ORTMOD_BIG_TESTS=1 runs it")
def test_models_over_2_gib_are_written(tmp_path):
    layer = ortmod.OnnxModule(big_model(tmp_path))
    with torch.no_grad():
        dict(layer.named_parameters())["w"].fill_(2)
    (tmp_path / "out").mkdir()
    layer.to_onnx(tmp_path / "out" / "m.onnx")
    again = ortmod.OnnxModule(str(tmp_path / "out" / "m.onnx"))
    np.testing.assert_array_equal(again(torch.ones(1, 2), torch.tensor([7])).detach().numpy(), [[4, 4, 4]])


def test_tensors_handed_in_keep_the_proto_small():
    model = linear()
    value = numpy_helper.to_array(model.graph.initializer[0]).copy()
    model.graph.initializer[0].ClearField("raw_data")
    got = _C.Model.from_bytes(model.SerializeToString(), given={"w": torch.from_numpy(value)})
    assert got.weight("w").data_ptr() == value.ctypes.data
    with pytest.raises(ortmod.ModelError, match="does not fit"):
        _C.Model.from_bytes(model.SerializeToString(), given={"w": torch.zeros(3)})
    with pytest.raises(ortmod.ModelError, match="no initializer"):
        _C.Model.from_bytes(linear().SerializeToString(), given={"other": torch.zeros(3)})


def test_text_is_read_by_the_onnx_parser():
    for text in (FUNCTIONS, CONTROL, CONSTANTS):
        model = _C.Model.unchecked_from_bytes(parse(text).SerializeToString())
        again = parser.parse_model(str(model))
        assert operators(again) == operators(onnx.load_from_string(model.to_bytes()))


def test_names_opsets_and_metadata_stay():
    model = linear()
    model.graph.node[0].name = "/layer.0/MatMul"
    model.graph.node[0].metadata_props.add(key="scope", value="layer.0")
    model.metadata_props.add(key="author", value="me")
    model.graph.value_info.add(name="w").metadata_props.add(key="kind", value="PARAMETER")
    back = read(model)
    assert back.graph.node[0].name == "/layer.0/MatMul" and back.graph.node[0].metadata_props[0].value == "layer.0"
    assert back.metadata_props[0].value == "me" and back.opset_import == model.opset_import and back.graph.name == "g"
    assert {v.name: [p.value for p in v.metadata_props] for v in back.graph.value_info}["w"] == ["PARAMETER"]
    assert back.graph.input == model.graph.input and back.graph.output == model.graph.output


def test_the_scale_and_bias_of_a_decomposed_group_normalization_train():
    """torch's exporter writes InstanceNormalization with ones and zeros, then Mul and Add with the module's own weights."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    model = torch.onnx.export(network, (x,), dynamo=True, verbose=False).model_proto
    layer = ortmod.OnnxModule(model)
    assert sorted(p.numel() for p in layer.parameters()) == sorted(p.numel() for p in network.parameters())
    layer(x).square().sum().backward()
    network(x).square().sum().backward()
    ours, theirs = (sorted(p.grad.norm().item() for p in module.parameters()) for module in (layer, network))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
