"""ORTModule: a torch module exported to ONNX, run and differentiated by ortmod, its parameters shared."""

import contextlib
import functools
import io
import logging
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils import _pytree as pytree

from ortmod import _C
from ortmod._errors import DTypeError, ModelError, ShapeError
from ortmod._model import load
from ortmod._modes import hold_modes
from ortmod._snapshot import Snapshot, refuse_hooks, traced_hooks
from ortmod.module import _Graph


class _Exported(_Graph):
    """The export of one mode and one kind of arguments; its weights are those of the original module."""

    @classmethod
    def of(cls, original: nn.Module, args: tuple, kwargs: dict[str, Any]) -> "_Exported":
        """The export that returns all that the forward writes: the first one shows what that is."""
        written: tuple[str, ...] = ()
        while True:
            exported = cls(original, args, kwargs, written)
            if not exported._others:
                return exported
            written += tuple(exported._others)

    def __init__(self, original: nn.Module, args: tuple, kwargs: dict[str, Any], written: tuple[str, ...]) -> None:
        """`written`: the buffers whose new values the graph returns, behind its outputs."""
        super().__init__()
        object.__setattr__(self, "original", original)  # not a submodule: its parameters are not ours
        _refuse_lost_statistics(original)
        outputs = _Outputs(original, written)
        program = _export(original, outputs.module, args, kwargs)
        model = program.model_proto
        training = hold_modes(model)
        graph = load(model)
        self._structure = outputs.structure(program.exported_program.call_spec.out_spec)
        self.training = training
        names = {name for name, _, _ in graph.weights}
        tensors: dict[str, torch.Tensor] = dict(original.named_parameters(remove_duplicate=False))
        tensors.update((k, v) for k, v in original.named_buffers(remove_duplicate=False) if v.is_floating_point())
        shared = {name: ("original", *name.split(".")) for name in tensors if name in names}
        lost = {id(p): name for name, p in original.named_parameters() if p.requires_grad and p.is_floating_point()}
        for name in shared:
            lost.pop(id(tensors[name]), None)
        self.unused = sorted(lost.values())
        owners = {f"{at}.{key}" if at else key: (m._buffers, key) for at, m in original.named_modules() for key in m._buffers}
        self._written = [(*owners[name], f"before_{i}") for i, name in enumerate(written)]
        shared.update((name, (f"before_{i}",)) for i, name in enumerate(written) if name in shared)  # backward reads them
        self._attach(graph, shared)
        self._kinds = [tensors[name].shape for name in shared]
        self._counters, self._others = _writes(program.exported_program, owners, {*written, *self._statistics()})
        held = [(owner, key, name) for name, (owner, key) in owners.items() if name in names and name not in shared]
        self._constants = [(owner, key, owner[key], owner[key]._version) for owner, key, _ in held]

    def _statistics(self) -> list[str]:
        return [self._executable.argument_weights[i - len(self._input_names)] for i in self._updated] if self.training else []

    def forward(self, *tensors: torch.Tensor) -> Any:
        for owner, key, before in self._written:
            self.__dict__[before] = owner[key].detach().clone()
        if torch.compiler.is_compiling():
            found = self._traced(tensors, {})
        else:
            found = (self._call or self._make_call())(self, tensors, {})
        return self._write(found) if self._counters or self._written else found

    def _write(self, found: Any) -> Any:
        with torch.no_grad():
            for owner, key, count in self._counters:
                owner[key].add_(count)
            if self._written:
                found = (found,) if isinstance(found, torch.Tensor) else found
                at = len(found) - len(self._written)
                for (owner, key, _), value in zip(self._written, found[at:], strict=True):
                    owner[key].copy_(value)
                return found[:at]
        return found

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        """The sizes that the export fixed are those of the tensors, and the buffers it took as constants are as they were."""
        for tensor, (_, (_, dims, _), _) in zip(tensors, self._graph.inputs, strict=True):
            if dims is not None and any(isinstance(d, int) and d != n for d, n in zip(dims, tensor.shape, strict=True)):
                return False
        return all(owner.get(key) is b and b._version == version for owner, key, b, version in self._constants)

    def same_weights(self) -> bool:
        return self._kinds == [getattr(w, "shape", None) for w in self._weights()]

    def unflatten(self, found: Any) -> Any:
        spec, constants = self._structure
        tensors = iter([found] if isinstance(found, torch.Tensor) else found)
        return pytree.tree_unflatten([next(tensors) if c is _TENSOR else c for c in constants], spec)


