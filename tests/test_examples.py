"""The examples run, and what they show is true."""

import importlib.util
from pathlib import Path

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


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_has_a_test(path):
    assert f"test_{path.stem}" in globals()
