"""The raw way: training sessions and agents with the names of onnxruntime-training, thin over this engine.

Values are torch tensors (numpy arrays and DLPack come in), devices are torch's names. A gradient model here is standard ONNX:
its inputs are
the model's, `<output>_grad`, then the trained weights; its outputs the model's, then `<name>_grad`. It has no YieldOp: a
TrainingAgent cuts it
into forward and backward.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch

from ortmod import _C
from ortmod._errors import DTypeError, ModelError, RunError, ShapeError
from ortmod._model import ONNX_TO_TORCH, load, type_text
from ortmod.gradient import GRADIENT_NAMES, build_gradient
from ortmod.training._engine import Engine
from ortmod.training._values import all_finite, to_array, to_tensor
from ortmod.training.excs import DataError, ParameterError
from ortmod.training.sgd_learning_rate import LearningRateAdamW, LearningRateSGD


class OrtValueVector(list):
    """A list of values."""

    def push_back(self, value: Any) -> None:
        self.append(to_tensor(value))


class OrtValueCache(dict):
    """Values by name that outlive a call. (Nothing is recomputed here, so nothing is stored by the engine.)"""

    def insert(self, name: str, value: Any) -> None:
        self[name] = to_tensor(value)

    def count(self, name: str) -> int:
        return int(name in self)

    def remove(self, name: str) -> None:
        del self[name]


class PartialGraphExecutionState:
    """What one forward keeps for its backward; one for each forward in flight."""

    def __init__(self) -> None:
        self.inputs: list[torch.Tensor] = []
        self.outputs: list[torch.Tensor] = []


@dataclass
class ValueInfo:
    """Name, type and shape of an input or output."""

    name: str
    type: str
    shape: list[Any] | None


def _info(values: Sequence[tuple[str, Any, bool]]) -> list[ValueInfo]:
    return [ValueInfo(name, type_text((t[0], None, t[2])), t[1]) for name, t, _ in values]


def _wanted(names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ModelError(f"[call] no output {', '.join(unknown)}: the outputs are {', '.join(known)}")
    return list(names or known)


class InferenceSession:
    """A graph to run; `weights` become inputs after the others."""

    def __init__(self, model: Any, weights: Sequence[str] = ()) -> None:
        self.model = load(model)
        self.executable = _C.Executable(self.model, list(weights))
        self.input_names = [name for name, _, _ in self.model.inputs] + list(weights)
        self.output_names = [name for name, _, _ in self.model.outputs]

    @property
    def _sess(self) -> "InferenceSession":
        return self

    def get_inputs(self) -> list[ValueInfo]:
        return _info(self.model.inputs)

    def get_outputs(self) -> list[ValueInfo]:
        return _info(self.model.outputs)

    def arguments(self, values: Sequence[Any]) -> list[torch.Tensor]:
        """The values as tensors of the types that the graph wants."""
        if len(values) != len(self.input_names):
            raise ShapeError(
                f"[call] wrong number of inputs: got {len(values)}, expected {len(self.input_names)} "
                f"({', '.join(self.input_names)})"
            )
        tensors = []
        for name, value, t in zip(self.input_names, values, self.executable.arg_types, strict=True):
            if value is None:
                raise NotImplementedError(f"the input {name!r} is None; every input needs a value")
            tensor = to_tensor(value)
            if tensor.dtype != ONNX_TO_TORCH[t[0]]:
                raise DTypeError(f'[call] wrong element type of "{name}": got {tensor.dtype}, expected {ONNX_TO_TORCH[t[0]]}')
            tensors.append(tensor)
        return tensors

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """The outputs as numpy arrays."""
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise ModelError(f"[call] inputs are missing: {', '.join(missing)}; got {', '.join(feeds)}")
        values = self.arguments([feeds[name] for name in self.input_names])
        wanted = _wanted(output_names, self.output_names)
        with torch.no_grad():
            outputs = dict(zip(self.output_names, _C.run(self.executable, values), strict=True))
        return [to_array(outputs[name]) for name in wanted]

    def run_with_iobinding(self, binding: "SessionIOBinding", run_options: Any = None) -> None:
        values = self.arguments([binding.inputs.get(name) for name in self.input_names])
        with torch.no_grad():
            binding.results = dict(zip(self.output_names, _C.run(self.executable, values), strict=True))


class SessionIOBinding:
    """Values bound to the inputs of a session, and its outputs after a run."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.results: dict[str, torch.Tensor] = {}

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        if name not in self.session.input_names:
            raise ModelError(f"[call] no input {name!r}: the inputs are {', '.join(self.session.input_names)}")
        self.inputs[name] = to_tensor(value)

    bind_input = bind_ortvalue_input

    def bind_output(self, name: str, device: Any = "cpu") -> None:
        if name not in self.session.output_names:
            raise ModelError(f"[call] no output {name!r}: the outputs are {', '.join(self.session.output_names)}")
        self.outputs[name] = device

    def get_outputs(self) -> OrtValueVector:
        if self.outputs and not self.results:
            raise RunError("[call] get_outputs: nothing ran with this binding; call run_with_iobinding first")
        return OrtValueVector(self.results[name].to(device) for name, device in self.outputs.items())


