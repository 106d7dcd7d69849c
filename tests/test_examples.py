"""The examples run, and what they show is true."""

import importlib.util
from pathlib import Path

import matplotlib.image
import numpy as np
import onnxruntime
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart(tmp_path, capsys):
    histories, difference = load("quickstart").main(["--epochs", "4", "--out", str(tmp_path)])
    ours = histories["ortmod"]
    assert len(ours["loss"]) == 5 and len(ours["seconds"]) == 4
    assert ours["loss"][-1] < 0.5 * ours["loss"][0]
    assert ours["accuracy"][-1] > ours["accuracy"][0] + 0.1
    for peer in ("torch eager", "scikit-learn"):
        np.testing.assert_allclose(ours["loss"], histories[peer]["loss"], rtol=1e-3)
    assert difference <= 1e-5
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("ortmod", "torch eager", "scikit-learn", "accuracy before", "ms/epoch"))
    assert (tmp_path / "quickstart.png").read_bytes().startswith(b"\x89PNG")

    session = onnxruntime.InferenceSession(tmp_path / "trained.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 7):
        pixels = {session.get_inputs()[0].name: np.zeros((rows, 64), np.float32)}
        assert session.run(None, pixels)[0].shape == (rows, 10)


def run(name, out, *arguments):
    """What the example returns; its picture must be there, and something on it."""
    found = load(name).main([*arguments, "--out", str(out)])
    picture = matplotlib.image.imread(out / f"{name}.png")
    assert picture.shape[0] >= 400 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
    return found


def test_linear_regression_full(tmp_path, device="cpu"):
    losses, difference = run("linear_regression_full", tmp_path, "--epochs", "30", "--device", device)
    assert len(losses) == 30 and losses[-1] < 1e-2 * losses[0] and difference < 1e-2
    session = onnxruntime.InferenceSession(tmp_path / "linear_regression_full.onnx", providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["variable"]
    assert session.run(None, {"X": np.ones((3, 10), np.float32)})[0].shape == (3, 1)


def test_linear_regression_partial(tmp_path, device="cpu"):
    trained = run("linear_regression_partial", tmp_path, "--epochs", "60", "--device", device)
    slopes = {name: float(trainer.get_state()[0].item()) for name, trainer in trained.items()}
    assert slopes["squared"] < 1.4  # the outliers pull it down from 2
    assert slopes["absolute"] > 1.7 and slopes["Huber, delta 0.5"] > 1.6


def test_linear_regression_raw(tmp_path, device="cpu"):
    losses, weights = run("linear_regression_raw", tmp_path, "--device", device)
    assert np.mean(losses[-10:]) < 0.02 * np.mean(losses[:10])
    np.testing.assert_allclose(weights, [0.5, -0.8, 0.3], atol=0.03)


def test_neural_network(tmp_path):
    trainer, difference = run("neural_network", tmp_path, "--epochs", "60")
    assert min(trainer.validation_losses_) < 0.1 * trainer.validation_losses_[0]
    assert difference < 1e-5


def test_nesterov_elastic(tmp_path):
    losses, errors, coefs = run("nesterov_elastic", tmp_path, "--epochs", "40")
    assert losses["Nesterov"][-1] < 0.5 * losses["SGD"][-1]
    assert errors["Nesterov, elastic penalty"][-1] < errors["Nesterov"][-1] < errors["SGD"][-1]
    small = {name: int((np.abs(coef) < 0.02).sum()) for name, coef in coefs.items()}
    assert small["Nesterov, elastic penalty"] > 20 > small["Nesterov"]


def test_binary_classification(tmp_path):
    losses, recalls = run("binary_classification", tmp_path, "--epochs", "60")
    assert all(curve[-1] < 0.8 * curve[0] for curve in losses.values())
    assert min(recalls) > 0.8


def test_multiclass_classification(tmp_path):
    losses, accuracy = run("multiclass_classification", tmp_path, "--epochs", "5")
    assert losses[-1] < 0.3 * losses[0] and accuracy > 0.85


def test_custom_loss(tmp_path):
    shares = run("custom_loss", tmp_path, "--epochs", "40")
    for quantile, share in shares.items():
        assert share == pytest.approx(quantile, abs=0.05)


def test_ortmodule_training(tmp_path):
    found = run("ortmodule_training", tmp_path, "--epochs", "3")
    assert [len(losses) for losses, *_ in found.values()] == [30, 120]
    for losses, _, _, _, difference in found.values():
        assert losses[-1] < losses[0] and difference < 1e-3


def test_benchmark_scikit_learn(tmp_path):
    found = run("benchmark_scikit_learn", tmp_path, "--epochs", "8")
    assert list(found) == ["linear", "network (50, 10)"]
    for kinds in found.values():
        expected, _ = kinds.pop("scikit-learn")
        assert len(expected) == 8 and expected[-1] < 0.5 * expected[0] and len(kinds) == 2
        for losses, _ in kinds.values():
            np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_fine_tune_pipeline(tmp_path):
    history, same = run("fine_tune_pipeline", tmp_path, "--epochs", "5")
    assert len(history) == 6 and same == 1
    assert history[0][1] < 0.3 and history[-1][1] > 0.6 and history[-1][0] > 0.85
    session = onnxruntime.InferenceSession(tmp_path / "fine_tuned.onnx", providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["scores", "label", "probabilities"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_a_test(path):
    assert f"test_{path.stem}" in globals()
