"""OnnxModule: an ONNX model as an nn.Module whose weights are ordinary torch parameters."""

import contextlib
import gc
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ortmod import _C, _transforms
from ortmod._choice import Report, Selection, choose
from ortmod._device import device_types
from ortmod._errors import DTypeError, ModelError, OrtmodError
from ortmod._model import ONNX_TO_TORCH, TORCH_TO_ONNX, listed_inputs, load, type_text
from ortmod._names import torch_names


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """For making many objects that stay: the collector would walk through all of the process for them, several times."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Graph(nn.Module):
    """Runs a graph whose argument weights live in torch modules: what OnnxModule and ORTModule have in common."""

    _graph: _C.Model
    _executable: _C.Executable
    _handle: int
    _call: Any
    _paths: list[tuple[str, ...]]
    _num_outputs: int
    _modal: bool
    _updated: list[int]
    _input_names: list[str]
    _input_types: list[torch.dtype | None]
    _defaults: dict[str, torch.Tensor]
    _default_inputs: list[str] = []
    _listed: list[str] = []

    def _attach(self, graph: _C.Model, weights: dict[str, tuple[str, ...]]) -> None:
        """`weights`: ONNX name -> path of attributes from this module."""
        defaults = {name: graph.weight(name).clone() for name in self._default_inputs}
        run = graph.with_default_inputs(self._default_inputs, self._listed, defaults=False) if defaults else graph
        self._executable = _C.Executable(run, list(weights))
        self._graph, self._defaults = graph, defaults
        self._paths = list(weights.values())
        graph = run
        self._handle = self._executable.handle
        self._num_outputs = self._executable.num_outputs
        self._modal = graph.modal
        self._updated = self._executable.updated_args(True) if self._modal else []
        self._input_names = [name for name, _, _ in graph.inputs]
        self._input_types = [ONNX_TO_TORCH.get(dtype) for _, (dtype, _, _), _ in graph.inputs]
        self._call = None

    def _make_call(self) -> Any:
        owners = []
        for *path, name in self._paths:
            owner: Any = self
            for part in path:
                owner = getattr(owner, part)
            owners.append((owner, name))
        self._call = _C.Call(self._executable, owners, self._modal)
        return self._call

    def _weights(self) -> list[torch.Tensor]:
        found = []
        for path in self._paths:
            value: Any = self
            for part in path:
                value = getattr(value, part)
            found.append(value)
        return found

    def _bind(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
        """The inputs in graph order: positions, then names, then defaults."""
        names = self._input_names
        if len(args) > len(names):
            raise TypeError(f"[run] got {len(args)} inputs, expected at most {len(names)} ({', '.join(names)})")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                raise TypeError(f"[run] unknown input {name!r}: expected one of {', '.join(names)}")
            if name in given:
                raise TypeError(f"[run] input {name!r} is given by position and by name")
            given[name] = value
        bound = []
        for name, dtype in zip(names, self._input_types, strict=True):
            value = given.get(name)
            if value is None:
                if name not in self._defaults:
                    raise TypeError(f"[run] input {name!r} is missing: expected {', '.join(names)}")
                bound.append(self._default(name))
            else:
                bound.append(value if isinstance(value, torch.Tensor) else _tensor(name, value, dtype))
        return tuple(bound)

    def _default(self, name: str) -> torch.Tensor:
        weights = self._weights()
        return self._defaults[name].to(weights[0].device) if weights else self._defaults[name]

    def _intercepted(self, inputs: tuple, weights: list[torch.Tensor]) -> Any:
        """The call where something watches or replaces torch operators, or element types differ."""
        training = self.training and self._modal
        executable, args = self._executable, [*inputs, *weights]
        types = [ONNX_TO_TORCH[dtype] for dtype, _, _ in executable.arg_types]
        autocast = any(a.device.type in device_types() and torch.is_autocast_enabled(a.device.type) for a in args[:1])
        for i, (value, dtype) in enumerate(zip(args, types, strict=True)):
            if value.dtype == dtype:
                continue
            if autocast and value.is_floating_point() and dtype.is_floating_point:
                args[i] = value.to(dtype)
                continue
            names = [*self._input_names, *executable.argument_weights]
            raise DTypeError(
                f"[run] element type of {names[i]!r}: got {value.dtype}, expected {dtype}; convert it, or make the module "
                f"with dtype= or .to() of the type you want"
            )
        if _transforms.active():
            found = _transforms.run(executable, args, training)
        else:
            try:
                found = torch.ops.ortmod.run(executable.handle, args, training)
            except NotImplementedError as error:
                kinds = sorted({_kind(a) for a in args} - {"dense Tensor"})
                if not kinds:
                    raise
                raise DTypeError(
                    f"[run] kinds of tensors: got {', '.join(kinds)}, expected dense torch.Tensors; convert them "
                    f"(a DTensor: full_tensor() or fully_shard the module)"
                ) from error
        return self._results(found, args, training)

    def _traced(self, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """The call as torch.compile and torch.export see it: one operator."""
        training = self.training and self._modal
        values = [*self._bind(args, kwargs), *self._weights()]
        return self._results(torch.ops.ortmod.run(self._handle, values, training), values, training)

    def _results(self, found: list[torch.Tensor], args: list[torch.Tensor], training: bool) -> Any:
        n = self._num_outputs
        if training and len(found) > n:
            with torch.no_grad():
                for i, value in zip(self._updated, found[n:], strict=True):
                    args[i].copy_(value)
        return found[0] if n == 1 else tuple(found[:n])


class OnnxModule(_Graph):
    """An ONNX model as a torch module; its weights train.

    Args:
        model: path, bytes, `onnx.ModelProto`, or anything with `SerializeToString()`.
        trainable: names, globs or a predicate of the initializers that train; default: the rule of docs/which-tensors-train.md.
        frozen: names, globs or a predicate of those that do not.
        outputs: names of the values to return; default: the graph's outputs.
        device: where the weights go.
        dtype: element type of the float weights and inputs, and of what the graph computes in the type of most weights (Casts to
            that follow); parts in a third type stay in it.
        tie: groups of names; each group becomes one parameter, that of its first name.
        untie: names of initializers that get one copy for each use (`name`, `name_2`, ...).
        allow_merged: train initializers that the exporter merged from several of equal value, too.

    Raises:
        ModelError: the model cannot be read or contradicts itself, or a name does not fit.
        UnsupportedOpError: names all operators that ortmod does not know.
    """

    _torch_names: dict[str, str]

    def __init__(
        self,
        model: Any,
        *,
        trainable: Selection = None,
        frozen: Selection = None,
        outputs: Iterable[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        tie: Iterable[Iterable[str]] = (),
        untie: Iterable[str] = (),
        allow_merged: bool = False,
    ) -> None:
        super().__init__()
        graph = load(model)
        if outputs is not None:
            graph = graph.keep_outputs([outputs] if isinstance(outputs, str) else list(outputs))
        untie = [untie] if isinstance(untie, str) else list(untie)
        if untie:
            graph = graph.untied(untie)
        if groups := [list(group) for group in tie]:
            graph = graph.tied(groups)
        self._dtype = _float_type(graph)
        with _collector_paused():
            entries = graph.choices()
            self._report = Report(choose(graph, trainable, frozen, allow_merged, entries))
            merged = [entry["name"] for entry in entries if entry["merged"]]
        if dtype is not None:
            graph = self._retyped(graph, dtype)
            self._dtype = dtype
        if merged:
            self._warn_merged(merged)
        with _collector_paused():
            self._take_weights(graph, model, device)

    def _take_weights(self, graph: _C.Model, model: Any, device: Any) -> None:
        kinds = {c.name: c.kind for c in self._report if c.kind != "constant"}
        constants = {c.name for c in self._report if c.kind == "constant"}
        self._listed = listed_inputs(model) if graph.ir_version >= 4 else []  # before, every initializer had to be listed
        self._default_inputs = [name for name in self._listed if name in constants]
        self._torch_names = torch_names(kinds, taken=[*dir(self), *_Graph.__annotations__, *OnnxModule.__annotations__])
        for name, kind in kinds.items():
            self._register(name, graph.weight(name), kind, device)
        self._attach(graph, {name: tuple(self._torch_names[name].split(".")) for name in kinds})

    def _warn_merged(self, names: list[str]) -> None:
        held = [c.name for c in self._report if c.name in names and c.kind == "constant"]
        if held:
            warnings.warn(
                f"the exporter merged initializers of equal value: {', '.join(held[:5])}{', ...' if len(held) > 5 else ''} "
                "do not train; give untie=[...] to train copies, or allow_merged=True",
                stacklevel=3,
            )

    def _register(self, onnx_name: str, value: torch.Tensor, kind: str, device: Any) -> None:
        *path, leaf = self._torch_names[onnx_name].split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if device is not None and torch.device(device).type == "meta":
            value = torch.empty_like(value, device="meta")
        else:
            value = value.clone() if device is None else value.to(device, copy=True)
        if kind == "buffer":
            owner.register_buffer(leaf, value)
        else:
            owner.register_parameter(leaf, nn.Parameter(value, requires_grad=kind == "parameter"))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Inputs by position or by ONNX name; a tensor, or a tuple in the order of the graph's outputs."""
        if torch.compiler.is_compiling():
            return self._traced(args, kwargs)
        try:
            return (self._call or self._make_call())(self, args, kwargs)
        except RuntimeError as error:
            if not isinstance(error, OrtmodError) or isinstance(error, DTypeError):
                self._refuse(args, kwargs, error)
            raise

    def _refuse(self, args: tuple, kwargs: Mapping[str, Any], error: RuntimeError) -> None:
        """DTypeError where the reason of an error of torch is an input, or elements, that it has no dense tensors of."""
        if any(isinstance(v, torch.Tensor) and v.is_nested for v in (*args, *kwargs.values())):
            raise DTypeError("[run] kinds of tensors: got a nested tensor, expected dense torch.Tensors; pad it") from error
        values = [*self._graph.inputs, *self._graph.outputs]
        if names := [repr(name) for name, (dtype, _, kind), _ in values if kind == 0 and dtype not in ONNX_TO_TORCH]:
            others = [name for name, (dtype, _, kind), _ in self._graph.outputs if kind == 0 and dtype in ONNX_TO_TORCH]
            raise DTypeError(
                f"[run] elements of {', '.join(names)}: got a type that torch has no tensors of (texts, say), expected numbers; "
                f"name the other outputs (outputs={others}), or cut the model behind its operators on texts "
                "(onnx.utils.extract_model)"
            ) from error

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._input_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self._graph.outputs)

    @property
    def torch_names(self) -> dict[str, str]:
        """ONNX name -> name in `state_dict()`, for parameters and buffers."""
        return dict(self._torch_names)

    def parameter_report(self) -> Report:
        """What each initializer became and why; prints as a table."""
        return Report(self._report)

    def to_onnx(self, path: str | os.PathLike | None = None) -> Any:
        """The inference model with today's weights, same names and opset: written to `path`, else returned as a ModelProto."""
        graph, weights = self._inference_form()
        graph = graph.expanded()
        if path is not None:
            graph.to_file(os.fspath(path), weights)
            return None
        import onnx

        return onnx.load_from_string(graph.to_bytes(weights))

    def gradient_model(self, **options: Any) -> Any:
        """The gradient graph of the model with today's weights, by the weights that train; options of `build_gradient`."""
        from ortmod.gradient import build_gradient

        options.setdefault("wrt", [c.name for c in self._report if c.kind == "parameter"])
        graph, weights = self._inference_form()
        return build_gradient(graph.to_bytes(weights), **options)

    def _inference_form(self) -> tuple[_C.Model, dict[str, torch.Tensor]]:
        weights = dict(zip(self._executable.argument_weights, self._weights(), strict=True))
        if any(w.is_meta for w in weights.values()):
            raise ModelError("[export] weights: got meta tensors, which hold no values; call to_empty() and load a state first")
        return self._graph.with_training(False).with_default_inputs(self._default_inputs, self._listed), weights

    def extra_repr(self) -> str:
        inputs = ", ".join(f"{name}: {type_text(t)}" for name, t, _ in self._graph.inputs)
        outputs = ", ".join(f"{name}: {type_text(t)}" for name, t, _ in self._graph.outputs)
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(self._graph.opsets.items()))
        return f"({inputs}) -> ({outputs}), opset={opsets}, parameters={total}, trainable={trained}"

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch. Of the original torch model's state, second names of tied weights and integer buffers that the graph
        does not have are passed over."""
        own = self.state_dict(keep_vars=True)
        given = {k: v for k, v in state_dict.items() if k in own}
        for name, value in state_dict.items():
            if name in own or not isinstance(value, torch.Tensor):
                if name not in own:
                    given[name] = value
                continue
            if not value.is_floating_point() or any(_same(value, other) for other in given.values()):
                continue
            given[name] = value
        return super().load_state_dict(given, strict=strict, assign=assign)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        probe = fn(torch.empty(0, dtype=self._dtype))
        if probe.dtype == self._dtype or not probe.is_floating_point():
            return super()._apply(fn, recurse)
        weights = dict(zip(self._executable.argument_weights, self._paths, strict=True))
        self._attach(self._retyped(self._graph, probe.dtype), weights)  # first: where it cannot be done, nothing changes
        self._dtype = probe.dtype
        return super()._apply(fn, recurse)

    def _retyped(self, graph: _C.Model, dtype: torch.dtype) -> _C.Model:
        tensors = {c.name for c in self._report if c.kind != "constant"}
        return graph.to_dtype(TORCH_TO_ONNX[self._dtype], _onnx_float(dtype), tensors)

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__["_call"] = None
        return replica

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_call", "_executable")}
        state["argument weights"] = list(self._executable.argument_weights)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state.pop("argument weights")
        super().__setstate__(state)
        self._attach(self._graph, dict(zip(names, self._paths, strict=True)))


def _tensor(name: str, value: Any, dtype: torch.dtype | None) -> torch.Tensor:
    """An input that is no tensor as one."""
    if isinstance(value, np.ndarray) and any(stride < 0 for stride in value.strides):
        value = value.copy()
    try:
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(
            f"[run] input {name!r}: got {type(value).__name__} ({error}), expected a tensor, or numbers in an array or a list"
        ) from error


def _kind(tensor: torch.Tensor) -> str:
    kind = "Tensor" if type(tensor) in (torch.Tensor, nn.Parameter) else type(tensor).__name__
    layout = "quantized" if tensor.is_quantized else "dense" if tensor.layout == torch.strided else str(tensor.layout)
    return f"{layout.removeprefix('torch.')} {kind}"


def _same(a: Any, b: Any) -> bool:
    if not isinstance(b, torch.Tensor) or a.shape != b.shape or a.dtype != b.dtype or a.is_meta or b.is_meta:
        return False
    return (a.device == b.device and a.data_ptr() == b.data_ptr()) or torch.equal(a, b.to(a.device))


def _float_type(graph: _C.Model) -> torch.dtype:
    """The float type of most elements of the weights, else of most inputs; float32 when there is none."""
    for values in (graph.weights, graph.inputs):
        counts: dict[torch.dtype, int] = {}
        for _, (dtype, shape, _), _ in values:
            t = ONNX_TO_TORCH.get(dtype)
            if t is not None and t.is_floating_point:
                counts[t] = counts.get(t, 0) + math.prod(d for d in shape or () if isinstance(d, int))
        if counts:
            return max(counts, key=counts.__getitem__)
    return torch.float32


def _onnx_float(dtype: torch.dtype) -> int:
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise DTypeError(f"[import] dtype: got {dtype}, expected float16, bfloat16, float32 or float64")
    return TORCH_TO_ONNX[dtype]
