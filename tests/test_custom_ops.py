"""Operators of a library for the stock onnxruntime: artifacts hold them, and train there; here they are refused by name."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from stock import StockTrainer

import ortmod
from ortmod.training import api, artifacts

MODEL = """<ir_version: 9, opset_import: ["": 18, "test": 1]>
    g (float[n, 3] x) => (float[n, 2] output) <float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, float[n, 2] %s> {
        %s
    }"""
ON_THE_WAY = MODEL % ("product", "product = MatMul (x, w)  output = test.Twice (product)")
BEFORE = MODEL.replace("float[n, 2] %s", "float[n, 3] %s") % ("seen", "seen = test.Twice (x)  output = MatMul (seen, w)")
RULE = """<ir_version: 9, opset_import: ["": 18, "test": 1]>
    rule (float[n, m] x, float[n, m] y, float[n, m] dy) => (float[n, m] dx) { dx = test.Twice (dy) }"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = next(path for name in ("cc", "gcc", "clang", "c++") if (path := shutil.which(name)))
    path = tmp_path_factory.mktemp("library") / "libtwice.so"
    source = Path(__file__).parent / "cpp" / "custom_op.c"
    subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-o", path, source], check=True)
    return path


@pytest.fixture
def rule():
    ortmod.register_gradient("test::Twice", RULE)
    yield
    ortmod.register_gradient("test::Twice", None)


def generate(text, directory, library):
    return artifacts.generate_artifacts(
        onnx.parser.parse_model(text),
        loss=artifacts.LossType.MSELoss,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=directory,
        custom_op_library=library,
    )


@pytest.mark.parametrize("text", [BEFORE, ON_THE_WAY], ids=["before the weights", "on the way of the gradient"])
def test_artifacts_train_on_the_stock_runtime_with_the_library(tmp_path, library, rule, text):
    generate(text, tmp_path, library)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    trainer = StockTrainer(tmp_path, options=options)
    random = np.random.default_rng(0)
    x, target = random.normal(size=(8, 3)).astype(np.float32), random.normal(size=(8, 2)).astype(np.float32)
    w = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], requires_grad=True)
    for _ in range(5):
        loss = torch.nn.functional.mse_loss(2 * (torch.from_numpy(x) @ w), torch.from_numpy(target))
        (gradient,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            w -= 0.05 * gradient
        assert trainer.accumulate(x=x, target=target)["loss"] == pytest.approx(loss.item(), rel=1e-5)
        trainer.step(0.05)
    np.testing.assert_allclose(trainer.parameters["w"], w.detach().numpy(), rtol=1e-5)
    with pytest.raises(ortmod.UnsupportedOpError, match="test::Twice"):  # here there is no body of it
        api.Module(str(tmp_path / "training_model.onnx"), api.CheckpointState.load_checkpoint(str(tmp_path / "checkpoint")))


def test_what_is_missing_is_said_before_anything_is_written(tmp_path, library):
    with pytest.raises(ortmod.GradientError, match="test::Twice"):
        generate(ON_THE_WAY, tmp_path / "no_rule", library)
    with pytest.raises(ortmod.UnsupportedOpError, match="test::Twice.*custom_op_library"):
        generate(ON_THE_WAY, tmp_path / "no_library", None)
    untyped = onnx.parser.parse_model(BEFORE)
    del untyped.graph.value_info[:]
    with pytest.raises(ortmod.ModelError, match='"seen".*value_info'):
        ortmod.build_gradient(untyped)
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(ortmod.ModelError, match="cannot load"):
        generate(BEFORE, tmp_path / "bad_library", text)
    assert [path.name for path in tmp_path.iterdir()] == ["text.so"]


def test_gradient_model_of_an_operator_without_a_body(rule):
    gradient = ortmod.build_gradient(onnx.parser.parse_model(ON_THE_WAY))
    assert [node.op_type for node in gradient.graph.node].count("Twice") == 2
    onnx.checker.check_model(gradient)
    with pytest.raises(ortmod.UnsupportedOpError, match="test::Twice"):
        ortmod.OnnxModule(onnx.parser.parse_model(ON_THE_WAY))
