"""The documentation is true: the operator table is the code's, links lead somewhere, Python examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ortmod

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_the_operator_table_is_the_codes():
    command = [sys.executable, str(ROOT / "tools" / "write_operators.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_parse(page):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        ast.parse(block)


X4, LABELS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
TEXTS = {
    "regression": """<ir_version: 8, opset_import: ["" : 18]>
        regression (float[n, 4] X, float[4, 1] coef, float[1] intercept) => (float[n, 1] Y) {
            product = MatMul(X, coef)
            Y = Add(product, intercept)
        }""",
    "classes": """<ir_version: 8, opset_import: ["" : 18]>
        classes (float[n, 4] x, float[4, 3] weight1, float[3] bias1, float[3, 3] weight2) => (float[n, 3] output) {
            product = MatMul(x, weight1)
            hidden = Add(product, bias1)
            positive = Relu(hidden)
            output = MatMul(positive, weight2)
        }""",
    "features": """<ir_version: 8, opset_import: ["" : 18]>
        features (float[n, 4] x, float[4, 50] weight) => (float[n, 50] h) { h = MatMul(x, weight) }""",
}


def model_of(text):
    """All inputs but the first are weights, and drawn."""
    model = onnx.parser.parse_model(TEXTS[text])
    rng = np.random.default_rng(1)
    for info in list(model.graph.input)[1:]:
        sizes = [d.dim_value for d in info.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=sizes).astype(np.float32), info.name))
        model.graph.input.remove(info)
    return model


def named():
    """A model with the names of the page on weights."""
    model = model_of("classes")
    new = {"weight1": "embeddings.weight", "bias1": "encoder.bias", "weight2": "head.weight"}
    for weight in model.graph.initializer:
        weight.name = new[weight.name]
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    return model


def placeholders(page):
    """What the examples of a page take from their reader."""
    tensors = [(torch.from_numpy(X4), torch.from_numpy(LABELS))]
    y = X4.sum(1, keepdims=True)
    column = {"X": X4, "y": y, "sample_weight": np.ones(30, np.float32), "X_val": X4, "y_val": y}
    column |= {"coef": np.ones((4, 1), np.float32), "intercept": np.ones(1, np.float32)}
    return {
        "README.md": ({"features.onnx": "features", "regression.onnx": "regression"}, {"batches": tensors, **column}),
        "coming-from-onnxruntime-training.md": ({"model.onnx": "classes"}, {"batches": [(X4, LABELS)]}),
        "estimators.md": ({}, {"fitted_pipeline": make_pipeline(StandardScaler(), Ridge()).fit(X4[:, :2], LABELS)}),
        "getting-started.md": ({"model.onnx": "classes"}, {"x": tensors[0][0], "torch_module": torch.nn.Linear(4, 3)}),
        "gradient-models.md": ({"model.onnx": "regression"}, {"onnx": onnx, "ortmod": ortmod}),
        "training.md": ({"model.onnx": "regression"}, column),
        "which-tensors-train.md": ({}, {"ortmod": ortmod, "model": named()}),
    }.get(page, ({}, {}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=lambda page: page.name
)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """Block after block, in one namespace; not those that leave something out (...)."""
    monkeypatch.chdir(tmp_path)
    files, names = placeholders(page.name)
    for name, text in files.items():
        onnx.save(model_of(text), name)
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        if "..." not in block:
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
