"""The benchmarks run and compare what they time; no figure is asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SPINE = BENCHMARKS / "spine.py"


@pytest.mark.parametrize("case", ["linear", "cnn"])
def test_steps(case):
    command = [sys.executable, str(SPINE), "--suite", "steps", "--only", case, "--no-record", "--threads", "1"]
    command += ["--repetitions", "2", "--seconds", "0.001"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for contender in ("torch eager", "ortmod"):
        assert contender in result.stdout


def test_artifacts():
    command = [sys.executable, str(BENCHMARKS / "artifacts.py"), "--only", "20-100-1", "--without", "ort", "--no-record"]
    result = subprocess.run([*command, "--repetitions", "2", "--seconds", "0.001"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for contender in ("torch eager", "ortmod", "our artifacts on onnxruntime"):
        assert f"  {contender}  " in result.stdout, result.stdout


@pytest.fixture
def modules(monkeypatch):
    """Imports modules of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def tasks(modules):
    return {task.name: task for suite in ("bounds", "documents") for _, task in modules("training").tasks(suite)}


def test_suites_have_every_row_with_its_variants(modules):
    names = list(tasks(modules))
    assert len(names) == len(set(names)) == 9 + 9 + 3
    for start in ("linear, 10 features, batch 16", "linear, 10 features, batch 1,", "binary logistic"):
        ends = {name.partition(": ")[2] for name in names if name.startswith(start)}
        assert ends == {"", "11 features", "Tanh after the layer", "two outputs"}


def test_the_validation_loss_is_that_of_the_network(modules):
    for name, task in tasks(modules).items():
        onnx.checker.check_model(task.model())
        scores = onnx.reference.ReferenceEvaluator(task.model()).run(None, {"X": task.X_val})[0].astype(np.float64)
        if task.loss == "mse":
            expected = np.mean((scores - task.y_val) ** 2)
        elif task.loss == "bce":
            p = 1 / (1 + np.exp(-scores))
            expected = -np.mean(task.y_val * np.log(p) + (1 - task.y_val) * np.log(1 - p))
        else:
            p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            expected = -np.mean(np.log(p[np.arange(len(p)), task.y_val]))
        assert task.validation_loss(task.weights) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize(
    "name",
    [
        "linear, 10 features, batch 16, SGD: two outputs",
        "binary logistic, 100 features, batch 16, SGD: Tanh after the layer",
        "MLP 20-10-10-1, batch 16, Nesterov",
        "digits 64-100-10, batch 32, Nesterov",
    ],
)
def test_peers_take_the_same_way(modules, name):
    """Batches of unequal size and all, every peer of these tasks ends where ours does, and one with another rate does not."""
    training, replace = modules("training"), modules("dataclasses").replace
    task = replace(tasks(modules)[name], rows=330, epochs=2)
    peers = {peer: modules("peers").find(peer)(task, 1) for peer in ["ortmod", *task.peers, "torch fused"] if "onnx" not in peer}
    target = training.loss_after(peers["ortmod"], 2)
    assert target < 0.98 * task.validation_loss(task.weights)
    for peer, contender in peers.items():
        training.checked(peer, contender, peers["ortmod"], target)
    other = modules("peers.pytorch").Eager(replace(task, rate=task.rate / 2), 1)
    with pytest.raises(SystemExit, match="nothing to measure"):
        training.checked("torch eager", other, peers["ortmod"], target)


def test_onnxruntime_training_takes_the_same_way(modules):
    ort, training = modules("peers.ort"), modules("training")
    if not (ort.VENV / "made").exists():
        pytest.skip("its environment is made by benchmarks/training.py")
    task = modules("dataclasses").replace(tasks(modules)["MLP 20-10-10-1, batch 16, AdamW"], rows=330)
    ours, peer = modules("peers.ours").Ortmod(task, 1), ort.OnnxRuntime(task, 1)
    try:
        assert training.loss_after(peer, 2) == pytest.approx(training.loss_after(ours, 2), rel=1e-3)
    finally:
        peer.close()


def test_a_missing_peer_is_left_out(modules, tmp_path, monkeypatch, capsys):
    ort, training = modules("peers.ort"), modules("training")
    monkeypatch.setattr(ort, "VENV", tmp_path / "nothing")
    monkeypatch.setattr(ort, "which", lambda name: None)
    monkeypatch.setattr(modules("record"), "HERE", tmp_path)
    only = ["--suite", "documents", "--only", "1000 x 10,", "--threads", "1", "--repetitions", "2", "--seconds", "0.001"]
    monkeypatch.setattr(sys, "argv", ["training.py", *only])
    training.main()
    shown = capsys.readouterr().out
    assert shown.count("left out: onnxruntime-training needs Python 3.9 to 3.11: found none") == 1
    rows = json.loads((tmp_path / "results" / "training.jsonl").read_text())["rows"]
    assert {row["contender"] for row in rows} == {"ortmod", "SGDRegressor", "torch eager"}


def test_slopes_leave_out_what_does_not_grow(modules):
    measure = modules("measure")
    fits = {
        name: measure.Fit(lambda epochs, cost=cost: 0.5 + cost * 20 * epochs, 3, 20) for name, cost in (("a", 0.01), ("b", 0.04))
    }
    found = measure.slopes(fits, 3, 0.1)
    assert found["a"].microseconds == pytest.approx(1e4) and found["b"].microseconds == pytest.approx(4e4)
    assert found["b"].ratio == pytest.approx(0.25) and found["b"].fixed_ms == pytest.approx(500)
    assert found["b"].short_ms == pytest.approx(1e3 * (0.5 + 0.04 * 60))


def test_training_is_measured_and_drawn(modules, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modules("record"), "HERE", tmp_path)
    settings = ["--threads", "1", "--repetitions", "2", "--seconds", "0.001", "--without", "onnxruntime-training"]
    only = "1000 x 10, linear, batch 10"
    monkeypatch.setattr(sys, "argv", ["training.py", "--suite", "documents", "--only", only, *settings])
    modules("training").main()
    results = tmp_path / "results" / "training.jsonl"
    run = json.loads(results.read_text())
    assert [row["contender"] for row in run["rows"]] == ["ortmod", "SGDRegressor", "torch eager"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--minutes", "-1"])
    modules("training").main()
    assert "left out, -1 minutes are over" in capsys.readouterr().out and len(results.read_text().splitlines()) == 1
    assert run["machine"]["torch"] and all(np.isfinite(row["microseconds"]) for row in run["rows"])
    for row in run["rows"]:
        row.update(microseconds=2.5, ratio=0.5, bound=0.4 if row["contender"] == "SGDRegressor" else None)
    results.write_text(json.dumps(run) + "\n")

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- training table -->\nold\n<!-- end -->\n<!-- training summary -->\n<!-- end -->\nafter\n")
    modules("draw").main(["--results", str(results), "--out", str(tmp_path), "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| SGDRegressor | 0.4 | 2.5 | **0.5**, at most 0.4: missed |" in text
    assert "| 1000 x 10, linear, batch 10, SGD | 2.5 us | SGDRegressor 2.5 us, torch eager 2.5 us |" in text
    assert "bounds missed: 1000 x 10, linear, batch 10, SGD, 1 threads: 0.5 of SGDRegressor" in capsys.readouterr().out
    for picture in ("training_steps.png", "training_fits.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
