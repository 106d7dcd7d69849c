"""Artifacts train on the stock runtime as torch does: losses, optimizers, groups, batch norm, opsets, doubles."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import close, exported, mlp, parse
from stock import StockTrainer
from torch import nn

from ortmod import ModelError
from ortmod.training import checkpoint, onnxblock
from ortmod.training.artifacts import LossType, OptimType, generate_artifacts

WEIGHTS = ["0.weight", "0.bias", "2.weight", "2.bias"]
STEPS = 20


def compare(directory, network, optimizer, loss_of, inputs, rate, steps=STEPS, tolerance=1e-5, clip=None):
    """Losses of the stock runtime and of torch are the same, step by step; so are the weights."""
    trainer = StockTrainer(directory)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        expected = loss.item()
        assert abs(trainer.fit_step(rate, **inputs) - expected) <= tolerance * max(1, abs(expected))
    for name, value in dict(network.named_parameters()).items():
        if name in trainer.parameters:
            np.testing.assert_allclose(trainer.parameters[name], value.detach().numpy(), rtol=1e-4, atol=1e-5)
    return trainer


LOSSES = {
    LossType.MSELoss: (nn.functional.mse_loss, lambda n, k: torch.randn(n, k)),
    LossType.L1Loss: (nn.functional.l1_loss, lambda n, k: torch.randn(n, k)),
    LossType.BCEWithLogitsLoss: (nn.functional.binary_cross_entropy_with_logits, lambda n, k: torch.rand(n, k)),
    LossType.CrossEntropyLoss: (nn.functional.cross_entropy, lambda n, k: torch.randint(0, k, (n,))),
}


@pytest.mark.parametrize("kind", LossType)
def test_losses_train_as_in_torch_on_the_stock_runtime(tmp_path, kind):
    dtype = (
        torch.float64 if kind == LossType.L1Loss else torch.float32
    )  # sums of signs cancel to 0 or to a rounding, which Adam scales
    network, model = mlp((10, 8, 3), dtype)
    generate_artifacts(model, WEIGHTS, None, kind, OptimType.AdamW, tmp_path)
    function, target_of = LOSSES[kind]
    x, target = torch.randn(16, 10, dtype=dtype), target_of(16, 3)
    target = target.to(dtype) if target.is_floating_point() else target
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, eps=1e-6, weight_decay=0)
    inputs = {"x": x.numpy(), "labels" if kind == LossType.CrossEntropyLoss else "target": target.numpy()}
    compare(tmp_path, network, optimizer, lambda: function(network(x), target), inputs, 0.01)


def hugging_face(parameters, **options):
    """The update that onnxruntime-training 1.19.2 writes by default, in torch."""

    class Update(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    t = state["t"] = state.get("t", 0) + 1
                    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * p.grad
                    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * p.grad**2
                    p -= group["lr"] * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-6)
                    p -= p * group["lr"] * group["weight_decay"]

    return Update(parameters, options)


AdamW, SGD = onnxblock.optim.AdamW, onnxblock.optim.SGD
OPTIMIZERS = [
    (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-6, weight_decay=0.1), None),
    (AdamW(betas=(0.8, 0.9), eps=1e-8), lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), weight_decay=0), None),
    (AdamW(clip_grad=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-6, weight_decay=0), 0.1),
    (AdamW(form="ort", weight_decay=0.1), lambda p: hugging_face(p, lr=0.01, weight_decay=0.1), None),
    (SGD(), lambda p: torch.optim.SGD(p, lr=0.01), None),
    (SGD(clip_grad=onnxblock.optim.ClipGradNorm(0.2)), lambda p: torch.optim.SGD(p, lr=0.01), 0.2),
    (SGD(momentum=0.9, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1), None),
    (SGD(momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True), None),
]


@pytest.mark.parametrize("block, theirs, clip", OPTIMIZERS)
def test_optimizers_update_as_torch_does(tmp_path, block, theirs, clip):
    network, model = mlp((10, 8, 3))
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, block, tmp_path)
    x, target = torch.randn(16, 10), torch.randn(16, 3)
    inputs = {"x": x.numpy(), "target": target.numpy()}
    compare(
        tmp_path, network, theirs(network.parameters()), lambda: nn.functional.mse_loss(network(x), target), inputs, 0.01, clip=clip
    )


def test_groups_have_their_own_rates_and_decays(tmp_path):
    network, model = mlp((10, 8, 3))
    groups = [{"params": "*.bias", "weight_decay": 0.0, "lr_scale": 0.5}, {"params": ["2.weight"], "lr_scale": 0.0}]
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, AdamW(weight_decay=0.2, groups=groups), tmp_path)
    first, last = network[0], network[2]
    optimizer = torch.optim.AdamW(
        [
            {"params": [first.weight]},
            {"params": [first.bias, last.bias], "weight_decay": 0.0, "lr": 0.005},
            {"params": [last.weight], "lr": 0.0},
        ],
        lr=0.01,
        eps=1e-6,
        weight_decay=0.2,
    )
    x, target = torch.randn(16, 10), torch.randn(16, 3)
    inputs = {"x": x.numpy(), "target": target.numpy()}
    trainer = compare(tmp_path, network, optimizer, lambda: nn.functional.mse_loss(network(x), target), inputs, 0.01)
    start = checkpoint.load(tmp_path / "checkpoint").parameters
    assert np.array_equal(trainer.parameters["2.weight"], start["2.weight"])


def test_gradients_accumulate_until_reset(tmp_path):
    network, model = mlp((10, 8, 3))
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, OptimType.SGD, tmp_path)
    trainer = StockTrainer(tmp_path)
    x, t = torch.randn(4, 10), torch.randn(4, 3)
    nn.functional.mse_loss(network(x), t).backward()
    for reset, factor in ((True, 1), (False, 2), (False, 3), (True, 1)):
        trainer.accumulate(reset, x=x.numpy(), target=t.numpy())
        for name, found in zip(WEIGHTS, trainer.gradients, strict=True):
            close(torch.from_numpy(found), factor * dict(network.named_parameters())[name].grad)


class Convolutional(nn.Sequential):
    def __init__(self):
        pool = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 3)]
        super().__init__(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), *pool)


def test_batch_norm_trains_and_updates_its_statistics(tmp_path):
    network = Convolutional().train()
    model = exported(network, torch.randn(4, 1, 8, 8))
    names = [n for n, _ in network.named_parameters()]
    generate_artifacts(model, names, None, LossType.CrossEntropyLoss, OptimType.AdamW, tmp_path)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, eps=1e-6, weight_decay=0)
    run = {model.graph.input[0].name: x.numpy(), "labels": y.numpy()}
    trainer = compare(tmp_path, network, optimizer, lambda: nn.functional.cross_entropy(network(x), y), run, 0.01)
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(trainer.parameters[name], dict(network.named_buffers())[name], rtol=1e-4, atol=1e-5)
    evaluation = onnxruntime.InferenceSession(tmp_path / "eval_model.onnx")
    (found,) = evaluation.run(None, {**run, **trainer.parameters})
    network.eval()
    assert abs(found - nn.functional.cross_entropy(network(x), y).item()) < 1e-4


def test_frozen_statistics_normalise_in_training(tmp_path):
    network = Convolutional()
    network[1].running_mean += 0.3
    network[1].running_var *= 2
    model = exported(network.train(), torch.randn(4, 1, 8, 8))
    names, frozen = [n for n, _ in network.named_parameters()], ["1.running_mean", "1.running_var"]
    generate_artifacts(model, names, frozen, LossType.CrossEntropyLoss, OptimType.SGD, tmp_path)
    network[1].eval()
    x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    run = {model.graph.input[0].name: x.numpy(), "labels": y.numpy()}
    trainer = compare(tmp_path, network, optimizer, lambda: nn.functional.cross_entropy(network(x), y), run, 0.1)
    assert not [name for name in trainer.outputs if name.endswith(".updated")]


def test_a_folded_batch_norm_is_explained(tmp_path):
    network, sample = Convolutional().train(), torch.randn(4, 1, 8, 8)
    path = tmp_path / "model.onnx"
    options = {"export_params": True, "training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    torch.onnx.export(network, (sample,), str(path), verbose=False, **options)
    with pytest.warns(UserWarning, match="folded BatchNormalization"):
        generate_artifacts(path, ["0.weight"], None, LossType.CrossEntropyLoss, None, tmp_path / "out")
    with pytest.warns(UserWarning), pytest.raises(ModelError, match="optimize=False"):
        generate_artifacts(path, ["1.weight"], None, LossType.CrossEntropyLoss, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 15, 21])
def test_every_opset_is_kept(tmp_path, opset):
    text = '<ir_version: 8, opset_import: ["" : %d]> net (float[N, 3] x) => (float[N, 2] y) { z = MatMul(x, w)  y = Add(z, b) }'
    weights = {"w": torch.randn(3, 2), "b": torch.randn(2)}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        generate_artifacts(parse(text % opset, **weights), ["w", "b"], None, LossType.MSELoss, OptimType.SGD, tmp_path)
    assert bool([w for w in seen if "optimizer model" in str(w.message)]) == (opset < 11)
    for part in ("training_model.onnx", "eval_model.onnx"):
        assert onnx.load(tmp_path / part).opset_import[0].version == opset
    x, target = torch.randn(5, 3), torch.randn(5, 2)
    module = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in weights.items()})
    loss = lambda: nn.functional.mse_loss(x @ module["w"] + module["b"], target)  # noqa: E731
    inputs = {"x": x.numpy(), "target": target.numpy()}
    compare(tmp_path, module, torch.optim.SGD(module.parameters(), lr=0.1), loss, inputs, 0.1)


def test_an_old_opset_is_upgraded_on_request(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 9]> net (float[N, 3] x) => (float[N, 2] y) { y = MatMul(x, w) }'
    model = parse(text, w=torch.randn(3, 2))
    with pytest.raises(ModelError, match='opset="upgrade"'):
        generate_artifacts(model, ["w"], None, LossType.CrossEntropyLoss, None, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    generate_artifacts(model, ["w"], None, LossType.CrossEntropyLoss, OptimType.SGD, tmp_path, opset="upgrade")
    assert onnx.load(tmp_path / "training_model.onnx").opset_import[0].version >= 12
    feeds = {"x": np.random.randn(5, 3).astype(np.float32), "labels": np.arange(5) % 2}
    trainer = StockTrainer(tmp_path)
    assert trainer.fit_step(0.1, **feeds) > trainer.fit_step(0.1, **feeds)


def test_double_models_train(tmp_path):
    network, model = mlp((10, 8, 3), torch.float64)
    generate_artifacts(model, WEIGHTS, None, LossType.MSELoss, AdamW(), tmp_path)
    x, target = torch.randn(16, 10).double(), torch.randn(16, 3).double()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, eps=1e-6, weight_decay=0)
    inputs = {"x": x.numpy(), "target": target.numpy()}
    compare(tmp_path, network, optimizer, lambda: nn.functional.mse_loss(network(x), target), inputs, 0.01, tolerance=1e-7)