_TENSOR = object()
_AROUND = ("_forward_hooks", "_forward_pre_hooks")
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class _Outputs:
    """Takes what is no tensor out of a module's outputs for the export, which has no place for it.

    `module` is the same module, with a forward that returns the tensors alone.
    """

    def __init__(self, original: nn.Module, written: tuple[str, ...]) -> None:
        self._written = written
        self._seen: tuple[Any, list[Any]] | None = None
        self.module = object.__new__(type(original))
        self.module.__dict__.update(original.__dict__)
        for kind in _AROUND:
            self.module.__dict__[kind] = traced_hooks(original.__dict__[kind])
        forward = original.forward

        @functools.wraps(forward)
        def tensors(*args: Any, **kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            if torch.compiler.is_dynamo_compiling():
                return result
            leaves, spec = pytree.tree_flatten(result)
            self._seen = spec, [leaf if isinstance(leaf, _CONSTANTS) else _TENSOR for leaf in leaves]
            found = [leaf for leaf in leaves if not isinstance(leaf, _CONSTANTS)]
            return (*found, *(original.get_buffer(name).clone() for name in written))

        self.module.__dict__["forward"] = tensors

    def structure(self, exported: Any) -> tuple[Any, list[Any]]:
        """The structure of the outputs, and per leaf its value if it is constant, else _TENSOR."""
        if self._seen is not None:
            spec, constants = self._seen
            count = sum(c is _TENSOR for c in constants)
            if exported == pytree.tree_structure((0,) * (count + len(self._written))):
                return spec, constants
        return exported, [_TENSOR] * exported.num_leaves


def _refuse_lost_statistics(original: nn.Module) -> None:
    for name, m in original.named_modules():
        if isinstance(m, _InstanceNorm) and m.training and m.track_running_stats and m.running_mean is not None:
            raise ModelError(
                f"[export] {type(m).__name__} {name!r} with track_running_stats=True in train mode: the exporter drops its running "
                "statistics; make it with track_running_stats=False, or put it in eval()"
            )


def _writes(program: Any, owners: dict[str, Any], done: set[str]) -> tuple[list[tuple[dict, str, int]], list[str]]:
    """Of the buffers that the forward writes, besides those done: those that it counts up, and the others."""
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}
    counters, others = [], []
    for output, name in signature.buffers_to_mutate.items():
        if name in done:
            continue
        node, count = nodes[output], 0
        while node.target is torch.ops.aten.add.Tensor and not node.kwargs and type(node.args[1]) is int:
            node, count = node.args[0], count + node.args[1]
        if signature.inputs_to_buffers.get(node.name) == name:
            counters.append((*owners[name], count))
        else:
            others.append(name)
    return counters, others


def _export(original: nn.Module, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """By torch.onnx.export without its optimizer, which would rename, merge and fold weights; sizes beyond 1 stay free."""
    free = torch.export.Dim.AUTO

    def sizes(value: Any) -> Any:
        return dict.fromkeys(range(value.dim()), free) if isinstance(value, torch.Tensor) else None

    shapes = tuple(pytree.tree_map(sizes, a) for a in args), {k: pytree.tree_map(sizes, v) for k, v in kwargs.items()}
    names = list(_parameter_names(original))
    by_name = dict(zip(names, shapes[0], strict=False)) | shapes[1] if len(names) >= len(args) else None
    said = io.StringIO()
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")  # warns of each torchvision operator
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, args, kwargs=kwargs, dynamo=True, optimize=False, dynamic_shapes=by_name, verbose=False
            )
    except Exception as error:
        raise ModelError(f"[export] torch.onnx.export cannot export {type(original).__name__}: {error}") from error
    finally:
        registration.setLevel(level)
    return program


