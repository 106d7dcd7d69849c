"""Shared set-up of all tests: ortmod imports, seeds and threads are fixed, markers follow from the folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import ortmod  # noqa: F401

# The tests of what runs away from the CPU add a device to torch: in a process of their own (make test-device, make test-gpu).
collect_ignore = [] if os.environ.get("ORTMOD_TEST_DEVICE") else ["device"]

torch.set_num_threads(1 if os.environ.get("PYTEST_XDIST_WORKER") else 2)  # workers share the cores


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        if "models" in Path(item.path).relative_to(Path(__file__).parent).parts[:-1]:
            item.add_marker(pytest.mark.models)
