"""Passes: each rewrite alone, what must not be touched, the gate and its switches, modes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import parser

import ortmod
from ortmod import _C

ort.set_default_logger_severity(4)
OPSET = '<ir_version: 8, opset_import: ["" : %d]>'


def load(text: str, opset: int = 17) -> _C.Model:
    return _C.Model.from_bytes(parser.parse_model(OPSET % opset + text).SerializeToString())


def proto(model) -> onnx.ModelProto:
    return onnx.load_from_string(model.to_bytes())


def operators(model) -> list[str]:
    return [n["op"] for n in model.nodes()]


def optimised(model, *names, variable=()):
    return _C.optimised(model, list(variable), list(names))[0]


REWRITING = ("simplify", "fold", "simplify", "cse", "dce")


def run(model, *inputs):
    session = ort.InferenceSession(model.to_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
HEAD = "g (float[2, 3] x) => (float[] y) <float one = {1}, float zero = {0}, float[1] ones = {1}, bool[1] yes = {1}, float[2, 3] w = {1, 2, 3, 4, 5, 6}, int64[2] to = {3, 2}, int64[1] flat = {-1}>"
REWRITES = {
    "identity": ("a = Identity (x) y = Exp (a)", ["Exp"]),
    "cast": ("a = Cast <to: int = 1> (x) y = Exp (a)", ["Exp"]),
    "cast_other": ("a = Cast <to: int = 11> (x) b = Exp (a) y = Cast <to: int = 1> (b)", ["Cast", "Exp", "Cast"]),
    "times_one": ("a = Mul (x, one) b = Mul (one, a) y = Exp (b)", ["Exp"]),
    "plus_zero": ("a = Add (x, zero) b = Add (zero, a) y = Exp (b)", ["Exp"]),
    "minus_zero": ("a = Sub (x, zero) y = Exp (a)", ["Exp"]),
    "zero_minus": ("a = Sub (zero, x) y = Exp (a)", ["Sub", "Exp"]),
    "over_one": ("a = Div (x, ones) y = Exp (a)", ["Exp"]),
    "one_over": ("a = Div (ones, x) y = Exp (a)", ["Div", "Exp"]),
    "transposes": ("a = Transpose <perm: ints = [1, 0]> (x) b = Transpose <perm: ints = [1, 0]> (a) y = Exp (b)", ["Exp"]),
    "reshapes": ("a = Reshape (x, to) b = Reshape (a, flat) y = Exp (b)", ["Reshape", "Exp"]),
    "negations": ("a = Neg (x) b = Neg (a) y = Exp (b)", ["Exp"]),
    "output_of_a_cast": ("a = Exp (x) y = Cast <to: int = 1> (a)", ["Exp"]),
    "output_of_negations": ("a = Exp (x) b = Neg (a) y = Neg (b)", ["Exp"]),
    "sum_of_one": ("a = Sum (x) b = Max (a) y = Exp (b)", ["Exp"]),
    "where": ("n = Neg (x) a = Where (yes, x, n) y = Exp (a)", ["Exp"]),
    "dropout": ("a = Dropout (x) y = Exp (a)", ["Exp"]),
    "two_outputs_stay": ("y = Identity (x)", ["Identity"]),
    "fold": ("a = Exp (w) b = Neg (a) y = Add (x, b)", ["Add"]),
    "fold_shape": ("s = Shape (x) y = Reshape (x, s)", ["Reshape"]),
    "equal_nodes": ("a = Exp (x) b = Exp (x) c = Add (a, b) y = Neg (c)", ["Exp", "Add", "Neg"]),
    "dead": ("a = Exp (x) b = Neg (a) y = Abs (x)", ["Abs"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name):
    body, want = REWRITES[name]
    before = load(HEAD + "{ %s }" % body.replace(") ", ")\n"))
    after = optimised(before, *REWRITING)
    assert operators(after) == want
    for model in (after, optimised(before).expanded()):
        assert [o[0] for o in model.outputs] == ["y"]
        np.testing.assert_allclose(run(model, X)[0], run(before, X)[0], 1e-6)


def test_dynamic_shapes_are_not_taken_for_equal():
    model = load(
        "g (float[a, b] x, float[c, b] z) => (float[] y) <float[1, 1] one = {1}> { t = Mul (z, one) u = Shape (t) v = Expand (x, u) y = Exp (v) }"
    )
    assert operators(optimised(model)) == ["Shape", "Expand", "Exp"]
    x, z = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)
    assert run(optimised(model), x, z)[0].shape == (3, 2)


def test_scalar_times_row_keeps_the_row():
    model = load("g (float x) => (float[] y) <float[2] ones = {1, 1}> { t = Mul (x, ones) y = Exp (t) }")
    assert operators(optimised(model, *REWRITING)) == ["Mul", "Exp"]


@pytest.mark.parametrize("names", [(), ("fold",), ("simplify",), ("cse",)])
def test_variable_tensors_are_never_folded(names):
    model = load(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 1}, float[2] v = {1, 1}> { a = Transpose (w) b = Mul (x, a) c = Mul (b, v) d = Mul (c, w) y = Neg (d) }"
    )
    after = optimised(model, *names, variable=["w", "v"]).expanded()
    assert {w[0] for w in after.weights} >= {"w", "v"}
    assert operators(after).count("Mul") == 3
    changed = proto(after)
    for t in changed.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(np.array([2, 3] if t.name == "w" else [5, 7], np.float32), t.name))
    got = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": np.ones(2, np.float32)}
    )
    np.testing.assert_array_equal(got[0], [-20, -63])


def test_random_nodes_are_neither_merged_nor_folded():
    model = load(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 1}> { a = RandomUniformLike (w) b = RandomUniformLike (w) y = Sub (a, b) }"
    )
    assert operators(optimised(model)) == ["RandomUniformLike", "RandomUniformLike", "Sub"]


def test_huge_constants_are_not_made():
    model = load("g (float[1] x) => (float[] y) <int64[2] s = {1048576, 1048576}> { a = ConstantOfShape (s) y = Add (a, x) }")
    assert operators(optimised(model)) == ["ConstantOfShape", "Add"]


def test_the_gate(monkeypatch, tmp_path):
    model = load(HEAD + "{ a = Identity (x)\n b = Exp (w)\n y = Add (a, b) }")
    order = [r["name"] for r in _C.optimised(model)[1]]
    assert set(order) == {n for n, _ in _C.passes()}
    monkeypatch.setenv("ORTMOD_DISABLE", "fold,cse")
    after, reports = _C.optimised(model)
    assert operators(after.expanded()) == ["Exp", "Add"]
    assert {r["name"] for r in reports if r["skipped"]} == {"fold", "cse"}
    monkeypatch.delenv("ORTMOD_DISABLE")
    monkeypatch.setenv("ORTMOD_STOP_AFTER", "1")
    assert [r["skipped"] for r in _C.optimised(model)[1]] == [False] + [True] * (len(order) - 1)
    monkeypatch.delenv("ORTMOD_STOP_AFTER")
    monkeypatch.setenv("ORTMOD_DUMP", str(tmp_path))
    monkeypatch.setenv("ORTMOD_VERIFY", "1")
    _C.optimised(model)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert [f.split("_")[1] for f in files] == [f"{i:02d}" for i in range(len(order) + 1)]
    for p in tmp_path.iterdir():
        parser.parse_model(p.read_text())
    with pytest.raises(ortmod.ModelError, match="unknown pass"):
        _C.optimised(model, [], ["polish"])


NORM = "g (float[n, 3, h] x) => (float[] y) <float[3] s = {1, 2, 3}, float[3] b = {0.5, 0, 1}, float[3] m = {0.1, 0.2, 0.3}, float[3] v = {1, 2, 0.5}> { y = BatchNormalization <epsilon: float = 0.001, momentum: float = 0.8> (x, s, b, m, v) }"


@pytest.mark.parametrize("opset", [9, 13, 15, 17])
def test_batch_normalization_in_training_updates_as_torch_does(opset):
    model, updates = _C.switched(load(NORM, opset), True)
    assert [w for w, _ in updates] == ["m", "v"]
    x = np.random.default_rng(0).normal(2, 3, size=(4, 3, 5)).astype(np.float32)
    model = model.expanded()
    session = ort.InferenceSession(model.to_bytes(), providers=["CPUExecutionProvider"])
    for _ in range(2):  # the second run finds the statistics as they were
        got = dict(zip([o[0] for o in model.outputs], session.run(None, {"x": x}), strict=True))
    norm = torch.nn.BatchNorm1d(3, eps=0.001, momentum=0.2)
    with torch.no_grad():
        for t, value in [
            (norm.weight, [1, 2, 3]),
            (norm.bias, [0.5, 0, 1]),
            (norm.running_mean, [0.1, 0.2, 0.3]),
            (norm.running_var, [1, 2, 0.5]),
        ]:
            t.copy_(torch.tensor(value))
    want = norm(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got["y"], want, 1e-5, 1e-5)
    np.testing.assert_allclose(got[updates[0][1]], norm.running_mean.numpy(), 1e-5)
    np.testing.assert_allclose(got[updates[1][1]], norm.running_var.numpy(), 1e-5)


TWO_NORMS = """g (float[n, 2] x) => (float[] y) <float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] zero = {0, 0}, float[2] one = {1, 1}>
{ z = BatchNormalization (x, s, b, zero, one) t = Exp (z) y = BatchNormalization (t, s, b, zero, one) }"""


def test_stock_runtime_keeps_equal_statistics_apart():
    """Two layers start from the same tensors, as equal initializers that a runtime may merge."""
    model, updates = _C.switched(load(TWO_NORMS), True)
    assert [w for w, _ in updates] == ["zero", "one"]
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    norm = torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        norm.weight[1], norm.bias[1] = 2, 1
        norm(norm(torch.from_numpy(x)).exp())
    model = model.expanded()
    names = [o[0] for o in model.outputs]
    session = ort.InferenceSession(model.to_bytes(), providers=["CPUExecutionProvider"])
    for _ in range(2):
        got = dict(zip(names, session.run(None, {"x": x}), strict=True))
        np.testing.assert_allclose(got[updates[0][1]], norm.running_mean.numpy(), 1e-5)
        np.testing.assert_allclose(got[updates[1][1]], norm.running_var.numpy(), 1e-5)


def test_inference_form_of_a_model_in_training_form():
    text = """g (float[n, 3] x) => (float[] y) <float[3] s = {1, 2, 3}, float[3] b = {0.5, 0, 1}, float[3] m = {0.1, 0.2, 0.3}, float[3] v = {1, 2, 0.5}, float r = {0.5}, bool t = {1}>
    { a, m2, v2 = BatchNormalization <training_mode: int = 1> (x, s, b, m, v) y = Dropout (a, r, t) }"""
    model, updates = _C.switched(load(text), False)
    assert updates == []
    for n in proto(model).graph.node:
        assert len(n.output) == 1 and (n.op_type != "Dropout" or len(n.input) == 2)
    np.testing.assert_allclose(
        run(model, X)[0], (X - [0.1, 0.2, 0.3]) / np.sqrt(np.array([1, 2, 0.5]) + 1e-5) * [1, 2, 3] + [0.5, 0, 1], 1e-5
    )


@pytest.mark.parametrize("opset", [7, 10, 12, 17])
def test_dropout_in_training(opset):
    body = "y = Dropout <ratio: float = 0.25> (x)" if opset < 12 else "y = Dropout (x, r)"
    model, _ = _C.switched(load("g (float[n] x) => (float[] y) <float r = {0.25}> { %s }" % body, opset), True)
    got = run(model, np.ones(20000, np.float32))[0]
    kept = got != 0
    np.testing.assert_allclose(got[kept], 1 / 0.75, 1e-6)
    assert abs(kept.mean() - 0.75) < 0.02


def test_sub_graphs_are_cleaned_and_captures_kept():
    text = """g (int64 m, bool c, float[2] x) => (float[2] y)
    { u = Exp (x) d = Neg (x) y = Loop (m, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go2, float[2] w)
      { go2 = Identity (go) e = Identity (u) dead = Add (v, d) w = Add (v, e) }> }""".replace(") ", ")\n")
    model = _C.Model.unchecked_from_bytes(parser.parse_model(OPSET % 17 + text).SerializeToString())
    after = optimised(model)
    assert operators(after) == ["Exp", "Loop"]
    feeds = [np.array(3), np.array(True), np.array([1, 2], np.float32)]
    np.testing.assert_array_equal(run(after, *feeds)[0], run(model, *feeds)[0])
