"""Artifacts of models in float16 and bfloat16: losses and gradients as torch's in float32, updates rounded once."""

import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from nets import mlp
from stock import StockTrainer
from test_artifacts_training import LOSSES, WEIGHTS, hugging_face

from ortmod import DTypeError
from ortmod.training import onnxblock
from ortmod.training.api import CheckpointState, Module, Optimizer
from ortmod.training.artifacts import LossType, OptimType, generate_artifacts

AdamW, SGD = onnxblock.optim.AdamW, onnxblock.optim.SGD
NARROW = [torch.float16, torch.bfloat16]
RATE = 0.01


def opened(folder):
    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    module = Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(RATE)
    return module, optimizer


def narrow_mlp(dtype):
    """A model in `dtype`, and the same weights in torch's float32."""
    network, model = mlp((10, 8, 3), dtype)
    return network.float(), model


def batch(kind, dtype):
    """Targets are far from what the network says, so that no sign depends on rounding."""
    x = torch.randn(16, 10).to(dtype)
    target = LOSSES[kind][1](16, 3)
    if kind in (LossType.L1Loss, LossType.MSELoss):
        target = 3 * target.sign()
    return x, target.to(dtype) if target.is_floating_point() else target


@pytest.mark.parametrize("dtype", NARROW)
def test_parameters_gradients_and_buffers_come_as_arrays_of_their_type_and_go_back_in(tmp_path, dtype):
    network, model = narrow_mlp(dtype)
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, OptimType.AdamW, tmp_path)
    module, _ = opened(tmp_path)
    parameters = module._state.parameters
    element = ml_dtypes.bfloat16 if dtype is torch.bfloat16 else np.float16
    x, target = batch(LossType.MSELoss, dtype)
    loss = module(x, target)
    for name, value in network.named_parameters():
        data = parameters[name].data
        assert data.dtype == parameters[name].grad.dtype == element
        np.testing.assert_array_equal(data.astype(np.float32), value.detach().numpy())
        parameters[name] = np.zeros_like(data)
        assert not parameters[name].data.any()
        parameters[name].data = data
    buffer = module.get_contiguous_parameters()
    assert buffer.dtype == element and len(buffer) == module.get_parameters_size()
    module.copy_buffer_to_parameters(np.zeros_like(buffer))
    assert not module.get_contiguous_parameters().any()
    module.copy_buffer_to_parameters(buffer)
    assert module(x, target) == loss
    arrays = [t.view(torch.int16).numpy().view(element) for t in (x, target)]
    assert module(*arrays) == float(loss)  # arrays in: a float32 array out


def test_bfloat16_without_ml_dtypes_names_the_way_by_tensors(tmp_path, monkeypatch):
    generate_artifacts(narrow_mlp(torch.bfloat16)[1], WEIGHTS, None, LossType.MSELoss, OptimType.AdamW, tmp_path)
    module, _ = opened(tmp_path)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DTypeError, match="install ml_dtypes, or .*checkpoint.load"):
        module.get_contiguous_parameters()


@pytest.mark.parametrize("kind", LossType)
@pytest.mark.parametrize("dtype", NARROW)
def test_losses_and_gradients_are_those_of_float32_but_for_rounding(tmp_path, kind, dtype):
    network, model = narrow_mlp(dtype)
    generate_artifacts(model, WEIGHTS, None, kind, OptimType.AdamW, tmp_path)
    for part in ("training", "eval", "optimizer"):
        onnx.checker.check_model(onnx.load(tmp_path / f"{part}_model.onnx"), full_check=True)
    module, optimizer = opened(tmp_path)
    x, target = batch(kind, dtype)
    wide = target.float() if target.is_floating_point() else target
    eps = torch.finfo(dtype).eps
    loss = LOSSES[kind][0](network(x.float()), wide)
    loss.backward()
    found = module(x, target)
    assert found.dtype == dtype and float(found) == pytest.approx(loss.item(), rel=4 * eps)
    for name, value in network.named_parameters():
        gradient = module._session.gradient(name)
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.float(), value.grad, rtol=8 * eps, atol=8 * eps * float(value.grad.abs().max()))
    first = float(found)
    for _ in range(20):
        optimizer.step()
        module.lazy_reset_grad()
        found = module(x, target)
    module.eval()
    assert float(module(x, target)) == float(found) < 0.97 * first


