"""CPU time of a training step of artifacts, one thread: `python benchmarks/artifacts.py [--peer PYTHON]`.

PYTHON is the interpreter of an environment that has onnxruntime-training-cpu 1.19.2 (`training.py` makes one,
.venv-peers), which runs the same loop on its own artifacts.
Times are process times, medians of 7 runs, so that other load on the machine counts less.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CASES = {"mlp 20-100-1": 500, "mlp 784-500-10": 40, "cnn 28x28": 20}
BATCH = 64


def network(case: str) -> tuple[Any, list[str], list[np.ndarray], str]:
    """Model, names of weights, inputs of a step, name of the loss."""
    draw = np.random.RandomState(0)
    weights: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> str:
        weights[name] = (draw.uniform(-1, 1, shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        return name

    def layer(op: str, value: str, out: str, *shape: int, **attributes: Any) -> Any:
        bias = weight(f"{out}.b", shape[0])
        return helper.make_node(op, [value, weight(f"{out}.w", *shape), bias], [out], **attributes)

    if case.startswith("mlp"):
        sizes = [int(n) for n in case.split()[1].split("-")]
        first = layer("Gemm", "x", "h", sizes[1], sizes[0], transB=1)
        nodes = [first, helper.make_node("Relu", ["h"], ["a"]), layer("Gemm", "a", "y", sizes[2], sizes[1], transB=1)]
        shape, classes = [sizes[0]], sizes[2]
    else:
        nodes = [layer("Conv", "x", "c1", 8, 1, 3, 3, kernel_shape=[3, 3]), helper.make_node("Relu", ["c1"], ["r1"])]
        nodes.append(helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]))
        nodes += [layer("Conv", "p1", "c2", 16, 8, 3, 3, kernel_shape=[3, 3]), helper.make_node("Relu", ["c2"], ["r2"])]
        nodes.append(helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]))
        nodes += [helper.make_node("Flatten", ["p2"], ["f"]), layer("Gemm", "f", "y", 10, 400, transB=1)]
        shape, classes = [1, 28, 28], 10
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    x = draw.randn(BATCH, *shape).astype(np.float32)
    target = draw.randn(BATCH, 1).astype(np.float32) if classes == 1 else draw.randint(0, classes, BATCH)
    return model, list(weights), [x, target], "MSELoss" if classes == 1 else "CrossEntropyLoss"


def timed(step: Any, repeats: int) -> float:
    """Microseconds of CPU time of a step."""
    found = []
    for _ in range(8):
        start = time.process_time()
        for _ in range(repeats):
            step()
        found.append((time.process_time() - start) / repeats * 1e6)
    return float(np.median(found[1:]))


def measure(package: str, case: str) -> float:
    if package == "onnxruntime-training":
        import onnxruntime

        training = types.ModuleType("onnxruntime.training")  # its own __init__ imports torch, which api and artifacts do not need
        training.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
        sys.modules[training.__name__] = training
        from onnxruntime.training import api, artifacts

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        more: dict[str, Any] = {"session_options": options}
    else:
        import torch

        from ortmod.training import api, artifacts  # type: ignore[assignment]

        torch.set_num_threads(1)
        more = {}
    model, names, inputs, loss = network(case)
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model,
            requires_grad=names,
            loss=artifacts.LossType[loss],
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=folder,
        )
        state = api.CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        module = api.Module(f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx", **more)
        optimizer = api.Optimizer(f"{folder}/optimizer_model.onnx", module)
        module.train()

        def step() -> None:
            module(*inputs)
            optimizer.step()
            module.lazy_reset_grad()

        return timed(step, CASES[case])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="interpreter with onnxruntime-training-cpu 1.19.2")
    parser.add_argument("--one", nargs=2, metavar=("PACKAGE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(*options.one))
        return
    pythons = {"ortmod": sys.executable} | ({"onnxruntime-training": options.peer} if options.peer else {})
    for case in CASES:
        times = {}
        for package, python in pythons.items():
            command = [python, str(Path(__file__)), "--one", package, case]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            times[package] = float(out.split()[-1])
        ratio = f"  ratio {times['ortmod'] / times['onnxruntime-training']:.2f}" if options.peer else ""
        print(f"{case:16}" + "  ".join(f"{package} {value:9.1f} us" for package, value in times.items()) + ratio, flush=True)


if __name__ == "__main__":
    main()