class TrainingAgent:
    """Forward and backward of a session as two calls by position.

    Args:
        session: of a graph, or of a gradient model (then its forward part is what runs).
        fw_feed_names: the order of the inputs of forward.
        bw_fetches_names: `<input>_grad` in the order in which backward returns them.
        fw_outputs_device_info, bw_outputs_device_info, local_rank: kept for onnxruntime; values stay on the device of the inputs.
    """

    def __init__(
        self,
        session: InferenceSession,
        fw_feed_names: Sequence[str],
        fw_outputs_device_info: Any = None,
        bw_fetches_names: Sequence[str] | None = None,
        bw_outputs_device_info: Any = None,
        local_rank: int = 0,
    ) -> None:
        self.session = _forward_session(session, fw_feed_names)
        self.feeds = list(fw_feed_names)
        if sorted(self.feeds) != sorted(self.session.input_names):
            raise ModelError(f"[call] fw_feed_names: got {self.feeds}, expected an order of {self.session.input_names}")
        self.fetches = list(bw_fetches_names) if bw_fetches_names is not None else [f"{name}_grad" for name in self.feeds]
        unknown = [name for name in self.fetches if name.removesuffix("_grad") not in self.feeds]
        if unknown:
            raise ModelError(f"[call] bw_fetches_names: got {unknown}, expected `<input>_grad` of {self.feeds}")

    def run_forward(
        self, feeds: Sequence[Any], fetches: OrtValueVector, state: PartialGraphExecutionState, cache: Any = None
    ) -> None:
        """Appends the outputs to `fetches`; what backward needs is kept in `state`."""
        if len(feeds) != len(self.feeds):
            raise ShapeError(
                f"[forward] wrong number of inputs: got {len(feeds)}, expected {len(self.feeds)} ({', '.join(self.feeds)})"
            )
        given = dict(zip(self.feeds, feeds, strict=True))
        tensors = self.session.arguments([given[name] for name in self.session.input_names])
        state.inputs = [t.detach().requires_grad_(t.dtype.is_floating_point) for t in tensors]
        with torch.enable_grad():
            state.outputs = list(_C.run(self.session.executable, state.inputs))
        fetches.extend(o.detach() for o in state.outputs)

    def run_backward(self, feeds: Sequence[Any], fetches: OrtValueVector, state: PartialGraphExecutionState) -> None:
        """Appends the gradients; `feeds`: one per output, None for zeros. A gradient that nothing depends on is zeros; of
        integers, None."""
        if not state.outputs:
            raise RunError("[train] run_backward: no forward ran with this state")
        if len(feeds) != len(state.outputs):
            raise ShapeError(f"[backward] wrong number of output gradients: got {len(feeds)}, expected {len(state.outputs)}")
        feeds = [None if g is None else to_tensor(g) for g in feeds]
        pairs = [(o, g) for o, g in zip(state.outputs, feeds, strict=True) if o.requires_grad and g is not None]
        for name, (o, g) in zip(self.session.output_names, zip(state.outputs, feeds, strict=True), strict=True):
            if g is not None and tuple(g.shape) != tuple(o.shape):
                raise ShapeError(
                    f'[backward] gradient of the output "{name}": got shape {tuple(g.shape)}, expected {tuple(o.shape)}, that of '
                    "the output"
                )
        leaves = [leaf for leaf in state.inputs if leaf.requires_grad]
        found: Sequence[Any] = [None] * len(leaves)
        if pairs and leaves:
            seeds = [g.to(o) for o, g in pairs]
            found = torch.autograd.grad([o for o, _ in pairs], leaves, seeds, allow_unused=True)
        by_leaf = {id(leaf): torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)}
        by_name = dict(zip(self.session.input_names, state.inputs, strict=True))
        fetches.extend(by_leaf.get(id(by_name[name.removesuffix("_grad")])) for name in self.fetches)
        state.inputs, state.outputs = [], []