def _parameter_names(module: nn.Module) -> list[str]:
    import inspect

    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


class _State:
    """The exports of the module as it was at one time, by kinds of arguments."""

    def __init__(self, original: nn.Module) -> None:
        refuse_hooks(original)
        self._original = original
        self.snapshot = Snapshot(original)
        self.exports: dict[Any, list[_Exported]] = {}

    def export(self, key: Any, args: tuple, kwargs: dict[str, Any]) -> _Exported:
        exported = _Exported.of(self._original, args, kwargs)
        self.exports.setdefault(key, []).insert(0, exported)
        self.snapshot = Snapshot(self._original)  # a forward may write attributes, and the export ran it
        return exported


_STATES = 8  # kept: an attribute that takes a new value at each step would otherwise fill the memory
_OWN = {"training", *nn.Module().__dict__}
_SHARED = [*_AROUND, "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"]
_SHARED += ["_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"]


class ORTModule(nn.Module):
    """Runs a torch module by ortmod: exported to ONNX at the first call, differentiated there, parameters shared.

    Parameters, buffers, submodules, attributes and `state_dict()` are those of `torch_module`. Arguments may be nested; tensors
    among them become inputs of the graph, everything else is fixed by the export. Outputs may be nested, too: tensors, None and
    constants (numbers, texts) come back in the structure that the module returned.

    There is one export for each structure of the arguments and for sizes that an export fixed, and a new one where the module
    has changed: modes of submodules, each of which counts, submodules that were replaced, attributes. Not seen are changes
    inside other objects that attributes hold (a configuration, a global): set the attribute anew.

    Hooks on this module run as usual. A graph runs without its submodules: hooks on those are a ModelError that names them.
    """

    training: bool

    def __init__(self, torch_module: nn.Module) -> None:
        if not isinstance(torch_module, nn.Module):
            raise DTypeError(f"[import] torch_module: got {type(torch_module).__name__}, expected a torch.nn.Module")
        training = torch_module.training
        super().__init__()
        self.__dict__.pop("training", None)
        self.__dict__["_original"] = torch_module
        torch_module.training = training
        for shared in _SHARED:
            self.__dict__[shared] = torch_module.__dict__[shared]
        self.__dict__["_states"] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kind: Any = None
        if not kwargs and all(isinstance(a, torch.Tensor) for a in args):
            tensors = list(args)
        else:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            fixed = tuple((i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor))
            kind = (str(spec), repr(fixed))
        exported = self._export_for(args, kwargs, kind, tensors)
        try:
            found = exported(*tensors)
        except (DTypeError, ShapeError):
            if exported.same_weights():
                raise
            self._states.pop(0)
            exported = self._export_for(args, kwargs, kind, tensors)
            found = exported(*tensors)
        return exported.unflatten(found)

    def _export_for(self, args: tuple, kwargs: dict, kind: Any, tensors: Any) -> _Exported:
        state = self._state()
        key = kind, tuple([(t.dim(), t.dtype) for t in tensors])
        for exported in state.exports.get(key, ()):
            if exported.fits(tensors):
                return exported
        return state.export(key, args, kwargs)

    def _state(self) -> _State:
        """That of the module as it is now, first in the list."""
        states = self._states
        if torch.compiler.is_compiling():
            for state in states:
                if state.snapshot.modes_hold():
                    return state
        elif states and states[0].snapshot.holds():
            return states[0]
        else:
            for i in range(1, len(states)):
                if states[i].snapshot.holds():
                    states.insert(0, states.pop(i))
                    return states[0]
        states.insert(0, _State(self._original))
        del states[_STATES:]
        return states[0]

    def _apply(self, fn: Any, recurse: bool = True) -> "ORTModule":
        super()._apply(fn, recurse)
        self._states.clear()
        return self

    def exported_model(self) -> _C.Model | None:
        """The graph of the latest export; None before the first call."""
        found = [candidates[0] for state in self._states[:1] for candidates in state.exports.values()]
        return found[-1]._graph if found else None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN and name != "training" or "_original" not in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self._original, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._original, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_original": self._original}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_original"])  # type: ignore[misc]
