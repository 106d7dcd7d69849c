"""The runtime: steps equal to torch, to the stock runtime and to onnxruntime-training; states, buffers, export."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import exported, mlp, parse
from ort_training_1_19_2.record import RATE, network
from stock import StockTrainer
from torch import nn

import ortmod
from ortmod import DeviceError, DTypeError, ModelError, OrtmodError, ShapeError
from ortmod.training import checkpoint, onnxblock
from ortmod.training.api import CheckpointState, CosineLRScheduler, LinearLRScheduler, Module, Optimizer
from ortmod.training.artifacts import LossType, OptimType, generate_artifacts

RECORDED = Path(__file__).parent / "ort_training_1_19_2"
WEIGHTS = ["0.weight", "0.bias", "2.weight", "2.bias"]
AdamW, SGD = onnxblock.optim.AdamW, onnxblock.optim.SGD


def made(folder, model, names=None, frozen=None, loss=LossType.CrossEntropyLoss, optimizer=OptimType.AdamW, **options):
    generate_artifacts(model, names, frozen, loss, optimizer, folder, **options)
    return opened(folder)


def opened(folder, name="checkpoint"):
    state = CheckpointState.load_checkpoint(folder / name)
    module = Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    return state, module, Optimizer(folder / "optimizer_model.onnx", module)


def data(rows=16, columns=10, classes=3):
    return np.random.randn(rows, columns).astype(np.float32), np.random.randint(0, classes, rows)


def steps(module, optimizer, x, y, count=20):
    losses = []
    for _ in range(count):
        losses.append(float(module(x, y)))
        optimizer.step()
        module.lazy_reset_grad()
    return losses


OPTIMIZERS = [
    (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-6, weight_decay=0.1)),
    (SGD(), lambda p: torch.optim.SGD(p, lr=0.01)),
    (SGD(momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
]


GROUPS = [{"params": "*.bias", "weight_decay": 0.0, "lr_scale": 0.5}]


@pytest.mark.parametrize(
    "block, joined", [(AdamW(clip_grad=0.1), True), (SGD(momentum=0.9), True), (AdamW(weight_decay=0.2, groups=GROUPS), False)]
)
def test_parameters_that_are_updated_alike_are_updated_at_once(tmp_path, block, joined):
    counts = []
    for i, sizes in enumerate([(10, 8, 3), (10, 8, 8, 8, 3)]):
        _, model = mlp(sizes)
        folder = tmp_path / str(i)
        _, module, optimizer = made(folder, model, [t.name for t in model.graph.initializer], optimizer=block)
        optimizer.set_learning_rate(0.01)
        x, y = data()
        stock = StockTrainer(folder)
        expected = [stock.fit_step(0.01, x=x, labels=y) for _ in range(20)]
        np.testing.assert_allclose(steps(module, optimizer, x, y), expected, rtol=1e-5)
        listed = [op for step, _ in module._session.update_steps for op in step.split(" + ") if op == "ortmod::Fused"]
        counts.append(len(listed))
    assert (counts[0] == counts[1]) == joined, counts


@pytest.mark.parametrize("block, theirs", OPTIMIZERS)
def test_losses_equal_torch_and_the_stock_runtime(tmp_path, block, theirs):
    torch_network, model = mlp((10, 8, 3))
    state, module, optimizer = made(tmp_path, model, WEIGHTS, optimizer=block)
    optimizer.set_learning_rate(0.01)
    x, y = data()
    losses = steps(module, optimizer, x, y)
    stock = StockTrainer(tmp_path)
    np.testing.assert_allclose(losses, [stock.fit_step(0.01, x=x, labels=y) for _ in range(20)], rtol=1e-5)
    update = theirs(torch_network.parameters())
    for found in losses:
        update.zero_grad()
        loss = nn.functional.cross_entropy(torch_network(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        update.step()
        assert found == pytest.approx(loss.item(), rel=1e-5)
    for name, value in torch_network.named_parameters():
        np.testing.assert_allclose(state.parameters[name].data, value.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_losses_equal_onnxruntime_training(tmp_path, kind):
    model, x, labels, names = network(kind)
    _, module, optimizer = made(tmp_path, model, names[:-1], names[-1:], optimizer=AdamW(form="ort"))
    optimizer.set_learning_rate(RATE)
    np.testing.assert_allclose(
        steps(module, optimizer, x, labels), json.loads((RECORDED / "losses.json").read_text())[kind], rtol=1e-5
    )


def test_a_state_of_onnxruntime_training_goes_on(tmp_path):
    model, x, labels, names = network("mlp")
    state, module, optimizer = made(tmp_path, model, names[:-1], names[-1:], optimizer=AdamW(form="ort"))
    optimizer.set_learning_rate(RATE)
    steps(module, optimizer, x, labels)
    optimizer.set_learning_rate(1e-3)
    theirs_state = CheckpointState.load_checkpoint(RECORDED / "checkpoint")
    theirs = Module(tmp_path / "training_model.onnx", theirs_state, tmp_path / "eval_model.onnx")
    assert theirs_state.properties["epoch"] == 7
    update = Optimizer(tmp_path / "optimizer_model.onnx", theirs)
    assert update.get_learning_rate() == pytest.approx(1e-3)
    np.testing.assert_allclose(steps(theirs, update, x, labels, 5), steps(module, optimizer, x, labels, 5), rtol=1e-4)


def convolutional():
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    return nn.Sequential(*layers).train()


def test_batch_norm_and_evaluation(tmp_path):
    net = convolutional()
    model = exported(net, torch.randn(4, 1, 8, 8))
    state, module, optimizer = made(tmp_path, model, [n for n, _ in net.named_parameters()])
    optimizer.set_learning_rate(0.01)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,))
    update = torch.optim.AdamW(net.parameters(), lr=0.01, eps=1e-6, weight_decay=0)
    for _ in range(20):
        update.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        update.step()
        assert module(x.numpy(), y.numpy()) == pytest.approx(loss.item(), rel=1e-4)
        optimizer.step()
        module.lazy_reset_grad()
    for name in ("1.running_mean", "1.running_var"):
        assert not state.parameters[name].requires_grad
        np.testing.assert_allclose(state.parameters[name].data, dict(net.named_buffers())[name], rtol=1e-3, atol=1e-4)
    before = module.get_contiguous_parameters()
    net.eval()
    expected = nn.functional.cross_entropy(net(x), y).item()
    assert module.eval()(x.numpy(), y.numpy()) == pytest.approx(expected, rel=1e-3)
    assert np.array_equal(before, module.get_contiguous_parameters())


def test_gradients_add_up_until_they_are_reset(tmp_path):
    net, model = mlp((10, 8, 3))
    state, module, optimizer = made(tmp_path, model, WEIGHTS[:3], WEIGHTS[3:])
    x, y = data()
    assert state.parameters["0.weight"].grad is None
    nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    for factor in (1, 2, 3, 1, 2):
        if factor == 1:
            module.lazy_reset_grad()
        module(x, y)
        for name in WEIGHTS[:3]:
            expected = factor * dict(net.named_parameters())[name].grad
            np.testing.assert_allclose(state.parameters[name].grad, expected, rtol=1e-4, atol=1e-6)
    assert state.parameters["2.bias"].grad is None


def test_an_opset_without_where_accumulates_too(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 8]> net (float[N, 3] x) => (float[N, 2] y) { y = MatMul(x, w) }'
    with pytest.warns(UserWarning, match="optimizer model"):
        state, module, _ = made(tmp_path, parse(text, w=torch.randn(3, 2)), ["w"], loss=LossType.MSELoss, optimizer=OptimType.SGD)
    x, t = np.random.randn(4, 3).astype(np.float32), np.zeros((4, 2), np.float32)
    module(x, t)
    first = state.parameters["w"].grad
    module(x, t)
    np.testing.assert_allclose(state.parameters["w"].grad, 2 * first, rtol=1e-5)
    module.lazy_reset_grad()
    module(x, t)
    np.testing.assert_allclose(state.parameters["w"].grad, first, rtol=1e-5)


def test_a_saved_state_goes_on_as_if_nothing_happened(tmp_path):
    _, model = mlp((10, 8, 3))
    state, module, optimizer = made(tmp_path, model, WEIGHTS)
    x, y = data()
    optimizer.set_learning_rate(0.02)
    steps(module, optimizer, x, y, 7)
    state.properties["epoch"], state.properties["best"], state.properties["note"] = 3, 0.25, "text"
    CheckpointState.save_checkpoint(state, tmp_path / "saved", include_optimizer_state=True)
    again_state, again, update = opened(tmp_path, "saved")
    assert dict(again_state.properties) == {"epoch": 3, "best": 0.25, "note": "text"}
    assert update.get_learning_rate() == 0.02
    assert steps(again, update, x, y, 5) == steps(module, optimizer, x, y, 5)
    CheckpointState.save_checkpoint(state, tmp_path / "plain")
    assert checkpoint.load(tmp_path / "plain").optimizer == {}


def test_parameters_are_read_and_set_by_name(tmp_path):
    _, model = mlp((10, 8, 3))
    state, module, _ = made(tmp_path, model, WEIGHTS[:3], WEIGHTS[3:])
    parameters = state.parameters
    assert [name for name, _ in parameters] == sorted(WEIGHTS) and len(parameters) == 4
    assert "0.weight" in parameters and "nope" not in parameters and "0.weight" in repr(parameters)
    assert parameters["2.weight"].requires_grad and not parameters["2.bias"].requires_grad
    parameters["2.weight"] = np.zeros((3, 8), np.float32)
    parameters["2.bias"].data = np.array([0.0, 5.0, 0.0], np.float32)
    x, y = data()
    expected = -torch.log_softmax(torch.tensor([0.0, 5.0, 0.0]), 0)[torch.from_numpy(y)].mean()
    assert module(x, y) == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(KeyError, match="Parameter nope not found"):
        parameters["nope"]
    for wrong in (np.zeros((3, 9), np.float32), np.zeros((3, 8))):
        with pytest.raises(RuntimeError, match="shape/type mismatch"):
            parameters["2.weight"] = wrong


def test_properties_are_numbers_and_texts(tmp_path):
    state, _, _ = made(tmp_path, mlp((10, 8, 3))[1], WEIGHTS)
    with pytest.raises(KeyError, match="Property none not found"):
        state.properties["none"]
    with pytest.raises(TypeError, match="expected int, float or str"):
        state.properties["list"] = [1]
    with pytest.raises(TypeError, match="CheckpointState"):
        CheckpointState({"a": 1})


def test_buffers_go_out_and_in_for_federated_learning(tmp_path):
    net, model = mlp((10, 8, 3))
    _, module, optimizer = made(tmp_path, model, WEIGHTS[:3], WEIGHTS[3:])
    sizes = [p.numel() for p in net.parameters()]
    assert module.get_parameters_size() == sum(sizes[:3]) and module.get_parameters_size(False) == sum(sizes)
    start = module.get_contiguous_parameters(trainable_only=True)
    np.testing.assert_array_equal(start, torch.cat([p.flatten() for p in net.parameters()][:3]).detach().numpy())
    x, y = data()
    first = steps(module, optimizer, x, y, 1)
    moved = module.get_contiguous_parameters(True)
    assert not np.array_equal(start, moved)
    module.copy_buffer_to_parameters(torch.from_numpy(start))
    assert float(module(x, y)) == first[0]
    with pytest.raises(OrtmodError, match="got 5 elements"):
        module.copy_buffer_to_parameters(np.zeros(5, np.float32))
    with pytest.raises(OrtmodError, match="element type"):
        module.copy_buffer_to_parameters(start.astype(np.float64))


def test_a_nominal_state_waits_for_its_values(tmp_path):
    _, model = mlp((10, 8, 3))
    _, full, _ = made(tmp_path, model, WEIGHTS[:3], WEIGHTS[3:], nominal_checkpoint=True)
    state, module, _ = opened(tmp_path, "nominal_checkpoint")
    x, y = data()
    for action in (
        lambda: module(x, y),
        lambda: state.parameters["0.weight"].data,
        lambda: module.get_contiguous_parameters(),
        lambda: module.export_model_for_inferencing(tmp_path / "m.onnx", ["loss"]),
        lambda: module.copy_buffer_to_parameters(full.get_contiguous_parameters(True)),
    ):
        with pytest.raises(ModelError, match="nominal"):
            action()
    module.copy_buffer_to_parameters(full.get_contiguous_parameters(), trainable_only=False)
    assert module(x, y) == full(x, y)


def test_the_exported_model_predicts_with_the_weights_of_today(tmp_path):
    net, model = mlp((10, 8, 3))
    _, module, optimizer = made(tmp_path, model, WEIGHTS, additional_output_names=["y"])
    x, y = data()
    before = steps(module, optimizer, x, y, 5) if module.output_names() == ["loss"] else [module(x, y)[0]]
    optimizer.step()
    module.eval()
    expected = module(x, y)[1]
    module.export_model_for_inferencing(tmp_path / "inference.onnx", ["y"])
    inference = onnx.load(tmp_path / "inference.onnx")
    onnx.checker.check_model(inference, full_check=True)
    assert [v.name for v in inference.graph.input] == ["x"] and [v.name for v in inference.graph.output] == ["y"]
    assert inference.opset_import[0].version == 18 and len(before) == 1
    (found,) = onnxruntime.InferenceSession(tmp_path / "inference.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert ortmod.OnnxModule(tmp_path / "inference.onnx")(torch.from_numpy(x)).shape == (16, 3)
    for names in (["nope"], []):
        with pytest.raises(OrtmodError):
            module.export_model_for_inferencing(tmp_path / "bad.onnx", names)
    assert not (tmp_path / "bad.onnx").exists()


class Foreign:
    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


def test_arrays_of_every_kind_come_in_and_go_out(tmp_path):
    _, model = mlp((10, 8, 3))
    _, module, _ = made(tmp_path, model, WEIGHTS)
    x, y = data()
    expected = module(x, y)
    assert isinstance(expected, np.ndarray) and expected.shape == ()
    tensors = module(torch.from_numpy(x), torch.from_numpy(y))
    assert isinstance(tensors, torch.Tensor) and tensors.item() == float(expected)
    assert module(np.asfortranarray(x), y[::-1][::-1]) == expected
    assert module(x[:5], y[:5]) != expected and module(x, y) == expected
    fixed = x.copy()
    fixed.flags.writeable = False
    strided = torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2]
    wrapped = torch.nn.Parameter(torch.from_numpy(x.copy()))
    for same in (fixed, x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2], Foreign(x), strided, wrapped):
        assert module(same, y) == expected, type(same)
    for wrong, error in ((x.astype(complex), DTypeError), (x.astype(np.float16), DTypeError), (x[0], ShapeError)):
        with pytest.raises(error):
            module(wrong, y)
        assert module(x, y) == expected
    found = module(x, y)
    module(x[::-1].copy() * 2, y)
    assert found == expected  # outputs are memory of their own
    assert module.input_names() == ["x", "labels"] and module.output_names() == ["loss"]


def test_schedules_rise_and_fall(tmp_path):
    _, model = mlp((10, 8, 3))
    _, module, optimizer = made(tmp_path, model, WEIGHTS)
    assert optimizer.get_learning_rate() == 1e-3
    x, y = data()
    schedule, rates = LinearLRScheduler(optimizer, 2, 10, 1.0), []
    for _ in range(12):
        rates.append(optimizer.get_learning_rate())
        module(x, y)
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [0, 0.5, *(1 - i / 8 for i in range(8)), 0, 0])
    with pytest.raises(OrtmodError, match="warm-up"):
        LinearLRScheduler(optimizer, 5, 2, 1.0)
    _, module, optimizer = opened(tmp_path)
    schedule = CosineLRScheduler(optimizer, 0, 4, 1.0, final_lr=0.5)
    assert optimizer.get_learning_rate() == 1.0
    for _ in range(4):
        module(x, y)
        optimizer.step()
        schedule.step()
    assert optimizer.get_learning_rate() == pytest.approx(0.5)


def test_steps_of_a_small_network_do_not_go_through_aten(tmp_path):
    _, model = mlp((20, 100, 1), activation="Relu")
    _, module, _ = made(tmp_path, model, WEIGHTS, loss=LossType.MSELoss)
    module(np.zeros((64, 20), np.float32), np.zeros((64, 1), np.float32))
    listed = module._session.steps
    assert len(listed) <= 15 and not any(aten for _, aten in listed), listed


def test_what_does_not_fit_is_refused(tmp_path):
    _, model = mlp((10, 8, 3))
    state, module, optimizer = made(tmp_path, model, WEIGHTS)
    x, y = data()
    alone = Module(tmp_path / "training_model.onnx", CheckpointState.load_checkpoint(tmp_path / "checkpoint"))
    other = tmp_path / "other"
    made(other, mlp((10, 7, 3))[1], WEIGHTS)
    wrong = CheckpointState.load_checkpoint(other / "checkpoint")
    cases = [
        (lambda: alone.eval(), "no eval model"),
        (lambda: alone.export_model_for_inferencing(tmp_path / "m.onnx", ["loss"]), "no eval model"),
        (lambda: optimizer.step(), "no gradients yet"),
        (lambda: module(x), r"got 1, expected 2 \(x, labels\)"),
        (lambda: module(x, y, y), "got 3, expected 2"),
        (lambda: module(x.astype(np.float64), y), '"x": got double, expected float'),
        (lambda: module(x[:, :9], y), 'wrong shape of "x"'),
        (lambda: module(x, np.full_like(y, 7)), "7"),
        (lambda: Module(tmp_path / "eval_model.onnx", state), "no training model"),
        (lambda: Module(tmp_path / "training_model.onnx", wrong), "mismatch"),
        (lambda: Module(tmp_path / "nowhere.onnx", state), "nowhere"),
        (lambda: Module(tmp_path / "training_model.onnx", state), "give each Module a state of its own"),
        (lambda: optimizer.set_learning_rate(-1.0), "got -1.0, expected a finite number"),
        (lambda: optimizer.set_learning_rate(float("nan")), "got nan"),
        (lambda: optimizer.set_learning_rate("0.1"), "got '0.1'"),
        (lambda: Optimizer(tmp_path / "training_model.onnx", module), "optimizer|expected"),
        (lambda: CheckpointState.load_checkpoint(tmp_path / "training_model.onnx"), "not a checkpoint"),
    ]
    for action, message in cases:
        with pytest.raises(OrtmodError, match=message):
            action()
    for device in ("gpu", "cuda:99", "meta", 1.5):
        with pytest.raises(DeviceError, match="device: got"):
            Module(tmp_path / "training_model.onnx", wrong, device=device)
    before = state.parameters["0.weight"].data
    module(x, y)
    optimizer.step()
    assert not np.array_equal(before, state.parameters["0.weight"].data)  # still the state of the first module
    optimizer.set_learning_rate(np.float32(0.5))
    assert optimizer.get_learning_rate() == 0.5
