"""The C++ package: installed, found by CMake, and training without Python as the Python runtime does."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from nets import mlp

from ortmod.training import checkpoint
from ortmod.training.api import CheckpointState, Module, Optimizer
from ortmod.training.artifacts import LossType, OptimType, generate_artifacts

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "cpp_trainer"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or not (ROOT / "build" / "cmake_install.cmake").exists(), reason="no CMake build beside the tests"
)


def command(*arguments, **options):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False, **options)


def succeeded(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp") / "installed"
    succeeded(command("cmake", "--install", ROOT / "build", "--prefix", folder))
    return folder


def built(source, installed):
    folder = installed.parent / source.name
    succeeded(command("cmake", "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={installed}"))
    succeeded(command("cmake", "--build", folder))
    return folder / source.name


@pytest.fixture(scope="module")
def trainer(installed):
    return built(EXAMPLE, installed)


@pytest.fixture(scope="module")
def api(installed):
    return built(ROOT / "tests" / "cpp" / "api", installed)


@pytest.fixture
def artifacts(tmp_path):
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLE / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare.main(tmp_path / "artifacts")
    return tmp_path / "artifacts"


def python_losses(folder, count):
    """What the example does, in Python; the state is not saved."""
    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    module = Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(0.01)
    table = np.loadtxt(folder / "digits.csv", delimiter=",", dtype=np.float32)
    x, y = table[:, 1:].copy(), table[:, 0].astype(np.int64)
    losses = []
    for step in range(count):
        rows = slice(step % (len(x) // 64) * 64, step % (len(x) // 64) * 64 + 64)
        losses.append(float(module(x[rows], y[rows])[0]))
        optimizer.step()
        module.lazy_reset_grad()
    return losses


def said_losses(text):
    return [float(value) for value in re.findall(r"step \d+ loss (\S+)", text)]


def test_it_trains_as_python_does_and_goes_on(trainer, artifacts):
    libraries = succeeded(command("ldd", trainer)) + succeeded(
        command("ldd", trainer.parents[1] / "installed/lib/libortmod_core.so")
    )
    assert "libortmod_core" in libraries and "libpython" not in libraries and "libtorch_python" not in libraries
    for count in (20, 5):
        expected = python_losses(artifacts, count)
        text = succeeded(command(trainer, artifacts, artifacts / "digits.csv", count))
        np.testing.assert_allclose(said_losses(text), expected, rtol=1e-5)
    state = checkpoint.load(artifacts / "checkpoint")
    assert state.step == 25 and state.properties == {"steps": 5} and state.learning_rate == pytest.approx(0.01)
    text = succeeded(command(trainer, artifacts, artifacts / "digits.csv", 200))
    accuracy = float(re.search(r"accuracy (\S+)", text)[1])
    assert accuracy > 0.95
    table = np.loadtxt(artifacts / "digits.csv", delimiter=",", dtype=np.float32)
    (scores,) = onnxruntime.InferenceSession(artifacts / "inference.onnx").run(None, {"pixels": table[:, 1:]})
    assert (scores.argmax(1) == table[:, 0]).mean() == pytest.approx(accuracy, abs=1e-4)


def test_checkpoints_of_both_languages_are_one_format(trainer, artifacts):
    state = checkpoint.load(artifacts / "checkpoint")
    state.properties = {"epoch": -3, "rate": 0.1, "note": 'a "quoted" α\n', "many": 2**62}
    checkpoint.save(state, artifacts / "checkpoint")
    before = {name: value.clone() for name, value in state.parameters.items()}
    succeeded(command(trainer, artifacts, artifacts / "digits.csv", 0))
    found = checkpoint.load(artifacts / "checkpoint")
    assert found.properties == {**state.properties, "steps": 0} and found.trainable == state.trainable
    assert all(torch.equal(found.parameters[name], value) for name, value in before.items())


def test_what_does_not_fit_is_said(trainer, artifacts):
    (artifacts / "checkpoint").write_bytes((artifacts / "checkpoint").read_bytes()[:-10])
    result = command(trainer, artifacts, artifacts / "digits.csv", 1)
    assert result.returncode == 1 and "cut short" in result.stderr
    shutil.copy(Path(__file__).parent / "ort_training_1_19_2" / "checkpoint", artifacts / "checkpoint")
    result = command(trainer, artifacts, artifacts / "digits.csv", 1)
    assert result.returncode == 1 and "the checkpoint has no parameter" in result.stderr
    assert command(trainer, "nowhere", artifacts / "digits.csv", 1).returncode == 1


def small_artifacts(folder, **options):
    _, model = mlp((10, 8, 3))
    names = ["0.weight", "0.bias", "2.weight"]
    generate_artifacts(model, names, ["2.bias"], LossType.CrossEntropyLoss, OptimType.AdamW, folder, **options)
    return folder


def test_checkpoints_of_onnxruntime_training_are_read_in_cpp(api):
    recorded = Path(__file__).parent / "ort_training_1_19_2"
    lines = succeeded(command(api, "sums", recorded / "checkpoint")).splitlines()
    sums = json.loads((recorded / "losses.json").read_text())["sums"]
    assert {name: pytest.approx(float(value), rel=1e-9) for name, value in map(str.split, lines)} == sums


def test_a_nominal_state_waits_for_its_values_in_cpp(api, tmp_path):
    folder = small_artifacts(tmp_path, nominal_checkpoint=True)
    text = succeeded(command(api, "nominal", folder))
    for refused in ("step: [checkpoint] the state is nominal", "parameter: [checkpoint] the state is nominal", "trainable: "):
        assert refused in text
    whole = succeeded(command(api, "steps", folder, folder / "checkpoint"))
    losses = re.findall("loss (.*)", whole)
    assert len(losses) == 5 and re.findall("loss (.*)", text) == losses
    saved = checkpoint.load(folder / "saved")
    assert saved.step == 5 and not saved.nominal and saved.trainable == ["0.weight", "0.bias", "2.weight"]
