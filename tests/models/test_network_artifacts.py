"""Training artifacts of whole networks: steps of the runtime and of the stock onnxruntime against torch."""

import numpy as np
import onnxruntime
import pytest
import torch
import truth
import zoo
from stock import StockTrainer
from subject import Subject

from ortmod.training import onnxblock
from ortmod.training.api import CheckpointState, Module, Optimizer
from ortmod.training.artifacts import LossType, generate_artifacts

STEPS = 50
# The loss shall fall, but stay far from 0, where it is made of roundings alone.
RATES = dict.fromkeys(zoo.FAMILIES, 0.01) | dict.fromkeys(("bert", "distilbert", "vit", "resnet", "convnext"), 0.001)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize("mode", ["default", "noopt"])
@pytest.mark.parametrize("family", list(zoo.FAMILIES))
def test_losses_follow_torch(export, family, mode, dtype, tmp_path):
    """Momentum, not Adam: Adam scales the roundings of gradients that are zero (biases before a normalisation) to full steps."""
    rate = RATES[family]
    subject = Subject(export)
    parameters = list(subject.parameters())
    generate_artifacts(str(export.path), parameters, None, LossType.MSELoss, onnxblock.optim.SGD(momentum=0.5), tmp_path)
    feed = subject.feed()
    inputs = [feed[name] for name in subject.inputs]
    net = subject.net.train(family == "resnet" and mode == "noopt")
    held = {n for n, copies in subject.copies.items() if not all(c.initializer in parameters for c in copies)}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name not in held)
    output = truth.forward(net, feed)
    target = output.detach() + 0.1 * truth.seed(output.detach())
    trained = [p for p in net.parameters() if p.requires_grad]
    update = torch.optim.SGD(trained, lr=rate, momentum=0.5)
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    module = Module(tmp_path / "training_model.onnx", state, tmp_path / "eval_model.onnx")
    optimizer = Optimizer(tmp_path / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(rate)
    mine, theirs = [], []
    for _ in range(STEPS):
        mine.append(float(module(*inputs, target)))
        optimizer.step()
        module.lazy_reset_grad()
        update.zero_grad()
        loss = torch.nn.functional.mse_loss(truth.forward(net, feed), target)
        loss.backward()
        update.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-3)
    if not held and len(parameters) == len(trained):
        np.testing.assert_allclose(mine[:3], theirs[:3], rtol=1e-3)
    assert 1e-4 * theirs[0] < theirs[-1] < 0.9 * theirs[0]
    assert abs(mine[-1] - theirs[-1]) <= 0.01 * theirs[-1], (theirs[0], mine[-1], theirs[-1])
    stock = StockTrainer(tmp_path)
    named = dict(zip([i.name for i in stock.train.get_inputs()], [v.numpy() for v in (*inputs, target)], strict=False))
    np.testing.assert_allclose([stock.fit_step(rate, **named) for _ in range(3)], mine[:3], rtol=1e-3)
    assert onnxruntime.InferenceSession(tmp_path / "eval_model.onnx").get_outputs()[0].name == "loss"
