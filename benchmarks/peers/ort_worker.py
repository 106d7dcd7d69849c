"""Runs inside the environment of onnxruntime-training: `ort_worker.py FOLDER` reads questions, one JSON line each, and answers."""

import json
import logging
import sys
import time
import types
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

# The package's own __init__ imports torch, which neither artifacts nor api needs.
package = types.ModuleType("onnxruntime.training")
package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
sys.modules[package.__name__] = package

from onnxruntime.training import api, artifacts  # noqa: E402
from onnxruntime.training.onnxblock import optim  # noqa: E402


class Worker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = json.loads((folder / "settings.json").read_text())
        losses = {
            "mse": artifacts.LossType.MSELoss,
            "bce": artifacts.LossType.BCEWithLogitsLoss,
            "ce": artifacts.LossType.CrossEntropyLoss,
        }
        optimizers = {"adamw": optim.AdamW(eps=1e-8, weight_decay=0.01), "sgd": optim.SGD()}
        artifacts.generate_artifacts(
            onnx.load(folder / "model.onnx"),
            requires_grad=self.settings["weights"],
            loss=losses[self.settings["loss"]],
            optimizer=optimizers[self.settings["optimizer"]],
            artifact_directory=str(folder),
        )
        with np.load(folder / "data.npz") as data:
            self.X, self.y = data["X"], data["y"]
        self.options = onnxruntime.SessionOptions()
        self.options.log_severity_level = 3
        self.options.intra_op_num_threads = self.settings["threads"]
        self.options.add_session_config_entry("session.intra_op.allow_spinning", "0" if self.settings["threads"] == 1 else "1")

    def fit(self, epochs: int) -> float:
        begin = time.perf_counter()
        self.state = api.CheckpointState.load_checkpoint(str(self.folder / "checkpoint"))
        module = api.Module(
            str(self.folder / "training_model.onnx"), self.state, str(self.folder / "eval_model.onnx"), "cpu", self.options
        )
        optimizer = api.Optimizer(str(self.folder / "optimizer_model.onnx"), module)
        optimizer.set_learning_rate(self.settings["rate"])
        module.train()
        batch = self.settings["batch"]
        for _ in range(epochs):
            for first in range(0, len(self.X), batch):
                module(self.X[first : first + batch], self.y[first : first + batch])
                optimizer.step()
                module.lazy_reset_grad()
        return time.perf_counter() - begin

    def weights(self) -> None:
        found = {name: self.state.parameters[name].data for name in self.settings["weights"]}
        np.savez(self.folder / "weights.npz", **found)


def main() -> None:
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not look like an answer
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        question = json.loads(line)
        answer = {}
        if question["do"] == "fit":
            answer["seconds"] = worker.fit(question["epochs"])
        elif question["do"] == "weights":
            worker.weights()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
