"""Tests of what runs away from the CPU: ORTMOD_TEST_DEVICE=cuda, or =simulated, a device without hardware."""

import os

import pytest
import simulated
import torch

DEVICE = os.environ["ORTMOD_TEST_DEVICE"]
if DEVICE == "simulated":
    simulated.register()
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(DEVICE, 0)


@pytest.fixture
def copies():
    """How many tensors a call sends to the device and takes from it."""
    if DEVICE != "simulated":
        pytest.skip("only the simulated device counts copies")

    def count(call):
        before = simulated.copies()
        call()
        return tuple(b - a for a, b in zip(before, simulated.copies(), strict=True))

    return count