OPTIMIZERS = [
    (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=RATE, eps=1e-6, weight_decay=0.1)),
    (AdamW(form="ort", weight_decay=0.1), lambda p: hugging_face(p, lr=RATE, weight_decay=0.1)),
    (SGD(), lambda p: torch.optim.SGD(p, lr=RATE)),
    (SGD(momentum=0.9, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, weight_decay=0.1)),
    (SGD(momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, nesterov=True)),
]


@pytest.mark.parametrize("block, theirs", OPTIMIZERS)
@pytest.mark.parametrize("dtype", NARROW)
def test_updates_are_those_of_float32_rounded_once(tmp_path, block, theirs, dtype):
    _, model = narrow_mlp(dtype)
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, block, tmp_path)
    module, optimizer = opened(tmp_path)
    x, target = batch(LossType.MSELoss, dtype)
    for _ in range(3):
        # The first update of torch from this weight and gradient; later ones of ours begin with moments of their own.
        before = {name: module._session.parameter(name).float() for name in WEIGHTS}
        module(x, target)
        parameters = {name: torch.nn.Parameter(value) for name, value in before.items()}
        for name, parameter in parameters.items():
            parameter.grad = module._session.gradient(name).float()
        module._session.set_optimizer_states(
            {s: {n: torch.zeros_like(v) for n, v in values.items()} for s, values in module._session.optimizer_states().items()}
        )
        module._session.step = 0
        theirs(parameters.values()).step()
        optimizer.step()
        module.lazy_reset_grad()
        for name, parameter in parameters.items():
            found = module._session.parameter(name)
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), parameter.detach(), rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", NARROW)
def test_clipping_is_done_in_float32(tmp_path, dtype):
    """The squares of these gradients are too large for float16."""
    _, model = narrow_mlp(dtype)
    generate_artifacts(model, WEIGHTS, None, onnxblock.loss.MSELoss(reduction="sum"), SGD(clip_grad=0.5), tmp_path)
    module, optimizer = opened(tmp_path)
    x, _ = batch(LossType.MSELoss, dtype)
    optimizer.set_learning_rate(1.0)
    before = {name: module._session.parameter(name).clone() for name in WEIGHTS}
    module(x, torch.full((16, 3), 30.0, dtype=dtype))
    gradients = [module._session.gradient(name).double() for name in WEIGHTS]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert 300 < norm < 60000
    optimizer.step()
    for name, gradient in zip(WEIGHTS, gradients, strict=True):
        expected = before[name].double() - gradient * 0.5 / norm
        torch.testing.assert_close(module._session.parameter(name).double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("kind", LossType)
def test_float16_trains_on_the_stock_runtime_as_on_ours(tmp_path, kind):
    _, model = narrow_mlp(torch.float16)
    generate_artifacts(model, WEIGHTS, None, kind, OptimType.AdamW, tmp_path)
    module, optimizer = opened(tmp_path)
    x, target = batch(kind, torch.float16)
    inputs = {"x": x.numpy(), "labels" if kind == LossType.CrossEntropyLoss else "target": target.numpy()}
    stock = StockTrainer(tmp_path)
    for _ in range(10):
        expected = stock.fit_step(RATE, **inputs)
        assert float(module(*inputs.values())) == pytest.approx(expected, rel=0.01)
        optimizer.step()
        module.lazy_reset_grad()


def test_numpy_has_no_bfloat16_and_gets_float32(tmp_path):
    _, model = narrow_mlp(torch.bfloat16)
    generate_artifacts(model, WEIGHTS, None, LossType.CrossEntropyLoss, OptimType.AdamW, tmp_path)
    module, _ = opened(tmp_path)
    x, labels = batch(LossType.CrossEntropyLoss, torch.bfloat16)
    found = module(x, labels.numpy())
    assert isinstance(found, np.ndarray) and found.dtype == np.float32 and found == module(x, labels).float().numpy()
