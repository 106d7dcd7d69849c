"""Devices that a user names."""

from typing import Any

import torch

from ortmod._errors import DeviceError


def device_of(value: Any, stage: str = "train") -> torch.device:
    """The device with its index, checked to be one that ortmod runs on and that is there; DeviceError otherwise."""
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise DeviceError(f"[{stage}] device: got {value!r}, expected a torch device such as 'cpu' or 'cuda:0'") from None
    if device.type == "cpu":
        return device
    if device.type not in device_types() or device.type == "privateuseone":
        raise DeviceError(f"[{stage}] device: got {value!r}, expected 'cpu' or a CUDA device such as 'cuda:0'")
    module = torch.get_device_module(device)
    there = module.device_count() if module.is_available() else 0
    if there and device.index is None:
        return torch.device(device.type, module.current_device())
    if (device.index or 0) >= there:
        raise DeviceError(
            f"[{stage}] device: got {value!r}, but torch {torch.__version__} finds {there} {_name(device)} devices here; "
            "give device='cpu', or use a torch with that backend on a machine that has one"
        )
    return device


def device_types() -> tuple[str, ...]:
    """Kinds of devices that ortmod runs on: CUDA, and the backend that an extension of torch has registered (PrivateUse1)."""
    return "cpu", "cuda", torch._C._get_privateuse1_backend_name()


def _name(device: torch.device) -> str:
    return "CUDA" if device.type == "cuda" else device.type


def module_of(device: torch.device) -> Any:
    """torch's module of an accelerator (torch.cuda); None for the CPU."""
    return None if device.type == "cpu" else torch.get_device_module(device)
