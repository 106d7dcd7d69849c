"""Compiled programs and chains of small steps give what the interpreter gives, in every width of vectors."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ortmod import _C

HERE = Path(__file__).resolve().parent
LEVELS = {"avx512": ("avx2", ""), "avx2": ("",), "off": ()}  # by what the machine does of its own accord


def run(level: str, path: Path) -> dict[str, np.ndarray]:
    subprocess.run([sys.executable, __file__, str(path)], env={**os.environ, "ORTMOD_JIT": level}, check=True, cwd=HERE)
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return run("off", tmp_path_factory.mktemp("off") / "values.npz")


@pytest.mark.parametrize("level", LEVELS[_C.machine_code()])
def test_equal_to_the_interpreter(level, interpreted, tmp_path):
    compiled = run(level, tmp_path / "values.npz")
    assert compiled.keys() == interpreted.keys()
    assert compiled["machine code"] != "off" and interpreted["machine code"] == "off"
    assert int(compiled["chained steps"]) > 50 and int(interpreted["chained steps"]) == 0
    for name, value in interpreted.items():
        if value.dtype.kind != "f":
            continue
        tolerance = 2e-5 if value.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(compiled[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


OPS = (
    "Add Sub Mul Div Max Min PRelu Pow2 Pow3 Sqrt Abs Neg Sign Reciprocal Floor Ceil Round Relu LeakyRelu ThresholdedRelu "
    "HardSigmoid HardSwish Softsign Exp Sigmoid Tanh Erf Gelu GeluTanh Less GreaterOrEqual EqualWhere NotAnd IsNaN Cast"
).split()
TEXT = {
    "Pow2": "v = Pow(x, two)",
    "Pow3": "v = Pow(x, three)",
    "Sqrt": "a = Abs(x) v = Sqrt(a)",
    "Gelu": "v = Gelu(x)",
    "GeluTanh": 'v = Gelu <approximate = "tanh"> (x)',
    "Less": "p = Less(x, y) v = Where(p, x, s)",
    "GreaterOrEqual": "p = GreaterOrEqual(x, s) v = Where(p, y, x)",
    "EqualWhere": "r = Round(x) p = Equal(r, y) v = Where(p, s, x)",
    "NotAnd": "p = Less(x, y) q = Greater(x, s) n = Not(q) o = And(p, n) e = Xor(o, q) v = Where(e, x, y)",
    "IsNaN": "n = Div(zero, zero) m = Where(flags, n, x) p = IsNaN(m) v = Where(p, y, m)",
    "Cast": "p = Less(x, y) c = Cast <to = {to}> (p) v = Mul(c, x)",
}


def programs(kind):
    """Values of programs of every operator, on spaces around the width of a vector, with broadcast operands."""
    import onnx
    import torch

    import ortmod

    t, to = ("float", 1) if kind is np.float32 else ("double", 11)
    for op in OPS:
        line = TEXT.get(op) or (f"v = {op}(x, y)" if op in "Add Sub Mul Div Max Min PRelu".split() else f"v = {op}(x)")
        text = (
            f'<ir_version: 10, opset_import: ["": 20]> g ({t}[R, C] x, {t}[R, C] y, {t} s, bool[R, C] flags)'
            f" => ({t}[R, C] z, {t}[R, C] v) {{ two = Constant <value = {t} {{2}}> () three = Constant <value = {t} {{3}}> ()"
            f" zero = Constant <value = {t} {{0}}> () {line.format(to=to)} w = Mul(v, s) h = Sub(w, y) z = Max(h, x) }}"
        )
        module = ortmod.OnnxModule(onnx.parser.parse_model(text), trainable=[])
        random = np.random.default_rng(0)
        for rows, columns in ((1, 1), (1, 7), (3, 16), (2, 33), (5, 700)):
            x, y = (torch.from_numpy(random.normal(size=(rows, columns)).astype(kind)) for _ in range(2))
            flags = torch.from_numpy(random.random(size=(rows, columns)) < 0.5)
            for name, value in zip("zv", module(x, y, torch.tensor(0.7, dtype=x.dtype), flags), strict=True):
                yield f"{op} {t} {rows}x{columns} {name}", value.numpy()


def fits(kind):
    """Weights after fits of small networks, most of whose steps are chained."""
    import onnx
    import torch

    from ortmod.training import LearningRateAdamW, LearningRateSGDNesterov, OrtGradientForwardBackwardOptimizer, SquareLearningLoss

    t = "float" if kind is np.float32 else "double"
    for inputs, outputs, batch, last in [
        (1, 1, 1, ""), (10, 1, 1, "Tanh"), (11, 2, 1, "Sigmoid"), (7, 3, 1, "Relu"), (20, 4, 1, "Tanh"), (33, 5, 2, ""),
        (64, 1, 3, "Exp"), (9, 8, 1, "Softsign"), (3, 17, 1, "Tanh"),
    ]:  # fmt: skip
        random = np.random.default_rng(inputs)
        graph = f"p = MatMul(X, w) q = Add(p, b) Y = {last or 'Identity'}(q)"
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 18]> g ({t}[N, {inputs}] X) => ({t}[N, {outputs}] Y) {{ {graph} }}'
        )
        for name, shape in (("w", (inputs, outputs)), ("b", (outputs,))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(0.1 * random.normal(size=shape).astype(kind), name))
        X, y = random.normal(size=(12, inputs)).astype(kind), random.normal(size=(12, outputs)).astype(kind)
        for rate in (LearningRateSGDNesterov(0.01, learning_rate="constant"), LearningRateAdamW(0.01)):
            fit = OrtGradientForwardBackwardOptimizer(
                model, ["w", "b"], learning_rate=rate, learning_loss=SquareLearningLoss(), batch_size=batch, max_iter=5,
                init="model", random_state=0,
            ).fit(X, y)  # fmt: skip
            for name, value in fit.trained_coef_.items():
                yield f"{inputs}-{outputs} batch {batch} {last} {type(rate).__name__} {t} {name}", np.asarray(value)
            yield "", sum(name.count(" + ") for name, _ in fit._engine_.trainer.steps)
    torch.set_num_threads(1)


def main(path: str) -> None:
    values: dict[str, np.ndarray] = {"machine code": np.array(_C.machine_code())}
    chained = 0
    for kind in (np.float32, np.float64):
        values.update(programs(kind))
        for name, value in fits(kind):
            if name:
                values[name] = value
            else:
                chained += value
    values["chained steps"] = np.array(chained)
    np.savez(path, **values)


if __name__ == "__main__":
    main(sys.argv[1])
