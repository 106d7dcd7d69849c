"""Devices that a user names."""

from typing import Any

import torch

from ortmod._errors import DeviceError


def device_of(value: Any, stage: str = "train") -> torch.device:
    """The device, checked to be one that ortmod runs on and that is there; DeviceError otherwise."""
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise DeviceError(f"[{stage}] device: got {value!r}, expected a torch device such as 'cpu' or 'cuda:0'") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"[{stage}] device: got {value!r}, expected 'cpu' or a CUDA device such as 'cuda:0'")
    there = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise DeviceError(
            f"[{stage}] device: got {value!r}, but torch {torch.__version__} finds {there} CUDA devices here; "
            "give device='cpu', or use a torch with CUDA on a machine that has one"
        )
    return device
