"""Artifacts: the documents' samples, names and order, what is written, bad input."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import exported, mlp, parse
from stock import StockTrainer
from test_artifacts_training import WEIGHTS, AdamW, Convolutional, compare
from torch import nn

from ortmod import GradientError, ModelError, OrtmodError
from ortmod.training import artifacts, checkpoint, onnxblock
from ortmod.training.api import CheckpointState, Module
from ortmod.training.artifacts import LossType, OptimType, generate_artifacts
from ortmod.training.onnxblock._training import rename


def two_outputs():
    g = torch.Generator().manual_seed(3)
    shapes = {"weight1": (4, 3), "bias1": (3,), "weight2": (4, 2), "bias2": (2,), "weight3": (4, 4), "bias3": (4,)}
    weights = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x) => (float[N, 3] output1, float[N, 2] output2) {
        hidden = Gemm(x, weight3, bias3)
        active = Tanh(hidden)
        output1 = Gemm(active, weight1, bias1)
        output2 = Gemm(active, weight2, bias2)
    }""",
        **weights,
    )
    return model, weights


def test_the_first_sample_of_the_documents(tmp_path, monkeypatch):
    base_model, _ = two_outputs()
    del base_model.graph.output[1], base_model.graph.node[3]
    onnx.save(base_model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    script = """
from ortmod.training import artifacts
model_path = "model.onnx"
base_model = onnx.load(model_path)
requires_grad = ["weight1", "bias1"]
frozen_params = ["weight3", "bias3"]
artifacts.generate_artifacts(base_model, requires_grad = requires_grad, frozen_params = frozen_params,
                             loss = artifacts.LossType.CrossEntropyLoss, optimizer = artifacts.OptimType.AdamW)
"""
    exec(script, {"onnx": onnx})
    assert sorted(os.listdir()) == ["checkpoint", "eval_model.onnx", "model.onnx", "optimizer_model.onnx", "training_model.onnx"]
    trainer = StockTrainer(tmp_path)
    feeds = {"x": np.random.randn(8, 4).astype(np.float32), "labels": np.arange(8) % 3}
    losses = [trainer.fit_step(0.05, **feeds) for _ in range(50)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_custom_loss_of_the_documents(tmp_path, monkeypatch):
    base, weights = two_outputs()
    onnx.save(base, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    script = """
import onnx
import ortmod.training.onnxblock as onnxblock
from ortmod.training import artifacts

# Define a custom loss block that takes in two inputs
# and performs a weighted average of the losses from these
# two inputs.
class WeightedAverageLoss(onnxblock.Block):
    def __init__(self):
        self._loss1 = onnxblock.loss.MSELoss()
        self._loss2 = onnxblock.loss.MSELoss()
        self._w1 = onnxblock.blocks.Constant(0.4)
        self._w2 = onnxblock.blocks.Constant(0.6)
        self._add = onnxblock.blocks.Add()
        self._mul = onnxblock.blocks.Mul()

    def build(self, loss_input_name1, loss_input_name2):
        # The build method defines how the block should be stacked on top of
        # loss_input_name1 and loss_input_name2

        # Returns weighted average of the two losses
        return self._add(
            self._mul(self._w1(), self._loss1(loss_input_name1, target_name="target1")),
            self._mul(self._w2(), self._loss2(loss_input_name2, target_name="target2"))
        )

my_custom_loss = WeightedAverageLoss()

# Load the onnx model
model_path = "model.onnx"
base_model = onnx.load(model_path)

# Define the parameters that need their gradient computed
requires_grad = ["weight1", "bias1", "weight2", "bias2"]
frozen_params = ["weight3", "bias3"]

# Now, we can invoke generate_artifacts with this custom loss function
artifacts.generate_artifacts(base_model, requires_grad = requires_grad, frozen_params = frozen_params,
                            loss = my_custom_loss, optimizer = artifacts.OptimType.AdamW)
"""
    exec(script, {})
    parameters = {name: nn.Parameter(value.clone(), name[-1] != "3") for name, value in weights.items()}
    module = nn.ParameterDict(parameters)
    x, t1, t2 = torch.randn(8, 4), torch.randn(8, 3), torch.randn(8, 2)

    def loss():
        h = torch.tanh(x @ module["weight3"] + module["bias3"])
        first = nn.functional.mse_loss(h @ module["weight1"] + module["bias1"], t1)
        return 0.4 * first + 0.6 * nn.functional.mse_loss(h @ module["weight2"] + module["bias2"], t2)

    optimizer = torch.optim.AdamW([p for p in module.values() if p.requires_grad], lr=0.01, eps=1e-6, weight_decay=0)
    inputs = {"x": x.numpy(), "target1": t1.numpy(), "target2": t2.numpy()}
    compare(tmp_path, module, optimizer, loss, inputs, 0.01)


def test_the_page_for_those_who_come_from_onnxruntime_training_is_true(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "coming-from-onnxruntime-training.md").read_text(encoding="utf-8")
    generate, with_api, with_sessions = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    _, model = mlp((4, 6, 3))
    for old, new in (("0.weight", "weight1"), ("0.bias", "bias1"), ("2.weight", "weight2"), ("y", "output")):
        rename(model.graph, old, new)
    onnx.save(model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    exec(generate, {})
    batches = [(np.random.randn(8, 4).astype(np.float32), np.arange(8) % 3)] * 30
    names = {"batches": batches}
    exec(with_sessions, names)
    first = names["loss"]
    exec(
        with_api.replace("warmup_step_count=10, total_step_count=1000", "warmup_step_count=0, total_step_count=10**9").replace(
            '["output"]', '["loss"]'
        ),
        names,
    )
    assert names["loss"] == pytest.approx(float(first), rel=1e-5)
    assert onnx.load("inference.onnx").graph.output[0].name == "loss"


def test_inputs_and_outputs_are_in_the_order_of_onnxruntime(tmp_path):
    _, model = mlp()
    generate_artifacts(
        model, ["2.weight", "0.weight"], ["0.bias"], LossType.MSELoss, OptimType.AdamW, tmp_path, additional_output_names=["h0"]
    )
    training = onnx.load(tmp_path / "training_model.onnx")
    parameters = ["0.weight", "0.bias", "2.weight"]
    buffers = [f"{n}_grad.accumulation.buffer" for n in ("0.weight", "2.weight")]
    assert [v.name for v in training.graph.input] == ["x", "target", *parameters, *buffers, "lazy_reset_grad"]
    outs = [f"{n}_grad.accumulation.out" for n in ("0.weight", "2.weight")]
    assert [v.name for v in training.graph.output] == ["loss", "h0", *outs]
    evaluation = onnx.load(tmp_path / "eval_model.onnx")
    assert [v.name for v in evaluation.graph.input] == ["x", "target", *parameters]
    assert [v.name for v in evaluation.graph.output] == ["loss", "h0"]
    update = onnx.load(tmp_path / "optimizer_model.onnx")
    states = ["first_order_moments", "second_order_moments"]
    assert [v.name for v in update.graph.input] == ["learning_rate", "step", "params", "gradients", *states]
    assert [v.name for v in update.graph.output] == ["updated_params", *(f"updated_{s}" for s in states)]
    for part in (training, evaluation, update):
        onnx.checker.check_model(part, full_check=True)
        assert part.ir_version == model.ir_version
        assert [(o.domain, o.version) for o in part.opset_import] == [("", 18)]
        assert not part.functions and {node.domain for node in part.graph.node} == {""}


def test_the_files_do_not_depend_on_what_was_built_before(tmp_path):
    _, model = mlp()
    for name in ("a", "b"):
        generate_artifacts(model, WEIGHTS, None, LossType.CrossEntropyLoss, OptimType.SGD, tmp_path / name)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_optional_outputs_need_not_be_declared(tmp_path):
    model = parse(
        """<ir_version: 9, opset_import: ["" : 17]> net (float[N, 4] x, int64[N] t) => (float loss) {
        h = MatMul(x, w)
        n = LayerNormalization(h, scale)
        loss = SoftmaxCrossEntropyLoss(n, t)
    }""",
        w=torch.randn(4, 3),
        scale=torch.ones(3),
    )
    generate_artifacts(model, ["w", "scale"], None, None, OptimType.SGD, tmp_path)
    trainer = StockTrainer(tmp_path)
    feeds = {"x": np.random.randn(6, 4).astype(np.float32), "t": np.arange(6) % 3}
    losses = [trainer.fit_step(0.5, **feeds) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_a_path_with_external_data_a_prefix_and_a_nominal_checkpoint(tmp_path):
    _, model = mlp((100, 80, 3))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    out = tmp_path / "made" / "here"
    report = generate_artifacts(
        str(path), None, None, LossType.CrossEntropyLoss, OptimType.AdamW, out, prefix="my_", nominal_checkpoint=True
    )
    assert sorted(os.listdir(out)) == [
        "my_checkpoint",
        "my_eval_model.onnx",
        "my_nominal_checkpoint",
        "my_optimizer_model.onnx",
        "my_training_model.onnx",
    ]
    assert sorted(report.files) == sorted(out / name for name in os.listdir(out))
    assert "0.weight" in str(report)
    nominal = checkpoint.load(out / "my_nominal_checkpoint")
    full = checkpoint.load(out / "my_checkpoint")
    assert nominal.nominal and not full.nominal
    assert nominal.trainable == full.trainable == WEIGHTS
    trainer = StockTrainer(out, "my_")
    feeds = {"x": np.random.randn(8, 100).astype(np.float32), "labels": np.arange(8) % 3}
    assert trainer.fit_step(0.01, **feeds) > trainer.fit_step(0.01, **feeds)


def test_ort_format_adds_files(tmp_path):
    _, model = mlp()
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, None, tmp_path, ort_format=True)
    assert {"training_model.onnx", "training_model.ort", "eval_model.ort"} <= set(os.listdir(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "eval_model.ort")
    assert [i.name for i in session.get_inputs()][:2] == ["x", "target"]


def scalar_model():
    return parse('<ir_version: 8, opset_import: ["" : 17]> m (float[2] x) => (float[2] y) { y = Mul(x, w) }', w=torch.ones(2))


def chain(x="x", h="h", loss_of="y"):
    """y = tanh(x w), z = y v; the outputs are y and z, `loss_of` the first of them."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3] {x}) => (float[N, 3] y, float[N, 3] z) {{
            h = MatMul({x}, w)
            y = Tanh(h)
            z = MatMul(y, v)
        }}""",
        w=torch.ones(3, 3),
        v=torch.ones(3, 3),
    )
    rename(model.graph, "h", h)
    return {"model": model, "requires_grad": None, "loss": LossType.MSELoss, "loss_input_names": [loss_of]}


class Returning(onnxblock.Block):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def build(self, *_):
        return self.result


def with_unused(model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "unused"))
    return model


BAD = {
    "model of another kind": (lambda: {"model": 3}, RuntimeError, "string or an ONNX ModelProto"),
    "no such file": (lambda: {"model": "nowhere.onnx"}, RuntimeError, "no file nowhere.onnx"),
    "unknown parameter": (
        lambda: {"requires_grad": ["0.wieght"]},
        RuntimeError,
        'no parameter "0.wieght"; did you mean "0.weight"',
    ),
    "unknown frozen parameter": (lambda: {"frozen_params": ["1.weight"]}, RuntimeError, 'no parameter "1.weight"'),
    "both": (lambda: {"frozen_params": ["0.weight"]}, RuntimeError, "cannot be frozen and require gradient"),
    "an input": (lambda: {"requires_grad": ["x"]}, RuntimeError, "is an input of the model"),
    "nothing": (lambda: {"requires_grad": []}, GradientError, "nothing to train"),
    "nothing, all frozen": (lambda: {"requires_grad": [], "frozen_params": WEIGHTS}, GradientError, "nothing to train"),
    "a string": (lambda: {"requires_grad": "0.weight"}, RuntimeError, "expected a list"),
    "unused": (lambda: {"model": with_unused(mlp()[1]), "requires_grad": ["unused"]}, GradientError, "unused"),
    "loss of another kind": (lambda: {"loss": "mse"}, RuntimeError, "Unknown loss provided"),
    "optimizer of another kind": (lambda: {"optimizer": "adam"}, RuntimeError, "Unknown optimizer provided"),
    "optimizer, as TypeError": (lambda: {"optimizer": "adam"}, TypeError, "Unknown optimizer provided"),
    "additional outputs": (lambda: {"additional_output_names": "h0"}, RuntimeError, "Expected a list of strings"),
    "unknown output": (lambda: {"additional_output_names": ["h7"]}, LookupError, 'The provided name "h7".*did you mean.*"h0"'),
    "unknown loss input": (lambda: {"loss_input_names": ["q"]}, LookupError, '"q"'),
    "custom operators": (lambda: {"custom_op_library": "nowhere.so"}, RuntimeError, "nowhere.so does not exist"),
    "two outputs": (
        lambda: {"model": two_outputs()[0], "requires_grad": ["weight1"], "loss": LossType.MSELoss},
        RuntimeError,
        "loss_input_names",
    ),
    "no loss": (lambda: {"loss": None}, GradientError, "must be one number"),
    "vector without a loss": (
        lambda: {"model": scalar_model(), "requires_grad": ["w"], "loss": None},
        GradientError,
        "must be one number",
    ),
    "default, all frozen": (
        lambda: {"requires_grad": None, "frozen_params": WEIGHTS},
        GradientError,
        "frozen_params names all parameters that train by default .*leave one out",
    ),
    "out of reach": (
        lambda: {**chain(), "requires_grad": ["w", "v"]},
        GradientError,
        'no gradient of the loss "loss" reaches "v": no path; take it out of requires_grad, or name it in frozen_params',
    ),
    "nothing in reach": (lambda: {**chain(), "frozen_params": ["w"]}, GradientError, 'nothing to train.*"v": no path'),
    "name of an input": (lambda: chain(x="lazy_reset_grad"), RuntimeError, '"lazy_reset_grad", a name that training models give'),
    "name of a buffer": (lambda: chain(h="w_grad.accumulation.buffer"), RuntimeError, '"w_grad.accumulation.buffer", a name'),
    "name of the target": (lambda: chain(h="target"), RuntimeError, "computes a value of that name; rename .* or give a Block"),
    "name from a block": (
        lambda: {"loss": Returning("nonsense")},
        LookupError,
        'Returning.build returned "nonsense", which is no value of the model; known are',
    ),
    "nothing from a block": (lambda: {"loss": Returning(None)}, RuntimeError, "Returning.build returned None, expected the name"),
    "opset": (lambda: {"opset": "newest"}, RuntimeError, "opset: got 'newest'"),
    "a group": (
        lambda: {"optimizer": AdamW(groups=[{"params": "9.*"}])},
        RuntimeError,
        "no trainable parameter is named in the group",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, kind, message = BAD[case]
    defaults = {
        "model": mlp()[1],
        "requires_grad": ["0.weight"],
        "loss": LossType.MSELoss,
        "optimizer": OptimType.AdamW,
        "artifact_directory": tmp_path / "out",
    }
    with pytest.raises(kind, match=message) as found:
        generate_artifacts(**{**defaults, **made()})
    assert isinstance(found.value, OrtmodError)
    assert os.listdir(tmp_path) == []


def test_by_default_what_the_loss_does_not_reach_is_frozen(tmp_path):
    given = chain()
    report = generate_artifacts(given.pop("model"), artifact_directory=tmp_path, **given)
    rows = {name: (kind, why) for name, _, kind, why in report.parameters}
    assert rows["w"][0] == "trains" and rows["v"] == ("frozen", "the loss does not reach it: no path")
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state.trainable == ["w"] and sorted(state.parameters) == ["v", "w"]
    for part in ("training", "eval"):
        onnx.checker.check_model(onnx.load(tmp_path / f"{part}_model.onnx"), full_check=True)


def test_bfloat16_goes_to_the_opset_in_which_its_operators_have_it(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).bfloat16()
    x = torch.randn(4, 1, 4, 4, dtype=torch.bfloat16)
    model = exported(net, x)
    with pytest.raises(
        ModelError, match="not valid ONNX at opset 20: .*Conv.*opset='upgrade' raises it to opset 22, in which it is"
    ):
        generate_artifacts(model, None, None, LossType.CrossEntropyLoss, OptimType.AdamW, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    generate_artifacts(model, None, None, LossType.CrossEntropyLoss, OptimType.AdamW, tmp_path, opset="upgrade")
    assert onnx.load(tmp_path / "training_model.onnx").opset_import[0].version == 22
    module = Module(tmp_path / "training_model.onnx", CheckpointState.load_checkpoint(tmp_path / "checkpoint"))
    labels = torch.arange(4) % 3
    loss = nn.functional.cross_entropy(net.float()(x.float()), labels)
    assert float(module(x, labels)) == pytest.approx(loss.item(), rel=0.02)


def test_a_running_statistic_does_not_train_by_gradient(tmp_path):
    model = exported(Convolutional().train(), torch.randn(4, 1, 8, 8))
    with pytest.raises(GradientError, match="running statistic"):
        generate_artifacts(model, ["1.running_mean"], None, LossType.CrossEntropyLoss, None, tmp_path / "out")


def test_operators_without_a_gradient_are_named(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> m (float[2] x) => (float[2] y) { z = mine.Odd(x)  y = Mul(z, w) }'
    with pytest.raises(OrtmodError, match="mine::Odd"):
        generate_artifacts(parse(text, w=torch.ones(2)), ["w"], None, LossType.MSELoss, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_old_files_stay_when_writing_fails(tmp_path, monkeypatch):
    _, model = mlp()
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, None, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    monkeypatch.setattr(checkpoint, "write", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        generate_artifacts(model, ["0.weight"], None, LossType.L1Loss, None, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_enums_have_the_values_of_the_documents():
    assert [(m.name, m.value) for m in artifacts.LossType] == [
        ("MSELoss", 1),
        ("CrossEntropyLoss", 2),
        ("BCEWithLogitsLoss", 3),
        ("L1Loss", 4),
    ]
    assert [(m.name, m.value) for m in artifacts.OptimType] == [("AdamW", 1), ("SGD", 2)]
