"""OrtGradientForwardBackward: forward and backward of an ONNX graph as calls, for any framework, numpy alone included."""

from collections.abc import Sequence
from typing import Any

import torch

from ortmod import _C
from ortmod._device import device_of
from ortmod._errors import ModelError, RunError
from ortmod._model import load
from ortmod.training._params import Parameters
from ortmod.training._values import like, to_array, to_tensor
from ortmod.training.excs import ParameterError
from ortmod.training.lowlevel import InferenceSession, OrtValueCache, OrtValueVector, PartialGraphExecutionState, TrainingAgent
from ortmod.training.onnx_helper import initializer_names


class OrtGradientForwardBackwardFunction:
    """One user of a compiled graph: `forward(inputs, training=True)` pushes a state, `backward` pops the last one, so that several
    forwards may be in flight. Inputs are the graph's inputs, then the trained weights, in the order of `grad_input_names_`."""

    _owner: "OrtGradientForwardBackward"

    def __init__(self) -> None:
        self.states_: list[PartialGraphExecutionState] = []
        self.saved_tensors_: tuple[Any, ...] | None = None
        self._example: Any = None

    def forward(self, inputs: Sequence[Any], training: bool = False) -> list[Any]:
        """The outputs, in the kind of the first input. `training=True`: for a backward to follow."""
        owner = self._owner
        tensors = [t.to(owner.device) for t in self.input_to_ort(inputs)]
        self._example = inputs[0] if len(inputs) else None
        outputs = OrtValueVector()
        if training:
            state = PartialGraphExecutionState()
            owner._agent.run_forward(tensors, outputs, state)
            self.states_.append(state)
        else:
            session = owner._session
            with torch.no_grad():
                outputs.extend(_C.run(session.executable, session.arguments(tensors)))
        return [like(o, self._example) for o in outputs]

    def backward(self, grad_outputs: Sequence[Any]) -> list[Any]:
        """Gradients of the inputs and weights of the last forward in training, one per argument (zeros where nothing depends on
        it; None for
        integers). `grad_outputs`: one per output, None for zeros."""
        if not self.states_:
            raise RunError("[train] backward: no forward in training is waiting; call forward(inputs, training=True) first")
        gradients = OrtValueVector()
        self._owner._agent.run_backward(grad_outputs, gradients, self.states_[-1])
        self.states_.pop()
        return [None if g is None else like(g, self._example) for g in gradients]

    def save_for_backward(self, inputs: Sequence[Any]) -> None:
        self.saved_tensors_ = tuple(inputs)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        if self.saved_tensors_ is None:
            raise RunError("[train] no tensors were saved; call save_for_backward first")
        return self.saved_tensors_

    @staticmethod
    def device_name(device: Any) -> str:
        return "Gpu" if torch.device(device).type == "cuda" else "Cpu"

    @staticmethod
    def input_to_ort(tensors: Sequence[Any], devices: Any = None, debug: bool = False) -> list[torch.Tensor]:
        """Values as tensors over the same memory."""
        if any(t is None for t in tensors):
            raise NotImplementedError("input_to_ort: an input is None; every input needs a value")
        return [to_tensor(t) for t in tensors]

    @classmethod
    def save_onnx_graph(cls, folder: Any, prefix: str | None = None, suffix: str | None = None) -> dict[str, Any]:
        return cls._owner.save_onnx_graph(folder, prefix, suffix)


