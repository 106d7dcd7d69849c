"""A contender of artifacts.py: `artifacts_worker.py NAME FOLDER` says "ready", or why it cannot, then runs as many steps as each
line says and answers with the seconds of process time and the last loss. It runs in the environment of onnxruntime-training, too,
which has neither torch nor ortmod.
"""

import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PYTHON, CPP, ORT, TORCH = "ortmod", "ortmod in C++", "onnxruntime-training", "torch eager"
STOCK = "our artifacts on onnxruntime"
NAMES = {PYTHON: "ortmod", CPP: "cpp", ORT: "ort", TORCH: "torch", STOCK: "stock"}
RATE = 1e-3  # the default of the training APIs
ADAMW: dict[str, Any] = {"eps": 1e-8, "weight_decay": 0.01}
BUFFER = "_grad.accumulation.buffer"

Step = Callable[[], Any]  # one training step; the loss


def loop(api: Any, folder: Path, inputs: list[np.ndarray], **options: Any) -> Step:
    """The loop of the documents, the same for both packages."""
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"), **options)
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(RATE)
    module.train()

    def step() -> Any:
        loss = module(*inputs)
        optimizer.step()
        module.lazy_reset_grad()
        return loss

    return step


def ortmod(folder: Path, settings: dict, inputs: list[np.ndarray]) -> Step:
    from ortmod.training import api

    return loop(api, folder / "ours", inputs)


def ort(folder: Path, settings: dict, inputs: list[np.ndarray]) -> Step:
    import onnx
    import onnxruntime

    package = types.ModuleType("onnxruntime.training")  # its own __init__ imports torch, which api and artifacts do not need
    package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
    sys.modules[package.__name__] = package
    from onnxruntime.training import api, artifacts
    from onnxruntime.training.onnxblock import optim

    artifacts.generate_artifacts(
        onnx.load(folder / "model.onnx"),
        requires_grad=settings["weights"],
        loss=artifacts.LossType[settings["loss"]],
        optimizer=optim.AdamW(**ADAMW),
        artifact_directory=str(folder),
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return loop(api, folder, inputs, session_options=options)


def stock(folder: Path, settings: dict, inputs: list[np.ndarray]) -> Step:
    """Plain sessions of the inference package: state goes in as inputs and comes back as outputs."""
    import onnxruntime

    from ortmod.training import checkpoint

    folder = folder / "ours"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    train = onnxruntime.InferenceSession(folder / "training_model.onnx", options)
    update = onnxruntime.InferenceSession(folder / "optimizer_model.onnx", options)
    state = checkpoint.load(folder / "checkpoint")
    names, weights = state.trainable, [state.parameters[n].numpy() for n in state.trainable]
    gradients = [np.zeros_like(w) for w in weights]
    moments = [[np.zeros_like(w) for w in weights] for _ in update.get_inputs()[4:]]
    users = [i.name for i in train.get_inputs()][: len(inputs)]
    buffers = [name + BUFFER for name in names]
    outputs = ["loss", *(f"{name}_grad.accumulation.out" for name in names)]
    reset, rate = np.array([True]), np.array([RATE], np.float32)
    sequences = [i.name for i in update.get_inputs()][4:]
    count = 0

    def step() -> Any:
        nonlocal weights, gradients, moments, count
        count += 1
        feeds = dict(zip([*users, *names, *buffers], [*inputs, *weights, *gradients], strict=True))
        loss, *gradients = train.run(outputs, feeds | {"lazy_reset_grad": reset})
        feeds = {"learning_rate": rate, "step": np.array([count]), "params": weights, "gradients": gradients}
        weights, *moments = update.run(None, feeds | dict(zip(sequences, moments, strict=True)))
        return loss

    return step


def eager(folder: Path, settings: dict, inputs: list[np.ndarray]) -> Step:
    import torch
    from models import CASES

    torch.set_num_threads(1)
    module = next(case for case in CASES if case.name == settings["case"]).module()
    if settings["case"].startswith("transformer"):
        module = Rows(module)
    module.load_state_dict(torch.load(folder / "weights.pt"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, fused=True, **ADAMW)
    x, y = map(torch.from_numpy, inputs)
    loss_of = getattr(torch.nn, settings["loss"])()

    def step() -> Any:
        loss = loss_of(module(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


try:
    import torch
except ImportError:  # the environment of onnxruntime-training
    pass
else:

    class Rows(torch.nn.Module):
        """Scores of all tokens of a batch one after another, as the losses of artifacts take them."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x).flatten(0, 1)


def main() -> None:
    contender = {"ortmod": ortmod, "ort": ort, "stock": stock, "torch": eager}[sys.argv[1]]
    folder = Path(sys.argv[2])
    with np.load(folder / "data.npz") as data:
        inputs = [data["x"], data["y"]]
    try:
        step = contender(folder, json.loads((folder / "settings.json").read_text()), inputs)
    except RuntimeError as error:
        print(str(error).split("false. ")[-1].splitlines()[0])
        return
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.process_time()
        for _ in range(int(line)):
            loss = step()
        print(time.process_time() - begin, float(loss), flush=True)


if __name__ == "__main__":
    main()
