"""Data goes to the device once, and comes back when it is asked for: copies are counted."""

import pytest
import torch
from networks import NETWORKS
from test_device_training import OPTIONS, exported_mlp, partial, table
from test_training_api import CheckpointState, Module, Optimizer, made
from test_training_api import data as api_data
from train_models import mlp

import ortmod


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_copies_of_a_fit_do_not_grow_with_its_steps(options, device, copies):
    """A block of shuffled rows takes one copy of their order; the loss and whether all is finite are read once an epoch."""
    x, y, weights = table(240)
    options = {key: value for key, value in options.items() if key != "batch_size"}

    def fit(batch, epochs):
        trained = partial(mlp([3, 8, 1]), device, **options, batch_size=batch, max_iter=epochs)
        return copies(lambda: trained.fit(x, y, weights))

    few, many, longer = fit(24, 2), fit(6, 2), fit(24, 4)
    assert few == many
    assert longer[0] - few[0] <= 2 and longer[1] - few[1] <= 4


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_copies_nothing(name, device, copies):
    make, shape = NETWORKS[name]
    module = ortmod.OnnxModule(make()).to(device)
    x = torch.randn(4, *shape[1:]).to(device)

    def step():
        module(x).sum().backward()

    step()
    assert copies(step) == (0, 0)


def test_a_step_of_artifacts_copies_its_batch_and_the_loss(tmp_path, device, copies):
    _, model = exported_mlp((10, 8, 3))
    made(tmp_path, model, ["0.weight", "0.bias", "2.weight", "2.bias"])
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    module = Module(tmp_path / "training_model.onnx", state, tmp_path / "eval_model.onnx", device=str(device))
    optimizer = Optimizer(tmp_path / "optimizer_model.onnx", module)
    x, y = api_data()

    def step(*batch):
        module(*batch)
        optimizer.step()
        module.lazy_reset_grad()

    step(x, y)
    assert copies(lambda: step(x, y)) == (2, 1)
    there = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    assert copies(lambda: step(*there)) == (0, 0)
