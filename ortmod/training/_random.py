"""A fit's own stream of random numbers: Dropout draws from torch's generators, which the caller gets back as they were."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ortmod import _C
from ortmod._device import module_of

_RANDOM = ("Random", "Bernoulli", "Multinomial")
_WITH_GRAPHS = ("If", "Loop", "Scan")
States = dict[str, torch.Tensor]
_one_at_a_time = threading.RLock()  # torch's generators are shared by all threads


def generators(device: torch.device) -> States:
    """The states of torch's generators that a graph on the device may draw from."""
    found = {"cpu": torch.get_rng_state()}
    if module := module_of(device):
        found[device.type] = module.get_rng_state(device)
    return found


def _set(states: States, device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if (module := module_of(device)) and device.type in states:
        module.set_rng_state(states[device.type], device)


def draws(model: _C.Model) -> bool:
    """Some operator of the graph may take random numbers."""
    return model.modal or any(node["op"].startswith(_RANDOM) or node["op"] in _WITH_GRAPHS for node in model.nodes())


@contextmanager
def drawing(seed: int, states: States | None, device: torch.device) -> Iterator[None]:
    """Random operators draw as after `seed`, or from where `states` left off; another thread that draws waits."""
    with _one_at_a_time:
        yield from _drawing(seed, states, device)


def _drawing(seed: int, states: States | None, device: torch.device) -> Iterator[None]:
    outside = generators(device)
    if states is not None:
        _set(states, device)
    else:
        torch.default_generator.manual_seed(seed)
        if module := module_of(device):
            with module.device(device):
                module.manual_seed(seed)
    try:
        yield
    finally:
        _set(outside, device)
