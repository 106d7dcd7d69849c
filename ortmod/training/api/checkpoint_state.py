"""What a checkpoint holds, by name: parameters and properties."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ortmod import _C
from ortmod._errors import DTypeError, ModelError
from ortmod.training import checkpoint
from ortmod.training._values import to_array_as_is, to_tensor
from ortmod.training.checkpoint import State


class Parameter:
    """One parameter of a state; `data` and `grad` are copies as numpy arrays of its element type.

    bfloat16 is `ml_dtypes.bfloat16`; DTypeError where that package is missing.
    """

    def __init__(self, state: "CheckpointState", name: str) -> None:
        self._state, self._name = state, name

    @property
    def name(self) -> str:
        return self._name

    @property
    def data(self) -> np.ndarray:
        """The value; set it to an array or tensor of the same shape and type."""
        return to_array_as_is(self._state._value(self._name)).copy()

    @data.setter
    def data(self, value: Any) -> None:
        self._state._set(self._name, to_tensor(value))

    @property
    def grad(self) -> np.ndarray | None:
        """What gradients have added up to; None before the first training step and for frozen parameters."""
        session = self._state._session
        if session is None or not session.has_gradients or not self.requires_grad:
            return None
        return to_array_as_is(session.gradient(self._name)).copy()

    @property
    def requires_grad(self) -> bool:
        return self._name in self._state._trainable

    def __repr__(self) -> str:
        value = self._state._state.parameters[self._name]
        return f"Parameter({self._name!r}, {str(value.dtype)[6:]}{list(value.shape)}, requires_grad={self.requires_grad})"


class Parameters:
    """The parameters of a state by name; iterates (name, Parameter), sorted by name."""

    def __init__(self, state: "CheckpointState") -> None:
        self._state = state

    def __getitem__(self, name: str) -> Parameter:
        if name not in self:
            raise KeyError(f"Parameter {name} not found.")
        return Parameter(self._state, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self[name].data = value

    def __contains__(self, name: object) -> bool:
        return name in self._state._state.parameters

    def __iter__(self) -> Iterator[tuple[str, Parameter]]:
        return iter([(name, Parameter(self._state, name)) for name in sorted(self._state._state.parameters)])

    def __len__(self) -> int:
        return len(self._state._state.parameters)

    def __repr__(self) -> str:
        return f"Parameters({', '.join(repr(parameter) for _, parameter in self)})"


class Properties:
    """Numbers and texts that a state carries, by name."""

    def __init__(self, values: dict[str, int | float | str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> int | float | str:
        if name not in self._values:
            raise KeyError(f"Property {name} not found.")
        return self._values[name]

    def __setitem__(self, name: str, value: int | float | str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise DTypeError(f"[artifacts] Property {name}: got {type(value).__name__}, expected int, float or str.")
        self._values[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, int | float | str]]:
        return iter(sorted(self._values.items()))

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Properties({self._values!r})"


class CheckpointState:
    """The state of a training: read it from a file, give it to a Module, save it again."""

    def __init__(self, state: State) -> None:
        if not isinstance(state, State):
            raise DTypeError(
                f"[artifacts] Invalid argument for CheckpointState: got {type(state).__name__}; use "
                "CheckpointState.load_checkpoint."
            )
        self._state = state
        self._trainable = set(state.trainable)
        self._session: _C.TrainingSession | None = None
        self._ready = not state.nominal
        self._parameters, self._properties = Parameters(self), Properties(state.properties)

    @classmethod
    def load_checkpoint(cls, checkpoint_uri: str | os.PathLike) -> "CheckpointState":
        """Reads a checkpoint of generate_artifacts or save_checkpoint, or one of onnxruntime-training 1.19.2."""
        return cls(checkpoint.load(checkpoint_uri))

    @classmethod
    def save_checkpoint(
        cls, state: "CheckpointState", checkpoint_uri: str | os.PathLike, include_optimizer_state: bool = False
    ) -> None:
        """Writes the state; a process that dies meanwhile leaves the old file or the new one."""
        state._collect()
        checkpoint.save(state._state, checkpoint_uri, optimizer=include_optimizer_state)

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    @property
    def properties(self) -> Properties:
        return self._properties

    def _attach(self, session: _C.TrainingSession) -> None:
        if self._session is not None:
            raise ModelError(
                "[checkpoint] the state belongs to another Module already, whose steps update it; give each Module a state of its "
                "own: save_checkpoint to keep what was trained, then load_checkpoint"
            )
        self._session = session
        self._trainable = set(session.trainable)

    def _value(self, name: str) -> torch.Tensor:
        self._check_ready()
        live = self._session is not None and name in self._session.parameter_names
        return self._session.parameter(name) if live and self._session else self._state.parameters[name]

    def _set(self, name: str, value: torch.Tensor) -> None:
        own = self._state.parameters[name]
        if self._session is not None and name in self._session.parameter_names:
            self._session.set_parameter(name, value)
            return
        if own.shape != value.shape or own.dtype != value.dtype:
            raise ModelError(
                f'[checkpoint] Parameter data shape/type mismatch of "{name}": got {value.dtype}{list(value.shape)}, '
                f"expected {own.dtype}{list(own.shape)}"
            )
        self._state.parameters[name] = value.clone()

    def _check_ready(self) -> None:
        if not self._ready:
            raise ModelError(
                "[checkpoint] the state is nominal: it has names without values; call Module.copy_buffer_to_parameters first"
            )

    def _collect(self) -> None:
        """Takes the present values from the session."""
        session, state = self._session, self._state
        if session is None:
            return
        if self._ready:
            state.parameters.update({name: session.parameter(name) for name in session.parameter_names})
        if session.has_optimizer:
            state.optimizer, state.step, state.learning_rate = session.optimizer_states(), session.step, session.learning_rate
