"""Rows of the operator tests and their oracles: the stock runtime, the reference evaluator, torch, differences."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ortmod

DEFAULT_OPSET = 21
VARIANTS = ("static", "symbolic", "unknown")
DTYPE = "DTYPE"  # an attribute value that stands for the element type under test
CODES = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "bfloat16": TensorProto.BFLOAT16,
    "float16": TensorProto.FLOAT16,
}


@dataclass(frozen=True)
class Random:
    """A random operand of the type under test: normal (kind "n") or uniform between two numbers (kind "u")."""

    shape: tuple[int, ...]
    kind: str = "n"
    low: float = -1.0
    high: float = 1.0

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        if self.kind == "n":
            return np.asarray(rng.standard_normal(self.shape))
        return np.asarray(rng.uniform(self.low, self.high, self.shape))


def R(*shape: int) -> Random:
    """Normal numbers."""
    return Random(shape)


def U(low: float, high: float, *shape: int) -> Random:
    """Uniform numbers of [low, high)."""
    return Random(shape, "u", low, high)


@dataclass(frozen=True)
class F:
    """Given floating-point numbers, of the type under test."""

    values: Any

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(self.values, np.float64)


@dataclass
class Case:
    """One row: a node (or, with `body`, a few) and what it is compared with.

    inputs: R(...), U(...), F(...) for operands of the type under test; an array or a list of integers as it is
        (lists: int64); a list of strings; None: absent. Inputs are called x0, x1, ...; outputs y0, y1, ...
    outputs: a number, or which outputs are wanted, as (True, False, True).
    opset: of the model; default 21, or the one that brought the operator.
    torch: takes the tensors of the present inputs, returns one output or a tuple; the oracle of gradients
        (float64, 1e-10) and, except in float32, of forward.
    expect: like `torch` but with numpy arrays, for forward only, where neither runtime is right.
    wrt: inputs to differentiate by; default: all of the type under test; []: forward only.
    const: inputs that are initializers in the static and symbolic variants; default: integers of rank <= 1.
    dynamic: False: static shapes only.
    unknown: "grad" (default) runs forward and gradient with all inputs given at run time and all dimensions unknown;
        "forward": forward only; "": neither.
    fd: central differences (False at kinks). second: second order. stock: the gradient graph on the stock runtime.
    checked: False: onnx.checker refuses the model itself (a form of an operator that was dropped and came again).
    training: module.train() and build_gradient(training=True).
    dtypes: of the type under test. tol: multiplies every tolerance.
    body: ONNX text of nodes in place of the single node, e.g. "y0 = Tanh (x0)"; `op` is what the row is about.
    error: a pattern that the message of the OrtmodError must have; such a row is nothing but that.
    """

    op: str
    inputs: list[Any]
    attrs: dict[str, Any] | None = None
    opset: int = 0
    domain: str = ""
    outputs: Any = 1
    torch: Callable[..., Any] | None = None
    expect: Callable[..., Any] | None = None
    wrt: list[int] | None = None
    const: list[int] | None = None
    dynamic: bool = True
    unknown: str = "grad"
    fd: bool = True
    second: bool = True
    stock: bool = True
    checked: bool = True
    training: bool = False
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16")
    tol: float = 1.0
    body: str = ""
    error: str = ""
    family: str = ""
    id: str = ""

    def name(self) -> str:
        shapes = "_".join("x".join(map(str, np.shape(v))) or "s" for v in self.draw() if v is not None)
        attrs = "_".join(f"{k}{v}" for k, v in (self.attrs or {}).items() if not isinstance(v, (onnx.GraphProto, onnx.TensorProto)))
        text = "-".join(t for t in (f"{self.op}{self.opset or ''}", shapes, attrs, "err" if self.error else "") if t)
        return re.sub(r"[^A-Za-z0-9_.\-]+", "", text)[:80]

    def draw(self) -> list[np.ndarray | None]:
        """The operands; those of the type under test in float64."""
        rng = np.random.default_rng(zlib.crc32(f"{self.op}{self.inputs}{self.attrs}".encode()))
        return [None if v is None else np.asarray(v.draw(rng)) if self.tested(v) else as_array(v) for v in self.inputs]

    @staticmethod
    def tested(v: Any) -> bool:
        return isinstance(v, (Random, F))

    def floats(self) -> list[int]:
        return [i for i, v in enumerate(self.inputs) if self.tested(v)]

    def differentiable(self) -> list[int]:
        return self.floats() if self.wrt is None else self.wrt

    def wanted(self) -> list[bool]:
        return [True] * self.outputs if isinstance(self.outputs, int) else list(self.outputs)

    def constants(self) -> list[int]:
        if self.const is not None:
            return self.const
        arrays = self.draw()
        return [
            i
            for i, a in enumerate(arrays)
            if a is not None and not self.tested(self.inputs[i]) and a.dtype.kind in "iu" and a.ndim <= 1
        ]

    def opset_used(self) -> int:
        if self.opset or self.domain:
            return self.opset or 1
        try:
            onnx.defs.get_schema(self.op, DEFAULT_OPSET)
            return DEFAULT_OPSET
        except onnx.defs.SchemaError:
            return onnx.defs.get_schema(self.op).since_version

    def allows(self, dtype: str) -> bool:
        """Whether the standard admits this element type for the tested inputs (low opsets know no bfloat16)."""
        if self.body or self.domain:
            return dtype != "bfloat16"
        schema = onnx.defs.get_schema(self.op, self.opset_used())
        inputs = list(schema.inputs)
        spelt = {"float32": "float", "float64": "double"}.get(dtype, dtype)
        return all(f"tensor({spelt})" in inputs[min(i, len(inputs) - 1)].types for i in self.floats())


def as_array(v: Any) -> np.ndarray:
    a = np.asarray(v)
    return a.astype(np.int64) if a.dtype.kind == "i" and not isinstance(v, (np.ndarray, np.generic)) else a


def round_to(a: np.ndarray, dtype: str) -> np.ndarray:
    """float64 numbers that the element type can hold."""
    return np.asarray(a.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), np.float64)


def operands(case: Case, dtype: str) -> list[np.ndarray | None]:
    arrays = case.draw()
    for i in case.floats():
        arrays[i] = round_to(arrays[i], dtype)
    return arrays


def typed(case: Case, arrays: list[np.ndarray | None], dtype: str) -> list[np.ndarray | None]:
    np_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return [a if a is None or not case.tested(v) else a.astype(np_dtype) for a, v in zip(arrays, case.inputs, strict=True)]


def make_model(case: Case, dtype: str = "float64", variant: str = "static") -> onnx.ModelProto:
    """Sizes known; or equal sizes under one symbol; or each dimension unknown and constants given at run time."""
    arrays = typed(case, operands(case, dtype), dtype)
    constants = case.constants() if variant != "unknown" else []

    def dims(i: int, shape: tuple[int, ...]) -> list[Any]:
        if variant == "static":
            return list(shape)
        if variant == "symbolic":
            return [d if d == 1 else f"s{d}" for d in shape]
        return [f"x{i}_{k}" for k in range(len(shape))]

    inputs, weights = [], []
    for i, a in enumerate(arrays):
        if a is None:
            continue
        if i in constants:
            weights.append(numpy_helper.from_array(a, f"x{i}"))
            continue
        code = TensorProto.STRING if a.dtype.kind in "OU" else helper.np_dtype_to_tensor_dtype(a.dtype)
        inputs.append(helper.make_tensor_value_info(f"x{i}", code, dims(i, a.shape)))
    names = [f"y{i}" if w else "" for i, w in enumerate(case.wanted())]
    if case.body:
        text = re.sub(r"\bDTYPE\b", str(CODES[dtype]), case.body)
        declared = ", ".join(f"float x{i}" for i, a in enumerate(arrays) if a is not None)
        nodes = onnx.parser.parse_graph(f"g ({declared}) => ({', '.join('float ' + n for n in names if n)}) {{ {text} }}").node
    else:
        attrs = {k: CODES[dtype] if isinstance(v, str) and v == DTYPE else v for k, v in (case.attrs or {}).items()}
        in_names = [f"x{i}" if a is not None else "" for i, a in enumerate(arrays)]
        nodes = [helper.make_node(case.op, in_names, names, domain=case.domain, name="node", **attrs)]
    outputs = [onnx.ValueInfoProto(name=n) for n in names if n]
    graph = helper.make_graph(nodes, "row", inputs, outputs, weights)
    opset = case.opset_used()
    opsets = [helper.make_opsetid("", opset if not case.domain else DEFAULT_OPSET)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, opset))
    return helper.make_model(graph, opset_imports=opsets, ir_version=min(onnx.IR_VERSION, 10))


def feeds(case: Case, dtype: str, variant: str = "static") -> dict[str, np.ndarray]:
    arrays = typed(case, operands(case, dtype), dtype)
    constants = case.constants() if variant != "unknown" else []
    return {f"x{i}": a for i, a in enumerate(arrays) if a is not None and i not in constants}


def to_torch(a: np.ndarray) -> Any:
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(a.astype(np.float32))).to(torch.bfloat16)
    return torch.from_numpy(np.array(a))


def to_numpy(t: Any) -> np.ndarray:
    if isinstance(t, (list, tuple)):
        return np.array([to_numpy(v) for v in t], dtype=object)
    if isinstance(t, torch.Tensor):
        t = t.detach().cpu()
        return (t.double() if t.dtype in (torch.bfloat16, torch.float16) else t).numpy(force=True)
    a = np.asarray(t)
    return a.astype(np.float64) if a.dtype == ml_dtypes.bfloat16 or a.dtype == np.float16 else a


def as_tuple(v: Any) -> tuple[Any, ...]:
    return tuple(v) if isinstance(v, (list, tuple)) else (v,)


class Ours:
    """A row's model as an ortmod layer, and its gradient through torch."""

    def __init__(self, case: Case, dtype: str, variant: str = "static", model: onnx.ModelProto | None = None):
        self.case = case
        self.module = ortmod.OnnxModule(model or make_model(case, dtype, variant), trainable=[])
        self.module.train(case.training)
        self.inputs = {k: to_torch(v) for k, v in feeds(case, dtype, variant).items() if v.dtype.kind not in "OU"}
        self.strings = {k: v for k, v in feeds(case, dtype, variant).items() if v.dtype.kind in "OU"}
        self.wrt = [f"x{i}" for i in case.differentiable() if f"x{i}" in self.inputs]

    def run(self, inputs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        return as_tuple(self.module(**{**self.strings, **(inputs or self.inputs)}))

    def leaves(self) -> dict[str, torch.Tensor]:
        return {k: v.clone().requires_grad_(k in self.wrt) for k, v in self.inputs.items()}

    def gradient(self, weights: list[np.ndarray | None]) -> list[np.ndarray]:
        return gradient(self.run, self.leaves(), self.wrt, weights)


def weighted(outputs: tuple[Any, ...], weights: list[np.ndarray | None]) -> Any:
    """The scalar sum(w * y) over the outputs that have a weight, or None when nothing requires a gradient."""
    loss = None
    for y, w in zip(outputs, weights, strict=True):
        if w is not None and isinstance(y, torch.Tensor) and y.requires_grad:
            term = (y * torch.from_numpy(w).to(y)).sum()
            loss = term if loss is None else loss + term
    return loss


def tensor_gradients(
    fn: Callable[..., Any], leaves: dict[str, Any], wrt: list[str], weights: list[Any], create_graph: bool = False
) -> list[Any]:
    loss = weighted(as_tuple(fn(leaves)), weights)
    targets = [leaves[k] for k in wrt]
    if loss is None:
        return [torch.zeros_like(t) for t in targets]
    grads = torch.autograd.grad(loss, targets, allow_unused=True, create_graph=create_graph)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, targets, strict=True)]


