"""Training and eval steps of a training model."""

import os
from typing import Any

import numpy as np

from ortmod import _C
from ortmod._device import device_of
from ortmod._errors import DTypeError, ModelError
from ortmod.training._values import to_array_as_is, to_tensor
from ortmod.training.api.checkpoint_state import CheckpointState
from ortmod.training.checkpoint import Replacement


class Module:
    """Runs the models of generate_artifacts on the parameters of a state, which steps update in place.

    Args:
        train_model_uri: path of the training model.
        state: the parameters; a state belongs to one module.
        eval_model_uri: path of the eval model; without it there is no eval mode and no export.
        device: "cpu", "cuda" or "cuda:1".
        session_options: taken for the sake of code for onnxruntime-training; must be None.

    Raises:
        ModelError: a file is no training model or does not belong to the state, or the state has a module already.
        DeviceError: the device is not there.
    """

    def __init__(
        self,
        train_model_uri: str | os.PathLike,
        state: CheckpointState,
        eval_model_uri: str | os.PathLike | None = None,
        device: str = "cpu",
        session_options: Any = None,
    ) -> None:
        if not isinstance(state, CheckpointState):
            raise DTypeError(f"[artifacts] Module: got a state of type {type(state).__name__}, expected CheckpointState.")
        if session_options is not None:
            raise ModelError("[artifacts] session_options: ortmod's engine takes none; leave it out")
        given = {name: None if v.device.type == "meta" else v for name, v in state._state.parameters.items()}
        evaluation = "" if eval_model_uri is None else os.fspath(eval_model_uri)
        self._session = _C.TrainingSession(os.fspath(train_model_uri), evaluation, given, str(device_of(device, "artifacts")))
        self._state, self.training = state, True
        self._step = self._session.train_step
        state._attach(self._session)

    def __call__(self, *inputs: Any) -> Any:
        """One step: the loss and the additional outputs; in training mode gradients add up until lazy_reset_grad().

        Inputs come in the order of `input_names()` as numpy arrays, torch tensors or DLPack; outputs are torch tensors if all
        inputs are, else numpy arrays (of bfloat16 values: float32).
        """
        if not self._state._ready:
            self._state._check_ready()
        return self._step(*inputs)

    def train(self, mode: bool = True) -> "Module":
        """Switches to training steps, or to eval steps; ModelError without an eval model."""
        if not mode and not self._session.has_eval:
            raise ModelError("[artifacts] there is no eval model; give eval_model_uri when the module is made")
        self.training = mode
        self._step = self._session.train_step if mode else self._session.eval_step
        return self

    def eval(self) -> "Module":
        return self.train(False)

    def lazy_reset_grad(self) -> None:
        """The next training step starts from zero gradients."""
        self._session.lazy_reset_grad()

    def get_parameters_size(self, trainable_only: bool = True) -> int:
        """Number of elements."""
        return self._session.parameters_size(trainable_only)

    def get_contiguous_parameters(self, trainable_only: bool = False) -> np.ndarray:
        """A copy of all parameters, one after another in the order of the training model's inputs, in their element type
        (bfloat16 as `ml_dtypes.bfloat16`)."""
        self._state._check_ready()
        return to_array_as_is(self._session.to_buffer(trainable_only))

    def copy_buffer_to_parameters(self, buffer: Any, trainable_only: bool = True) -> None:
        """Sets all parameters from one buffer, as get_contiguous_parameters gives it."""
        if not self._state._ready and trainable_only and len(self._session.trainable) < len(self._session.parameter_names):
            raise ModelError(
                "[checkpoint] the state is nominal: its first buffer must hold all parameters; give trainable_only=False"
            )
        self._session.from_buffer(to_tensor(buffer), trainable_only)
        self._state._ready = True

    def export_model_for_inferencing(self, inference_model_uri: str | os.PathLike, graph_output_names: list[str]) -> None:
        """Writes the eval model up to these outputs, with today's parameters as weights."""
        self._state._check_ready()
        with Replacement([inference_model_uri]) as files:
            self._session.export_for_inferencing(str(files.part(inference_model_uri)), list(graph_output_names))

    def input_names(self) -> list[str]:
        """Of the user's inputs, in the mode of today."""
        return self._session.input_names(self.training)

    def output_names(self) -> list[str]:
        """Of the user's outputs, in the mode of today."""
        return self._session.output_names(self.training)
