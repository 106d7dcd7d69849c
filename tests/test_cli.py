"""python -m ortmod explain|gradient|train|artifacts."""

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

from ortmod.__main__ import main


@pytest.fixture
def path(tmp_path):
    _, model = nets.mlp()
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_explain(path, capsys):
    assert main(["explain", str(path)]) == 0
    said = capsys.readouterr().out
    assert "ai.onnx::Gemm-18" in said and "0.weight" in said and "float32[8, 10]" in said
    assert "3 nodes, 0 without a gradient; 4 of 4 weights train by default, 0 of them not reached" in said


def test_explain_unknown_operators(tmp_path, capsys):
    model = nets.parse(
        '<ir_version: 9, opset_import: ["": 18, "far": 1]> g (float[n] x) => (float[n] y) { h = Exp(x)  y = far.Away(h) }'
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["explain", str(tmp_path / "m.onnx")]) == 0
    said = capsys.readouterr().out
    assert "far::Away" in said and "unknown operator" in said and "Exp" in said


def test_gradient(path, capsys):
    assert main(["gradient", str(path)]) == 0
    written = path.with_suffix(".gradient.onnx")
    model = onnx.load(written)
    onnx.checker.check_model(model, full_check=True)
    names = [o.name for o in model.graph.output]
    assert names[0] == "y" and set(names[1:]) == {"0.weight_grad", "0.bias_grad", "2.weight_grad", "2.bias_grad"}
    said = capsys.readouterr().out
    assert "y_grad" in said and str(written) in said


def test_gradient_split_and_names(path, tmp_path, capsys):
    target = tmp_path / "out.onnx"
    assert main(["gradient", str(path), "-o", str(target), "--wrt", "x", "0.weight", "--split"]) == 0
    forward, backward = (onnx.load(tmp_path / f"out.{part}.onnx") for part in ("forward", "backward"))
    assert forward.graph.output[0].name == "y"
    assert [o.name for o in backward.graph.output] == ["x_grad", "0.weight_grad"]


def test_errors_are_one_line(path, tmp_path, capsys):
    assert main(["gradient", str(path), "--wrt", "nobody"]) == 1
    assert capsys.readouterr().err.startswith("error: [differentiate] wrt: got 'nobody'")
    assert main(["explain", str(tmp_path / "absent.onnx")]) == 1
    assert "absent.onnx" in capsys.readouterr().err


def test_train_a_converted_regressor_on_a_table(tmp_path, capsys):
    """The weights of ai.onnx.ml operators are attributes: they train, and are initializers of what is written."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 3)).astype(np.float32)
    y = X @ np.array([1.0, -2.0, 0.5], dtype=np.float32) + 0.25
    model = to_onnx(LinearRegression().fit(X, np.zeros(200)), X[:1])
    (tmp_path / "linear.onnx").write_bytes(model.SerializeToString())
    np.savetxt(tmp_path / "table.csv", np.c_[X, y], delimiter=",", header="a,b,c,y", comments="")
    np.savez(tmp_path / "table.npz", X=X, y=y)
    for table, extra in (("table.csv", []), ("table.npz", ["--optimizer", "AdamW", "--rate", "0.05"])):
        assert main(["train", str(tmp_path / "linear.onnx"), str(tmp_path / table), "--epochs", "150", *extra]) == 0
        assert "trained on 200 rows" in capsys.readouterr().out
        session = onnxruntime.InferenceSession(tmp_path / "linear.trained.onnx", providers=["CPUExecutionProvider"])
        (predicted,) = session.run(None, {session.get_inputs()[0].name: X})
        assert np.abs(predicted[:, 0] - y).max() < 0.02
    assert main(["train", str(tmp_path / "linear.onnx"), str(tmp_path / "table.csv"), "--targets", "9"]) == 1
    assert "--targets 9" in capsys.readouterr().err


def test_train_finds_wrong_arguments_before_it_trains(path, tmp_path, capsys):
    np.savez(tmp_path / "table.npz", X=np.zeros((4, 10), np.float32), y=np.zeros((4, 3), np.float32))
    np.savez(tmp_path / "texts.npz", X=np.full((4, 10), "a"), y=np.zeros(4))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    table = str(tmp_path / "table.npz")
    cases = [
        ([str(path)], "it is not text"),
        ([str(tmp_path / "broken.npz")], "is not a .npz of numbers"),
        ([str(tmp_path / "one.npz")], "one array without a name"),
        ([str(tmp_path / "texts.npz")], "got elements of type <U1, expected numbers"),
        ([table, "-o", str(tmp_path / "nowhere" / "m.onnx")], "nowhere is no folder"),
        ([table, "-o", str(tmp_path)], "is a folder"),
        ([table, "--device", "cuda:99"], "device: got 'cuda:99'"),
        ([table, "--device", "gpu"], "device: got 'gpu'"),
    ]
    for given, message in cases:
        assert main(["train", str(path), *given, "--epochs", "1000000000"]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: [") and message in said.err and "loss" not in said.out
    for given in (["--epochs", "-1"], ["--batch-size", "-1"], ["--rate", "nan"], ["--rate", "-1"], ["--targets", "0"]):
        with pytest.raises(SystemExit):
            main(["train", str(path), table, *given])
        assert "expected a" in capsys.readouterr().err


def test_artifacts(path, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--loss", "cross-entropy", "--optimizer", "adamw", "--frozen", "2.bias", "-o", str(out)]
    assert main(["artifacts", str(path), *given]) == 0
    said = capsys.readouterr().out
    assert "training_model.onnx" in said and "named in frozen_params" in said and "float32[8, 10]" in said
    names = ["checkpoint", "eval_model.onnx", "optimizer_model.onnx", "training_model.onnx"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert main(["artifacts", str(path), "--requires-grad", "nope", "--loss", "mse", "-o", str(tmp_path / "none")]) == 1
    assert "nope" in capsys.readouterr().err and not (tmp_path / "none").exists()