def _forward_session(session: InferenceSession, feeds: Sequence[str]) -> InferenceSession:
    notes = dict(session.model.metadata).get(GRADIENT_NAMES)
    if notes is None:
        missing = [name for name in feeds if name not in session.input_names]
        return InferenceSession(session.model, missing) if missing else session
    gradients = set(json.loads(notes).values())
    outputs = [name for name in session.output_names if name not in gradients]
    proto = onnx.load_from_string(session.model.keep_outputs(outputs).to_bytes())
    kept = [value for value in proto.graph.input if value.name not in gradients]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    weights = [i.name for i in proto.graph.initializer]
    return InferenceSession(
        proto, [name for name in feeds if name in weights and name not in [n for n, _, _ in load(proto).inputs]]
    )


@dataclass
class OrtModuleGraphBuilderConfiguration:
    """What an OrtModuleGraphBuilder is told. Arguments that tune another runtime are accepted."""

    initializer_names: list[str] = field(default_factory=list)
    initializer_names_to_train: list[str] = field(default_factory=list)
    input_names_require_grad: list[str] = field(default_factory=list)
    build_gradient_graph: bool = True
    use_memory_efficient_gradient: bool = False
    enable_caching: bool = False
    loglevel: int = 30
    graph_transformer_config: Any = None


@dataclass
class GraphInfo:
    """Names in a gradient model."""

    user_input_names: list[str]
    user_input_grad_names: dict[str, str]
    initializer_names: list[str]
    initializer_names_to_train: list[str]
    initializer_grad_names_to_train: list[str]
    user_output_names: list[str]
    module_output_gradient_name: list[str]


class OrtModuleGraphBuilder:
    """Builds the gradient model of a model: `initialize(bytes, configuration)`, `build()`, then the models and names."""

    def __init__(self) -> None:
        self._model: _C.Model | None = None
        self._built: onnx.ModelProto | None = None

    def initialize(self, model: Any, config: OrtModuleGraphBuilderConfiguration) -> None:
        self._model, self._config, self._built = load(model), config, None
        known = [name for name, _, _ in self._model.weights]
        unknown = [name for name in config.initializer_names_to_train if name not in known]
        if unknown:
            raise ModelError(f"[differentiate] initializer_names_to_train: got {unknown}, expected some of {known}")

    def build(self, config: Any = None) -> None:
        if self._model is None:
            raise RunError("[train] OrtModuleGraphBuilder.build: call initialize first")
        c = self._config
        wrt = [*c.input_names_require_grad, *c.initializer_names_to_train]
        if c.build_gradient_graph:
            self._built = build_gradient(self._model, wrt=wrt, unreachable="zero", training=True)
        else:
            self._built = onnx.load_from_string(self._model.to_bytes())

    def _proto(self) -> onnx.ModelProto:
        if self._built is None:
            raise RunError("[train] OrtModuleGraphBuilder: call build first")
        return self._built

    def get_gradient_model(self) -> bytes:
        return self._proto().SerializeToString()

    get_model = get_gradient_model

    def get_forward_model(self) -> bytes:
        """The model with the trained weights as inputs after the others."""
        self._proto()
        assert self._model is not None
        return self._model.with_default_inputs(self._config.initializer_names_to_train, [], False).to_bytes()

    get_inference_optimized_model = get_forward_model

    def get_graph_info(self) -> GraphInfo:
        proto = self._proto()
        assert self._model is not None
        notes = next((p.value for p in proto.metadata_props if p.key == GRADIENT_NAMES), "{}")
        names = json.loads(notes)
        outputs = [name for name, _, _ in self._model.outputs]
        c = self._config
        return GraphInfo(
            user_input_names=[name for name, _, _ in self._model.inputs],
            user_input_grad_names={name: names[name] for name in c.input_names_require_grad if name in names},
            initializer_names=list(c.initializer_names),
            initializer_names_to_train=list(c.initializer_names_to_train),
            initializer_grad_names_to_train=[names[name] for name in c.initializer_names_to_train if name in names],
            user_output_names=outputs,
            module_output_gradient_name=[names[name] for name in outputs if name in names],
        )


@dataclass
class TrainingParameters:
    """What a TrainingSession is told. The attributes maps are per weight: `alpha`, `beta`, `epsilon`, `lambda` of the
    AdamOptimizer."""

    loss_output_name: str = "loss"
    weights_to_train: Any = field(default_factory=set)
    training_optimizer_name: str = "SGDOptimizer"
    lr_params_feed_name: str = "Learning_Rate"
    optimizer_attributes_map: dict[str, dict[str, float]] = field(default_factory=dict)
    optimizer_int_attributes_map: dict[str, dict[str, int]] = field(default_factory=dict)


_ADAM = {"alpha": None, "beta": None, "epsilon": None, "lambda": None, "do_bias_correction": 1, "weight_decay_mode": 0}


