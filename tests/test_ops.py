"""Every row of tests/cases against its oracles: forward, gradient, second order, the emitted graph, goldens, errors."""

import importlib
import os
import pkgutil
import re
from collections import Counter
from pathlib import Path

import cases
import numpy as np
import onnx
import onnx.printer
import oracle
import pytest
import torch
from oracle import VARIANTS, Case, Ours, assert_close

import ortmod

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("ORTMOD_UPDATE_GOLDEN"))
FORWARD_TOL = {"float64": 1e-10, "float32": 2e-6, "bfloat16": 2e-2}


def collect() -> list[Case]:
    rows = []
    for info in pkgutil.iter_modules(cases.__path__):
        for case in importlib.import_module(f"cases.{info.name}").CASES:
            case.family, case.id = info.name, f"{info.name}-{case.name()}"
            rows.append(case)
    seen: Counter[str] = Counter()
    for case in rows:
        seen[case.id] += 1
        if seen[case.id] > 1:
            case.id += f".{seen[case.id]}"
    return rows


ROWS = collect()
GOOD = [c for c in ROWS if not c.error]
GRADED = [c for c in GOOD if c.differentiable()]


def golden_rows() -> list[Case]:
    """The first differentiable row of each operator."""
    first: dict[str, Case] = {}
    for case in GRADED:
        first.setdefault(f"{case.domain}.{case.op}" if case.domain else case.op, case)
    return list(first.values())


def rows(which: list[Case]):
    return pytest.mark.parametrize("case", which, ids=[c.id for c in which])


def variants(case: Case, gradient: bool) -> list[str]:
    if not case.dynamic:
        return ["static"]
    return [v for v in VARIANTS if v != "unknown" or case.unknown == "grad" or (case.unknown == "forward" and not gradient)]


def checked_dtypes(case: Case) -> list[str]:
    return [t for t in case.dtypes if t != "bfloat16" or case.allows(t)]


def first_dtype(case: Case) -> str:
    return "float64" if "float64" in case.dtypes else case.dtypes[0]


@rows(GOOD)
def test_forward(case):
    for dtype in checked_dtypes(case) if case.floats() else ["float32"]:
        want = oracle.expected_forward(case, dtype)
        for variant in variants(case, gradient=False):
            got = Ours(case, dtype, variant).run()
            assert len(got) == len(want)
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                if isinstance(g, torch.Tensor) and g.is_floating_point() and case.floats() and dtype == "bfloat16":
                    w = oracle.to_numpy(w).astype(np.float64)
                assert_close(g, w, FORWARD_TOL[dtype] * case.tol, f"{dtype} {variant} output {i}")
    if case.torch:  # float32 above came from a runtime
        arrays = [a for a in oracle.operands(case, "float32") if a is not None]
        want = oracle.as_tuple(case.torch(*[oracle.to_torch(a) for a in arrays]))
        if "float32" in case.dtypes:
            for i, (g, w) in enumerate(zip(Ours(case, "float32").run(), want, strict=True)):
                assert_close(g, w, 1e-5 * case.tol, f"float32 output {i} against torch")


@rows(GRADED)
def test_gradient(case):
    dtype = first_dtype(case)
    ours = Ours(case, dtype)
    outputs = [oracle.to_numpy(y) for y in ours.run()]
    weights = oracle.cotangents(case, outputs)
    got = ours.gradient(weights)
    if case.torch:
        want = torch_gradient(case, dtype, weights)
        for name, g, w in zip(ours.wrt, got, want, strict=True):
            assert_close(g, w, 1e-10 * case.tol, f"gradient of {name} against torch")
    if case.fd and dtype == "float64":
        for name, g in zip(ours.wrt, got, strict=True):
            assert_close(g, numeric(ours, name, weights), 2e-7 * case.tol, f"gradient of {name} against differences")
    for variant in variants(case, gradient=True)[1:]:
        other = Ours(case, dtype, variant)
        for name, g, w in zip(other.wrt, other.gradient(weights), got, strict=True):
            assert_close(g, w, 1e-12 * case.tol, f"{variant} gradient of {name}")
    if "float32" in case.dtypes and dtype != "float32":
        want = torch_gradient(case, "float32", weights) if case.torch else got
        for name, g, w in zip(ours.wrt, Ours(case, "float32").gradient(weights), want, strict=True):
            assert_close(g, w, 1e-5 * case.tol, f"float32 gradient of {name}")


def torch_leaves(case: Case, dtype: str):
    arrays = oracle.operands(case, dtype)
    wrt = [f"x{i}" for i in case.differentiable()]
    leaves = {f"x{i}": oracle.to_torch(a).requires_grad_(f"x{i}" in wrt) for i, a in enumerate(arrays) if a is not None}
    return leaves, wrt


def torch_gradient(case: Case, dtype: str, weights):
    leaves, wrt = torch_leaves(case, dtype)
    return oracle.gradient(lambda d: case.torch(*d.values()), leaves, wrt, weights)


def numeric(ours: Ours, name: str, weights) -> np.ndarray:
    def loss(inputs):
        with torch.no_grad():
            outputs = ours.run({k: torch.from_numpy(v) for k, v in inputs.items()})
        return sum(float((oracle.to_numpy(y) * w).sum()) for y, w in zip(outputs, weights, strict=True) if w is not None)

    return oracle.differences(loss, {k: v.numpy() for k, v in ours.inputs.items()}, name)


