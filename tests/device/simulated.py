"""A device without hardware (tests/cpp/simulated_device.cpp): host code that touches its memory dies."""

import ctypes
import types
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[2] / "build" / "libsimulated_device.so"


class _Device:
    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def register() -> None:
    torch.ops.load_library(str(LIBRARY))
    torch.utils.rename_privateuse1_backend("simulated")
    module = types.ModuleType("torch.simulated")
    module.device = _Device
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = module.synchronize = lambda device=None: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed = module.manual_seed_all = torch.default_generator.manual_seed
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    torch._register_device_module("simulated", module)


def copies() -> tuple[int, int]:
    """Tensors that have gone to the device and come from it so far, those that operators computed with left out."""
    counts = (ctypes.c_long * 2)()
    ctypes.CDLL(str(LIBRARY)).simulated_copies(counts)
    return counts[0], counts[1]
