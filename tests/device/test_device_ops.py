"""Every operator row on the device against the same row on the CPU: forward and gradient."""

import numpy as np
import oracle
import torch
from oracle import Ours, assert_close
from test_ops import GOOD, GRADED, first_dtype, rows, variants

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 2e-2}


class There(Ours):
    """A row's model and its inputs on a device."""

    def __init__(self, case, dtype, variant, device):
        super().__init__(case, dtype, variant)
        self.module.to(device)
        self.inputs = {k: v.to(device) for k, v in self.inputs.items()}


@rows(GOOD)
def test_forward(case, device):
    for variant in variants(case, gradient=False):
        for dtype in dict.fromkeys((first_dtype(case), case.dtypes[0])) if case.floats() else ["float32"]:
            torch.manual_seed(0)
            want = Ours(case, dtype, variant).run()
            torch.manual_seed(0)
            there = There(case, dtype, variant, device)
            for i, (g, w) in enumerate(zip(there.run(), want, strict=True)):
                if there.inputs and isinstance(g, torch.Tensor):
                    assert g.device == device
                assert_close(
                    g, w, 1e-5 if dtype == "float32" else 1e-2 if "16" in dtype else 1e-10, f"{dtype} {variant} output {i}"
                )


@rows(GRADED)
def test_gradient(case, device):
    dtype = first_dtype(case)
    for variant in variants(case, gradient=True):
        here, there = Ours(case, dtype, variant), There(case, dtype, variant, device)
        weights = oracle.cotangents(case, [oracle.to_numpy(y) for y in here.run()])
        want = here.gradient(weights)
        got = there.gradient(weights)
        for name, g, w in zip(here.wrt, got, want, strict=True):
            assert_close(g, w, TOLERANCE[dtype], f"{variant} gradient of {name}")
            assert np.isfinite(g).all() or not np.isfinite(w).all()
