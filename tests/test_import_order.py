"""torch, onnx, onnxruntime and ortmod carry protobuf and ONNX code of their own: every order of import works."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import {order}
import numpy as np
model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 18]> g (float[n] x) => (float[n] y) {{ y = Tanh(x) }}')
layer = ortmod.OnnxModule(model)
x = torch.ones(3, requires_grad=True)
layer(x).sum().backward()
session = onnxruntime.InferenceSession(ortmod.build_gradient(model, wrt=["x"]).SerializeToString())
found = session.run(["x_grad"], {{"x": np.ones(3, np.float32), "y_grad": np.ones(3, np.float32)}})[0]
onnx.checker.check_model(layer.to_onnx())
assert np.allclose(found, x.grad.numpy())
print("fine")
"""


@pytest.mark.parametrize("order", [", ".join(p) for p in itertools.permutations(("torch", "onnx", "onnxruntime", "ortmod"))])
def test_order(order):
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CODE.format(order=order.replace("onnx,", "onnx, onnx.parser,") if "onnx," in order else order + ", onnx.parser"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout == "fine\n", done.stderr