def gradient(fn: Callable[..., Any], leaves: dict[str, Any], wrt: list[str], weights: list[Any]) -> list[np.ndarray]:
    return [to_numpy(g) for g in tensor_gradients(fn, leaves, wrt, weights)]


def second_order(
    fn: Callable[..., Any], leaves: dict[str, Any], wrt: list[str], weights: list[Any], again: list[np.ndarray]
) -> list[np.ndarray]:
    """The gradient of sum(v * gradient)."""
    grads = tensor_gradients(fn, leaves, wrt, weights, create_graph=True)
    return [to_numpy(g) for g in tensor_gradients(lambda _: tuple(grads), leaves, wrt, again)]


def differences(
    fn: Callable[[dict[str, np.ndarray]], float], inputs: dict[str, np.ndarray], name: str, h: float = 1e-5
) -> np.ndarray:
    """Central differences of a scalar function by every element of one input."""
    x = inputs[name]
    out = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        values = []
        for step in (h, -h):
            moved = x.copy()
            moved[i] += step
            values.append(fn({**inputs, name: moved}))
        out[i] = (values[0] - values[1]) / (2 * h)
    return out


def stock_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession | None:
    """A session of the stock runtime, or None where it has no kernel for an operator of this model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return None


def too_new(model: onnx.ModelProto) -> bool:
    return any(o.domain == "" and o.version > 26 for o in model.opset_import)


def run_stock(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[Any] | None:
    """Outputs of the stock runtime, or None where it has no kernel."""
    session = None if too_new(model) else stock_session(model)
    return None if session is None else session.run(None, inputs)


def run_reference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[Any]:
    return ReferenceEvaluator(model).run(None, inputs)


def expected_forward(case: Case, dtype: str) -> list[Any]:
    """The oracle of forward for operands rounded to the element type."""
    arrays = [a for a in operands(case, dtype) if a is not None]
    if case.expect:
        return list(as_tuple(case.expect(*arrays)))
    if case.torch and dtype != "float32":
        return [to_numpy(y) for y in as_tuple(case.torch(*[to_torch(a) for a in arrays]))]
    compute = "float64" if dtype == "bfloat16" else dtype
    model = make_model(case, compute)
    inputs = feeds(case, compute)
    for k, v in inputs.items():
        if case.tested(case.inputs[int(k[1:])]):
            inputs[k] = round_to(v, dtype).astype(compute)
    result = run_stock(model, inputs) if case.allows(compute) else None
    return run_reference(model, inputs) if result is None else result


def cotangents(case: Case, outputs: list[Any]) -> list[np.ndarray | None]:
    """A random weight for each floating-point output."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal(np.shape(y)) if isinstance(y, np.ndarray) and y.dtype.kind == "f" else None for y in outputs]


def assert_close(got: Any, want: Any, tol: float, what: str) -> None:
    """Equal up to `tol` of the largest entry; NaN and infinities in the same places; anything else exactly."""
    got, want = to_numpy(got), to_numpy(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if want.dtype == object or want.dtype.kind in "iubOU":
        if got.dtype == object:
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                assert_close(g, w, tol, f"{what}[{i}]") if isinstance(w, np.ndarray) else np.testing.assert_equal(g, w)
            return
        assert got.dtype == want.dtype, f"{what}: type {got.dtype}, expected {want.dtype}"
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    got, want = np.asarray(got, np.complex128 if got.dtype.kind == "c" else np.float64), np.asarray(want)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=f"{what}: NaN")
    rest = ~finite & ~np.isnan(want)
    np.testing.assert_array_equal(got[rest], want[rest], err_msg=f"{what}: infinities")
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
    error = float(np.abs(got[finite] - want[finite]).max(initial=0.0)) / scale
    assert error <= tol, (
        f"{what}: largest difference {error:.3g} of the largest entry, allowed {tol:.3g}\ngot\n{got}\nexpected\n{want}"
    )
