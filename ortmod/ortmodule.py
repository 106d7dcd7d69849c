"""ORTModule: a torch module exported to ONNX, run and differentiated by ortmod, its parameters shared."""

import contextlib
import functools
import io
import logging
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ortmod import _C
from ortmod._errors import DTypeError, ModelError
from ortmod._model import load
from ortmod.module import _Graph


class _Exported(_Graph):
    """The export of one mode and one kind of arguments; its weights are those of the original module."""

    def __init__(self, original: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        super().__init__()
        object.__setattr__(self, "original", original)  # not a submodule: its parameters are not ours
        outputs = _Outputs(original)
        program = _export(original, outputs.module, args, kwargs)
        graph = load(program.model_proto)
        self._structure = outputs.structure(program.exported_program.call_spec.out_spec)
        self.training = original.training
        names = {name for name, _, _ in graph.weights}
        tensors: dict[str, torch.Tensor] = dict(original.named_parameters(remove_duplicate=False))
        tensors.update((k, v) for k, v in original.named_buffers(remove_duplicate=False) if v.is_floating_point())
        shared = {name: ("original", *name.split(".")) for name in tensors if name in names}
        lost = {id(p): name for name, p in original.named_parameters() if p.requires_grad and p.is_floating_point()}
        for name in shared:
            lost.pop(id(tensors[name]), None)
        self.unused = sorted(lost.values())
        frozen = [b for n, b in original.named_buffers() if n in names and n not in shared]
        self._constants = [(b, b._version) for b in frozen]
        self._attach(graph, shared)

    def forward(self, *tensors: torch.Tensor) -> Any:
        if torch.compiler.is_compiling():
            return self._traced(tensors, {})
        return (self._call or self._make_call())(self, tensors, {})

    def fits(self, tensors: list[torch.Tensor]) -> bool:
        """The sizes that the export fixed are those of the tensors, and the buffers it took as constants are as they were."""
        for tensor, (_, (_, dims, _), _) in zip(tensors, self._graph.inputs, strict=True):
            if dims is not None and any(isinstance(d, int) and d != n for d, n in zip(dims, tensor.shape, strict=True)):
                return False
        return all(b._version == version for b, version in self._constants)

    def unflatten(self, found: Any) -> Any:
        spec, constants = self._structure
        tensors = iter([found] if isinstance(found, torch.Tensor) else found)
        return pytree.tree_unflatten([next(tensors) if c is _TENSOR else c for c in constants], spec)


_TENSOR = object()
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class _Outputs:
    """Takes what is no tensor out of a module's outputs for the export, which has no place for it.

    `module` is the same module, with a forward that returns the tensors alone.
    """

    def __init__(self, original: nn.Module) -> None:
        self._seen: tuple[Any, list[Any]] | None = None
        self.module = object.__new__(type(original))
        self.module.__dict__.update(original.__dict__)
        forward = original.forward

        @functools.wraps(forward)
        def tensors(*args: Any, **kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            if torch.compiler.is_dynamo_compiling():
                return result
            leaves, spec = pytree.tree_flatten(result)
            self._seen = spec, [leaf if isinstance(leaf, _CONSTANTS) else _TENSOR for leaf in leaves]
            return tuple(leaf for leaf in leaves if not isinstance(leaf, _CONSTANTS))

        self.module.__dict__["forward"] = tensors

    def structure(self, exported: Any) -> tuple[Any, list[Any]]:
        """The structure of the outputs, and per leaf its value if it is constant, else _TENSOR."""
        if self._seen is not None:
            spec, constants = self._seen
            count = sum(c is _TENSOR for c in constants)
            if exported == pytree.tree_structure((0,) * count):
                return spec, constants
        return exported, [_TENSOR] * exported.num_leaves


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


class ORTModule(nn.Module):
    """Runs a torch module by ortmod: exported to ONNX at the first call, differentiated there, parameters shared.

    Parameters, buffers, submodules and `state_dict()` are those of `torch_module`. Arguments may be nested; tensors among them
    become inputs of the graph, everything else is fixed by the export. Outputs may be nested, too: tensors, None and constants
    (numbers, texts) come back in the structure that the module returned. There is one export for each of train() and eval(), for
    each structure of the arguments, and for sizes that an export fixed.
    """

    def __init__(self, torch_module: nn.Module) -> None:
        super().__init__()
        if not isinstance(torch_module, nn.Module):
            raise DTypeError(f"[import] torch_module: got {type(torch_module).__name__}, expected a torch.nn.Module")
        self.training = torch_module.training
        self.__dict__["_original"] = torch_module
        for shared in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[shared] = torch_module.__dict__[shared]
        self.__dict__["_exports"] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        exported = self._export_for(args, kwargs, leaves, spec, tensors)
        return exported.unflatten(exported(*tensors))

    def _export_for(self, args: tuple, kwargs: dict, leaves: list, spec: Any, tensors: list[torch.Tensor]) -> _Exported:
        self._original.training = self.training
        fixed = tuple((i, leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor))
        key = (self.training, str(spec), repr(fixed), tuple((t.dim(), t.dtype) for t in tensors))
        candidates = self._exports.setdefault(key, [])
        for exported in candidates:
            if exported.fits(tensors):
                return exported
        exported = _Exported(self._original, args, kwargs)
        candidates.insert(0, exported)
        return exported

    def train(self, mode: bool = True) -> "ORTModule":
        super().train(mode)
        self._original.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "ORTModule":
        super()._apply(fn, recurse)
        self._exports.clear()
        return self

    def exported_model(self) -> _C.Model | None:
        """The graph of the latest export; None before the first call."""
        found = [candidates[0] for candidates in self._exports.values() if candidates]
        return found[-1]._graph if found else None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_original"], name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_original": self._original, "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_original"])  # type: ignore[misc]
        self.training = state["training"]
