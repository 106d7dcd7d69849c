"""The import-time check of the torch version."""

import re

import pytest
import torch

from ortmod import _build_info, _check


def test_the_torch_it_was_built_for_passes():
    _check.check_torch()


@pytest.mark.parametrize("built", ["2.11.0", "1.13.0+cpu"])
def test_another_torch_is_named(monkeypatch, built):
    monkeypatch.setattr(_build_info, "TORCH_VERSION", built)
    message = f"built for torch {built}, but torch {torch.__version__} is in use"
    with pytest.raises(ImportError, match=re.escape(message)):
        _check.check_torch()


def test_a_patch_release_is_the_same_torch(monkeypatch):
    major, minor = torch.__version__.split(".")[:2]
    monkeypatch.setattr(_build_info, "TORCH_VERSION", f"{major}.{minor}.99")
    _check.check_torch()