class OrtGradientForwardBackward(Parameters):
    """The gradient of an ONNX graph as a pair of calls.

    Args:
        onnx_model: path, bytes or ModelProto.
        weights_to_train: names, in any order; default: every float initializer.
        input_names, output_names: of the graph; default: all of them.
        class_name: of the class that `new_instance` makes objects of.
        training: Dropout and BatchNormalization behave as in training.
        device: a torch device.

    `grad_input_names_`: the graph's inputs, then the weights; `gradient_names_`: of what backward returns, in the same order.
    Other arguments of onnxcustom (sess_options, providers, ...) belong to a runtime that is not used; they are accepted and must
    be None.
    """

    def __init__(
        self,
        onnx_model: Any,
        weights_to_train: Sequence[str] | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        class_name: str | None = None,
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        run_options: Any = None,
        graph_builder_config: Any = None,
        device_index: int = 0,
        enable_logging: bool = False,
        debug: bool = False,
        device: Any = None,
        training: bool = False,
    ) -> None:
        self.onnx_model = onnx_model
        self.weights_to_train = weights_to_train
        self.input_names = input_names
        self.output_names = output_names
        self.class_name = class_name
        for name, value in (
            ("sess_options", sess_options),
            ("provider_options", provider_options),
            ("run_options", run_options),
            ("graph_builder_config", graph_builder_config),
        ):
            if value is not None:
                raise ParameterError(
                    f"[train] {name}: got {value!r}, expected None: it belongs to a runtime session, which is not used here"
                )
        self.device_index = device_index
        self.enable_logging = enable_logging
        self.debug = debug
        self.training = training
        self.providers = providers
        self.device = device_of(device if device is not None else _device_of(providers, device_index))
        self._init()

    sess_options = provider_options = run_options = graph_builder_config = None

    def _init(self) -> None:
        model = load(self.onnx_model)
        initializers = {name: t for name, t, _ in model.weights}
        floats = [name for name, t in initializers.items() if t[0] in (1, 10, 11, 16)]
        if self.weights_to_train is None:
            names = initializer_names(self.onnx_model, model)
        else:
            names = [self.weights_to_train] if isinstance(self.weights_to_train, str) else list(self.weights_to_train)
        if not names:
            raise ModelError("[train] no float initializer to train in the model")
        unknown = [name for name in names if name not in floats]
        if unknown:
            raise ParameterError(f"[train] weights_to_train: got {unknown}, expected names of float initializers: {floats}")
        if len(set(names)) != len(names):
            raise ParameterError(f"[train] weights_to_train: got {names}, expected each name once")
        inputs = [name for name, _, _ in model.inputs]
        if self.input_names is not None and list(self.input_names) != inputs:
            raise ParameterError(f"[train] input_names: got {list(self.input_names)}, expected the inputs of the graph: {inputs}")
        if self.output_names is not None:
            model = model.keep_outputs(list(self.output_names))
        model = model.with_training(self.training)
        self.weights_to_train = names
        self._model = model
        self._session = InferenceSession(model, names)
        self.grad_input_names_ = [*inputs, *names]
        self.output_names_ = [name for name, _, _ in model.outputs]
        self.gradient_names_ = [f"{name}_grad" for name in self.grad_input_names_]
        self._agent = TrainingAgent(self._session, self.grad_input_names_, None, self.gradient_names_)
        devices = [str(self.device)] * len(self.grad_input_names_)
        self.cls_type_ = type(
            self.class_name or f"OrtGradientForwardBackwardFunction_{id(self)}",
            (OrtGradientForwardBackwardFunction,),
            {
                "_owner": self,
                "_grad_input_names": self.grad_input_names_,
                "_input_names": inputs,
                "_output_names": self.output_names_,
                "_bw_fetches_names": self.gradient_names_,
                "_onx_inp": self.grad_input_names_,
                "_onx_out": self.gradient_names_,
                "_weights_to_train": names,
                "_training_agent": self._agent,
                "_sess_eval": self._session,
                "_cache": OrtValueCache(),
                "_run_options": None,
                "_debug": self.debug,
                "_devices": devices,
                "_fw_outputs_device_info": devices[:1] * len(self.output_names_),
                "_fw_no_grad_output_device_info": devices[:1] * len(self.output_names_),
                "_bw_outputs_device_info": devices,
            },
        )

    def new_instance(self) -> OrtGradientForwardBackwardFunction:
        return self.cls_type_()

    def get_initializer(self, name: str, exc: bool = True) -> Any:
        """The value of an initializer as numpy array; None, or RuntimeError with `exc`, when there is none."""
        try:
            return to_array(self._model.weight(name)).copy()
        except ModelError as error:
            if exc:
                raise ModelError(f"[train] no initializer {name!r} in the model") from error
            return None

    def build_onnx_functions(self) -> dict[str, Any]:
        import onnx

        from ortmod.gradient import build_gradient

        forward = onnx.load_from_string(self._model.to_bytes())
        return {"trained": forward, "gradient": build_gradient(forward, wrt=self.weights_to_train, unreachable="zero")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weights_to_train={self.weights_to_train})"

    def __getstate__(self) -> dict[str, Any]:
        keep = {key: value for key, value in self.__dict__.items() if not key.endswith("_") and not key.startswith("_")}
        return {**keep, "onnx_model": self._model.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init()


def _device_of(providers: Any, index: int) -> torch.device:
    """The device that a provider name, a device name or a list of providers means."""
    first = providers[0] if isinstance(providers, list | tuple) and providers else providers
    if first is None:
        return torch.device("cpu")
    name = str(getattr(first, "type", first)).lower()
    if name in ("cpu", "cpuexecutionprovider"):
        return torch.device("cpu")
    if name.startswith(("cuda", "gpu")):
        return torch.device(name.replace("gpu", "cuda") if ":" in name else f"cuda:{index}")
    raise ParameterError(
        f"[train] providers: got {providers!r}, expected 'cpu', 'cuda', 'gpu', 'cuda:0' or a list of provider names"
    )