@rows([c for c in GRADED if c.second and first_dtype(c) == "float64"])
def test_second_order(case):
    variant = "symbolic" if case.dynamic else "static"
    ours = Ours(case, "float64", variant)
    weights = oracle.cotangents(case, [oracle.to_numpy(y) for y in ours.run()])
    rng = np.random.default_rng(2)
    again = [rng.standard_normal(tuple(ours.inputs[k].shape)) for k in ours.wrt]
    got = oracle.second_order(ours.run, ours.leaves(), ours.wrt, weights, again)
    if case.torch:
        leaves, wrt = torch_leaves(case, "float64")
        want = oracle.second_order(lambda d: case.torch(*d.values()), leaves, wrt, weights, again)
        for name, g, w in zip(wrt, got, want, strict=True):
            assert_close(g, w, 1e-9 * case.tol, f"second order by {name} against torch")
    if case.fd:
        for name, g in zip(ours.wrt, got, strict=True):
            want = oracle.differences(lambda d: directional(ours, d, weights, again), numpy_inputs(ours), name)
            assert_close(g, want, 1e-6 * case.tol, f"second order by {name} against differences")


def numpy_inputs(ours: Ours) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in ours.inputs.items()}


def directional(ours: Ours, inputs: dict[str, np.ndarray], weights, again) -> float:
    leaves = {k: torch.from_numpy(v.copy()).requires_grad_(k in ours.wrt) for k, v in inputs.items()}
    return sum(float((g * v).sum()) for g, v in zip(oracle.gradient(ours.run, leaves, ours.wrt, weights), again, strict=True))


def emitted(case: Case, dtype: str, variant: str):
    model = oracle.make_model(case, dtype, variant)
    wrt = [f"x{i}" for i in case.differentiable()]
    return ortmod.build_gradient(model, wrt=wrt, unreachable="zero", training=case.training)


@rows(GRADED)
def test_emitted_graph(case):
    """The gradient as standard ONNX, on the stock runtime and on our engine, equals the gradient through torch."""
    variant = "symbolic" if case.dynamic else "static"
    ran = False
    for dtype in [t for t in ("float64", "float32") if t in case.dtypes]:
        ours = Ours(case, dtype)
        outputs = [oracle.to_numpy(y) for y in ours.run()]
        weights = oracle.cotangents(case, outputs)
        want = ours.gradient(weights)
        model = emitted(case, dtype, variant)
        if case.checked:
            onnx.checker.check_model(model)
        assert {n.domain for n in model.graph.node} <= {"", "ai.onnx.ml"} and not model.functions
        names = [o.name for o in model.graph.output]
        inputs = oracle.feeds(case, dtype, variant)
        for seed in [i for i in model.graph.input if i.name.endswith("_grad")]:
            weight = weights[int(re.fullmatch(r"y(\d+)_grad", seed.name)[1]) - absent_before(case, seed.name)]
            inputs[seed.name] = weight.astype(onnx.helper.tensor_dtype_to_np_dtype(seed.type.tensor_type.elem_type))
        at = [names.index(f"x{i}_grad") for i in case.differentiable()]
        tol = (1e-10 if dtype == "float64" else 1e-5) * case.tol
        again = Ours(case, dtype, variant, model=model)
        replay = again.run({k: oracle.to_torch(v) for k, v in inputs.items()})
        for i, w in zip(at, want, strict=True):
            assert_close(replay[i], w, tol, f"{dtype} {names[i]}, replayed")
        result = oracle.run_stock(model, inputs) if case.stock and case.allows(dtype) else None
        if result is not None:
            ran = True
            for i, w in zip(at, want, strict=True):
                assert_close(result[i], w, tol, f"{dtype} {names[i]} on the stock runtime")
    assert ran or not case.stock or oracle.too_new(model), "the stock runtime has no kernel for this gradient graph"


def absent_before(case: Case, seed: str) -> int:
    return case.wanted()[: int(seed[1:].split("_")[0])].count(False)


@rows(golden_rows())
def test_golden(case):
    model = emitted(case, first_dtype(case), "symbolic" if case.dynamic else "static")
    del model.metadata_props[:], model.graph.value_info[:]
    model.producer_version = ""
    text = onnx.printer.to_text(model) + "\n"
    path = GOLDEN / f"{case.domain + '.' if case.domain else ''}{case.op}.txt"
    if UPDATE:
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing: run with ORTMOD_UPDATE_GOLDEN=1 and look at what it writes"
    assert text == path.read_text(), (
        f"the gradient graph of {case.op} changed: run with ORTMOD_UPDATE_GOLDEN=1 and look at the difference"
    )


@rows([c for c in ROWS if c.error])
def test_error(case):
    with pytest.raises(ortmod.OrtmodError) as caught:
        ours = Ours(case, first_dtype(case))
        ours.run()
        ours.gradient(oracle.cotangents(case, [oracle.to_numpy(y) for y in ours.run()]))
    message = str(caught.value)
    assert re.match(r"\[\w+\] ", message) and case.op in message, message
    assert re.search(case.error, message), message
