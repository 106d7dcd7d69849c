"""The graph of a fitted estimator with its engine: made once for the same options, carried over to others, pickled as its state."""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch

from ortmod import _C
from ortmod._choice import choose
from ortmod._errors import ModelError, ShapeError
from ortmod._model import ONNX_TO_TORCH, load
from ortmod.training._engine import Engine
from ortmod.training._values import to_tensor
from ortmod.training.onnx_helper import replace_initializers_into_onnx

Selection = str | Iterable[str] | Callable[[str], bool] | None


def _chosen(proto: onnx.ModelProto, output: str | None) -> str:
    floats = [o.name for o in proto.graph.output if o.type.tensor_type.elem_type in (1, 10, 11, 16)]
    if output is not None:
        if output not in floats and not any(output in node.output for node in proto.graph.node):
            raise ModelError(
                f"[train] output: got {output!r}, expected one of the float outputs {', '.join(floats) or '(none)'} or a "
                "value inside the graph"
            )
        return output
    if not floats:
        raise ModelError("[train] model: no output of floats, so there is nothing that a loss can be made of")
    return floats[0]


def _read(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            names.update(o.name for o in graph.output)
            for inner in graph.node:
                names |= _read(inner)
    return names


class Session:
    """One graph X -> output.

    Args:
        proto: the graph with the weights to start from.
        output: the name of the output (or of a value inside) that is trained; default: the first output of floats.
        trainable, frozen: as OnnxModule has them.
    """

    def __init__(self, proto: onnx.ModelProto, output: str | None = None, trainable: Selection = None, frozen: Selection = None):
        self.proto = proto
        self.output = _chosen(proto, output)
        kept = load(self._part())
        if len(kept.inputs) != 1:
            raise ModelError(
                f"[train] model: got the inputs {', '.join(n for n, _, _ in kept.inputs) or 'none'}, expected one, the rows X; "
                "graphs of several inputs train with OrtGradientForwardBackwardOptimizer"
            )
        choices = choose(kept, trainable, frozen, allow_merged=False)
        self.weights = [c.name for c in choices if c.kind == "parameter"]
        if not self.weights:
            raise ModelError(
                f"[train] nothing to train: none of the initializers {', '.join(c.name for c in choices) or '(none)'} that output "
                f"{self.output!r} depends on is trainable; name some with trainable="
            )
        ranks = {name: len(t[1] or ()) for name, t, _ in kept.weights}
        self.coefs = [name for name in self.weights if ranks[name] >= 2]
        self.intercepts = [name for name in self.weights if ranks[name] < 2]
        self._model: _C.Model | None = kept
        self._engine: Engine | None = None
        self._options: dict[str, Any] | None = None
        self._state: dict[str, Any] | None = None
        self._key: Any = None
        self._seed = 0
        self._generator: torch.Tensor | None = None
        self._lock = threading.RLock()

    def _part(self) -> onnx.ModelProto:
        """The graph as far as the output needs it."""
        part = onnx.ModelProto()
        part.CopyFrom(self.proto)
        graph = part.graph
        if self.output not in [o.name for o in graph.output]:
            graph.output.add(name=self.output)
        outputs = [o for o in graph.output if o.name == self.output]
        needed, nodes = {self.output}, []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(_read(node))
        for field, entries in (
            (graph.node, nodes[::-1]),
            (graph.output, outputs),
            (graph.initializer, [i for i in graph.initializer if i.name in needed]),
            (graph.input, [i for i in graph.input if i.name in needed]),
        ):
            copies = [copy.deepcopy(entry) for entry in entries]
            del field[:]
            field.extend(copies)
        return part

    @property
    def model(self) -> _C.Model:
        if self._model is None:
            self._model = load(self._part())
        return self._model

    @property
    def dtype(self) -> torch.dtype:
        return ONNX_TO_TORCH[self.model.inputs[0][1][0]]

    def check_features(self, features: int) -> None:
        dims = self.model.inputs[0][1][1]
        if dims is not None and (len(dims) != 2 or (isinstance(dims[1], int) and dims[1] != features)):
            raise ShapeError(
                f"[train] X: got {features} columns, but the graph's input {self.model.inputs[0][0]!r} has the shape {dims}"
            )

    def probe(self, X: np.ndarray) -> torch.Tensor:
        """The output for some rows, as a table; it may be of rank 1."""
        (value,) = _C.run(_C.Executable(self.model), [to_tensor(X).to(self.dtype)])
        if value.dim() not in (1, 2) or len(value) != len(X):
            raise ShapeError(
                f"[train] output {self.output!r}: got the shape {tuple(value.shape)} for {len(X)} rows, expected a row of "
                "numbers for each"
            )
        return value.reshape(len(X), -1)

    def producer(self) -> str:
        """The operator that makes the output."""
        return next((n.op_type for n in self.proto.graph.node if self.output in n.output), "")

    def seed(self, value: int) -> None:
        self._seed = value

    @contextmanager
    def running(self) -> Iterator[None]:
        """One thread at a time; random operators draw from the session's own generator."""
        with self._lock:
            if not self.model.modal:
                yield
                return
            outside = torch.get_rng_state()
            if self._generator is None:
                torch.default_generator.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._generator)
            try:
                yield
            finally:
                self._generator = torch.get_rng_state()
                torch.set_rng_state(outside)

    def engine_for(self, key: Any, options: Callable[[], dict[str, Any]]) -> Engine:
        """The engine for `options()`, which are not asked for again while `key` (None: unknown) is the same."""
        if self._engine is None or key is None or key != self._key:
            self.engine(options())
            self._key = key
        return self.engine()

    def engine(self, options: dict[str, Any] | None = None) -> Engine:
        """The engine for these options (default: the last ones); another one takes over weights, optimizer states and progress."""
        if self._engine is not None and (options is None or options == self._options):
            return self._engine
        wanted = copy.deepcopy(options) if options is not None else self._options
        assert wanted is not None
        engine = Engine(self.model, self.weights, **wanted)
        state = self.state()
        if state is None:
            engine.seed(self._seed)
        else:
            live = engine.trainer.tensors()
            known = {name: t for name, t in state["tensors"].items() if name in live and live[name].shape == t.shape}
            engine.load_full_state({**state, "tensors": known})
        self._engine, self._options, self._state = engine, wanted, None
        return engine

    def state(self) -> dict[str, Any] | None:
        return self._state if self._engine is None else {**self._engine.full_state(), "generator": self._generator}

    def restore(self, state: dict[str, Any] | None, options: dict[str, Any] | None) -> None:
        self._engine, self._key, self._state, self._options = None, None, state, options
        self._generator = state["generator"] if state is not None else None

    @property
    def options(self) -> dict[str, Any] | None:
        return self._options

    def outputs(self, X: np.ndarray) -> np.ndarray:
        with self._lock:
            return self.engine().outputs([X])[0].cpu().numpy()

    def values(self, names: list[str]) -> list[np.ndarray]:
        weights = self.engine().weights()
        return [weights[name].cpu().numpy() for name in names]

    def layer(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Coefficients and intercept, where the graph is one layer on X."""
        graph = self.proto.graph
        if [(n.op_type, *n.input) for n in graph.node] != [("MatMul", "X", "coef"), ("Add", "product0", "intercept")]:
            return None
        known = {i.name: i for i in graph.initializer}
        coef, intercept = (
            self.values([name])[0] if name in self.weights else onnx.numpy_helper.to_array(known[name])
            for name in ("coef", "intercept")
        )
        return coef, intercept

    def trained(self, whole: bool = True) -> onnx.ModelProto:
        """The graph with the trained weights: as it was given (`whole`: with all outputs), or in standard operators where weights
        were attributes of others."""
        values = self.engine().all_weights()
        if set(values) <= {i.name for i in self.proto.graph.initializer}:
            floats = {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in values.items()}
            result = replace_initializers_into_onnx(self.proto if whole else self._part(), floats)
            for entry in result.graph.output:
                if entry.name == self.output and not entry.type.HasField("tensor_type"):
                    entry.type.tensor_type.elem_type = self.model.outputs[0][1][0]
            return result
        return onnx.load_from_string(self.model.with_training(False).expanded().to_bytes(values))

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key not in ("_engine", "_model", "_lock", "proto")}
        return {**kept, "_key": None, "_state": self.state(), "proto": self.proto.SerializeToString()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.proto = onnx.load_from_string(state["proto"])
        self._engine = self._model = None
        self._lock = threading.RLock()
