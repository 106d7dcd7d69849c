"""Records what onnxruntime-training-cpu 1.19.2 computes: run it in an environment of its own that has that package.

Writes losses.json (20 AdamW steps of two networks, its default form) and checkpoint files of the MLP beside itself.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
STEPS, RATE = 20, 0.01


def network(kind):
    """An MLP or a CNN with weights from a fixed seed; the input; the labels; the names of the weights."""
    draw = np.random.RandomState(0)
    weights, nodes = {}, []

    def layer(op, value, out, shape, fan, **attributes):
        names = [f"{out}.weight", f"{out}.bias"]
        size = shape[1] if op == "Gemm" else shape[0]
        for name, dims in zip(names, (shape, (size,))):  # noqa: B905 (also run by an older Python)
            weights[name] = (draw.uniform(-1, 1, dims) / np.sqrt(fan)).astype(np.float32)
        nodes.append(helper.make_node(op, [value, *names], [out], **attributes))
        return out

    if kind == "mlp":
        dims, x = [20], draw.randn(64, 20)
        hidden = layer("Gemm", "x", "first", (20, 100), 20)
        nodes.append(helper.make_node("Tanh", [hidden], ["active"]))
        layer("Gemm", "active", "y", (100, 5), 100)
    else:
        dims, x = [1, 8, 8], draw.randn(64, 1, 8, 8)
        hidden = layer("Conv", "x", "first", (4, 1, 3, 3), 9, kernel_shape=[3, 3])
        nodes.append(helper.make_node("Relu", [hidden], ["active"]))
        nodes.append(helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        layer("Gemm", "flat", "y", (36, 5), 36)
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *dims])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return model, x.astype(np.float32), draw.randint(0, 5, 64), list(weights)


def main():
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    losses = {}
    for kind in ("mlp", "cnn"):
        model, x, labels, names = network(kind)
        with tempfile.TemporaryDirectory() as folder:
            artifacts.generate_artifacts(
                model,
                requires_grad=names[:-1],
                frozen_params=names[-1:],
                loss=artifacts.LossType.CrossEntropyLoss,
                optimizer=artifacts.OptimType.AdamW,
                artifact_directory=folder,
                nominal_checkpoint=True,
            )
            state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
            module = Module(f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx")
            optimizer = Optimizer(f"{folder}/optimizer_model.onnx", module)
            optimizer.set_learning_rate(RATE)
            module.train()
            losses[kind] = []
            for _ in range(STEPS):
                losses[kind].append(float(module(x, labels)))
                optimizer.step()
                module.lazy_reset_grad()
            if kind == "mlp":
                state.properties["epoch"], state.properties["rate"], state.properties["note"] = 7, 0.5, "half way"
                CheckpointState.save_checkpoint(state, str(HERE / "checkpoint"), include_optimizer_state=True)
                (HERE / "nominal_checkpoint").write_bytes(Path(f"{folder}/nominal_checkpoint").read_bytes())
                values = {name: parameter.data.astype(np.float64).sum() for name, parameter in state.parameters}
                losses["sums"] = {name: float(value) for name, value in values.items()}
    (HERE / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
