"""Trains artifacts on the stock onnxruntime with plain sessions and numpy, as docs/coming-from-onnxruntime-training.md shows."""

from pathlib import Path

import numpy as np
import onnxruntime

from ortmod.training import checkpoint

BUFFER = "_grad.accumulation.buffer"


class StockTrainer:
    """The loop of the documents over two sessions: state goes in as inputs and comes back as outputs."""

    def __init__(self, directory, prefix="", options=None):
        directory = Path(directory)
        self.train = onnxruntime.InferenceSession(directory / f"{prefix}training_model.onnx", options)
        self.update = onnxruntime.InferenceSession(directory / f"{prefix}optimizer_model.onnx")
        state = checkpoint.load(directory / f"{prefix}checkpoint")
        self.parameters = {name: value.numpy() for name, value in state.parameters.items()}
        self.trainable = state.trainable
        self.outputs = [output.name for output in self.train.get_outputs()]
        self.gradients = [np.zeros_like(self.parameters[n]) for n in self.trainable]
        self.moments = {}
        for i in self.update.get_inputs()[4:]:
            wide = np.float64 if "double" in i.type else np.float32  # moments of float16 are wider
            self.moments[i.name] = [np.zeros(self.parameters[n].shape, wide) for n in self.trainable]
        self.steps = 0

    def accumulate(self, reset=True, **inputs):
        buffers = dict(zip([n + BUFFER for n in self.trainable], self.gradients, strict=True))
        found = self.train.run(None, {**inputs, **self.parameters, **buffers, "lazy_reset_grad": np.array([reset])})
        named = dict(zip(self.outputs, found, strict=True))
        self.gradients = [named[n + "_grad.accumulation.out"] for n in self.trainable]
        self.parameters.update({n[: -len(".updated")]: v for n, v in named.items() if n.endswith(".updated")})
        return named

    def step(self, rate):
        self.steps += 1
        feeds = {"learning_rate": np.array([rate], np.float32), "step": np.array([self.steps]), "gradients": self.gradients}
        feeds |= {"params": [self.parameters[n] for n in self.trainable], **self.moments}
        found = dict(zip([o.name for o in self.update.get_outputs()], self.update.run(None, feeds), strict=True))
        self.parameters.update(zip(self.trainable, found.pop("updated_params"), strict=True))
        self.moments.update({name.removeprefix("updated_"): value for name, value in found.items()})

    def fit_step(self, rate, **inputs):
        loss = self.accumulate(**inputs)["loss"]
        self.step(rate)
        return float(loss.reshape(()))