def _adam_attributes(parameters: TrainingParameters) -> dict[str, float]:
    """The attributes of the AdamOptimizer, which all weights share here."""
    maps = (parameters.optimizer_attributes_map, parameters.optimizer_int_attributes_map)
    every = {name: {k: v for m in maps for k, v in m.get(name, {}).items()} for m in maps for name in m}
    given = next(iter(every.values()), {})
    other = [name for name, own in every.items() if own != given]
    if other or (given and set(every) < set(parameters.weights_to_train)):
        raise ParameterError(f"[train] optimizer_attributes_map: got {every}, expected the same attributes for every weight")
    for key, value in given.items():
        if key not in _ADAM or (_ADAM[key] is not None and value != _ADAM[key]):
            known = ", ".join(k if v is None else f"{k} = {v}" for k, v in _ADAM.items())
            raise ParameterError(f"[train] optimizer_attributes_map: got {key} = {value}, expected some of {known}")
    return given


class TrainingSession:
    """One step a call, with the loss in the graph and the learning rate as an input: `run(None, {..., "Learning_Rate": rate})`.

    A weight moves by the rate times the gradient of the loss, as the graph has it: nothing is divided by the rows.
    """

    def __init__(self, model: Any, parameters: TrainingParameters, session_options: Any = None, providers: Any = None) -> None:
        self.model = load(model)
        self.parameters = parameters
        names = [name for name, _, _ in self.model.weights if name in set(parameters.weights_to_train)]
        unknown = set(parameters.weights_to_train) - set(names)
        if unknown:
            raise ModelError(
                f"[compose] weights_to_train: got {sorted(unknown)}, expected some of {[n for n, _, _ in self.model.weights]}"
            )
        if parameters.training_optimizer_name == "SGDOptimizer":
            rate: Any = LearningRateSGD(learning_rate="constant")
        elif parameters.training_optimizer_name in ("AdamOptimizer", "AdamWOptimizer"):
            given = _adam_attributes(parameters)
            rate = LearningRateAdamW(
                betas=(given.get("alpha", 0.9), given.get("beta", 0.999)),
                eps=given.get("epsilon", 1e-8),
                weight_decay=given.get("lambda", 0.0),
            )
        else:
            raise NotImplementedError(
                f"training_optimizer_name: got {parameters.training_optimizer_name!r}, expected 'SGDOptimizer' or 'AdamOptimizer'"
            )
        self._engine = Engine(self.model, names, rate, loss_output=parameters.loss_output_name, divide=False)
        self._others = [name for name, _, _ in self.model.outputs if name != parameters.loss_output_name]

    def get_inputs(self) -> list[ValueInfo]:
        return [*_info(self.model.inputs), ValueInfo(self.parameters.lr_params_feed_name, "float32", [1])]

    def get_outputs(self) -> list[ValueInfo]:
        return _info(self.model.outputs)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any], run_options: Any = None) -> list[np.ndarray]:
        """One update; the outputs are those before it."""
        name = self.parameters.lr_params_feed_name
        if name not in feeds:
            raise ModelError(f"[train] no learning rate among the inputs: got {', '.join(feeds)}, expected {name!r}, too")
        missing = [n for n, _, _ in self.model.inputs if n not in feeds]
        if missing:
            raise ModelError(f"[train] inputs are missing: {', '.join(missing)}")
        columns = self._engine.tensors([feeds[n] for n, _, _ in self.model.inputs])
        wanted = _wanted(output_names, [n for n, _, _ in self.model.outputs])
        rate = to_tensor(feeds[name]).reshape(-1)
        if rate.numel() != 1 or not all_finite(rate):
            raise DataError(f"[train] {name}: got {rate.tolist()}, expected one finite number")
        values = {}
        if any(n in self._others for n in wanted):
            values = dict(zip([n for n, _, _ in self.model.outputs], self._engine.trainer.outputs(columns), strict=True))
        loss = self._engine.trainer.step(columns, float(rate))
        loss_name = self.parameters.loss_output_name
        dtype = next(ONNX_TO_TORCH[t[0]] for n, t, _ in self.model.outputs if n == loss_name)
        values[loss_name] = torch.tensor(loss, dtype=dtype).reshape(values[loss_name].shape if loss_name in values else ())
        return [to_array(values[n]) for n in wanted]

    def get_state(self) -> dict[str, np.ndarray]:
        """The trained weights by name."""
        return {name: to_array(value) for name, value in self._engine.weights().items()}

    def load_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Sets trained weights by name; with `strict`, all of them."""
        known = list(self._engine.weights())
        unknown, missing = [n for n in state if n not in known], [n for n in known if n not in state]
        if unknown or (strict and missing):
            raise ModelError(f"[train] state: unknown {unknown}, missing {missing}; expected {known}")
        self._engine.set_weights(state)
