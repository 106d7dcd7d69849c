"""generate_artifacts: training, eval and optimizer models in standard ONNX, and the checkpoint that they start from."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import onnx

from ortmod import _C
from ortmod._choice import choose
from ortmod._errors import DTypeError, GradientError, ModelError, UnsupportedOpError
from ortmod._model import TORCH_TO_ONNX, load, type_text
from ortmod._table import table
from ortmod.gradient import at_opset
from ortmod.training import checkpoint, onnxblock
from ortmod.training.onnxblock import _proto as proto
from ortmod.training.onnxblock._training import FOLDED, TrainingModels, folded_batch_norms, rename
from ortmod.training.onnxblock.block import declare_outputs
from ortmod.training.onnxblock.optim import SEQUENCE_OPSET

__all__ = ["ArtifactReport", "LossType", "OptimType", "generate_artifacts"]

LOSS = "loss"
_NEWEST_LOSS_OPSET = 12  # that of SoftmaxCrossEntropyLoss


class LossType(Enum):
    """Loss to add to the training model."""

    MSELoss = 1
    CrossEntropyLoss = 2
    BCEWithLogitsLoss = 3
    L1Loss = 4


class OptimType(Enum):
    """Optimizer whose model is written."""

    AdamW = 1
    SGD = 2


@dataclass
class ArtifactReport:
    """What was written: files, and per parameter what it is and why. Prints as a table."""

    files: list[Path]
    parameters: list[tuple[str, str, str, str]]  # name, type, trains or frozen, why

    def __str__(self) -> str:
        sizes = [[f"{path.stat().st_size:,}", str(path)] for path in self.files]
        parameters = [list(parameter) for parameter in self.parameters]
        return table(["bytes", "file"], sizes) + "\n" + table(["parameter", "type", "is", "why"], parameters)


def generate_artifacts(
    model: Any,
    requires_grad: list[str] | None = None,
    frozen_params: list[str] | None = None,
    loss: LossType | onnxblock.Block | None = None,
    optimizer: OptimType | onnxblock.Block | None = None,
    artifact_directory: str | bytes | os.PathLike | None = None,
    prefix: str = "",
    ort_format: bool = False,
    custom_op_library: str | bytes | os.PathLike | None = None,
    additional_output_names: list[str] | None = None,
    nominal_checkpoint: bool = False,
    loss_input_names: list[str] | None = None,
    *,
    opset: str | int = "keep",
) -> ArtifactReport:
    """Writes `{prefix}training_model.onnx`, `{prefix}eval_model.onnx`, `{prefix}checkpoint` and, with an optimizer,
    `{prefix}optimizer_model.onnx`. The models are standard ONNX, in the opset of the model. Nothing is written unless all can be.

    Args:
        model: a path or a ModelProto; a path for models larger than 2 GiB.
        requires_grad: names of the parameters to train; default: those that train by default and that a gradient of the loss
            reaches, without `frozen_params`. The others of them are frozen; the report says why.
        frozen_params: names of parameters that are in the checkpoint but do not train. A BatchNormalization whose running
            statistics are named here normalises with them; all others update theirs. Other initializers stay constants.
        loss: a LossType, a Block that is called with the model's outputs, or None: the first output is the loss. A LossType takes
            its target from a new input `target` (CrossEntropyLoss: `labels`), or from the model's input of that name.
        optimizer: an OptimType, a Block (such as onnxblock.optim.AdamW(...)) that is called with the parameters, or None.
        artifact_directory: where to write; made if missing; default: the current directory.
        prefix: of the names of files.
        ort_format: write each model in the format of onnxruntime, too (needs the package onnxruntime).
        custom_op_library: library of operators for the stock onnxruntime that the model uses; their types stand in value_info, and
            those that a gradient passes have a rule by `ortmod.register_gradient`. Such artifacts train on that runtime only.
        additional_output_names: values to return after the loss.
        nominal_checkpoint: write `{prefix}nominal_checkpoint`, too: names and types of the parameters without values.
        loss_input_names: values to give to the loss instead of all outputs.
        opset: "keep", "upgrade" (to the lowest opset in which everything has a cheap form), or a number.

    Raises:
        ModelError (a RuntimeError): an argument does not fit the model; names are listed with near ones.
        GradientError (a RuntimeError): nothing to train, or no gradient reaches a parameter.
        UnsupportedOpError: operators that have no gradient here, all at once.
    """
    _check_arguments(loss, optimizer, additional_output_names, loss_input_names)
    library = _checked_library(custom_op_library)
    base, path = _base_model(model, opset, optimizer)
    directory = Path(os.fsdecode(artifact_directory) if artifact_directory is not None else Path.cwd())
    if directory.exists() and not directory.is_dir():
        raise ModelError(f"[artifacts] artifact_directory: {directory} is a file, expected a directory")
    if ort_format:
        _ort_converter()
    if nodes := folded_batch_norms(base):
        warnings.warn(f"{FOLDED} ({len(nodes)} nodes, the first is {nodes[0]!r})", stacklevel=2)
    trainable, frozen, reasons = _selected(base, path, requires_grad, frozen_params, library is not None)
    models = _training_models(
        base, path, loss, trainable, frozen, additional_output_names, loss_input_names, opset, library, requires_grad is None
    )
    files: dict[str, onnx.ModelProto] = {"training_model.onnx": models.training, "eval_model.onnx": models.eval}
    if optimizer is not None:
        files["optimizer_model.onnx"] = _optimizer_model(optimizer, models, proto.opset(base))
    written = _write(directory, prefix, files, models, nominal_checkpoint, ort_format, library)
    return ArtifactReport(written, _described(models, reasons))


def _check_arguments(loss: Any, optimizer: Any, additional: Any, loss_inputs: Any) -> None:
    if loss is not None and not isinstance(loss, LossType | onnxblock.Block):
        raise ModelError(
            f"[artifacts] Unknown loss provided {type(loss)}. Expected loss to be either one of "
            "ortmod.training.artifacts.LossType or ortmod.training.onnxblock.Block."
        )
    if optimizer is not None and not isinstance(optimizer, OptimType | onnxblock.Block):
        raise DTypeError(
            f"[artifacts] Unknown optimizer provided {type(optimizer)}. Expected optimizer to be either one of "
            "ortmod.training.artifacts.OptimType or ortmod.training.onnxblock.Block."
        )
    for argument, names in (("additional_output_names", additional), ("loss_input_names", loss_inputs)):
        if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
            raise ModelError(f"[artifacts] Unknown type provided for {argument} {type(names)}. Expected a list of strings.")


def _checked_library(given: Any) -> str | None:
    if given is None:
        return None
    library = os.fsdecode(given)
    if not os.path.exists(library):
        raise ModelError(f"[artifacts] Custom op library path {library} does not exist.")
    try:
        import onnxruntime
    except ImportError:
        return library
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(library)
    except Exception as error:
        raise ModelError(f"[artifacts] custom_op_library: onnxruntime cannot load {library}: {error}") from error
    return library


def _base_model(model: Any, opset: str | int, optimizer: Any) -> tuple[onnx.ModelProto, str | None]:
    path = None
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        if not os.path.exists(path):
            raise ModelError(f"[artifacts] model: there is no file {path}")
        try:
            base = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise ModelError(f"[artifacts] model: {path} is not an ONNX model: {error}") from error
    elif isinstance(model, onnx.ModelProto):
        base = model
    elif isinstance(getattr(model, "model_proto", None), onnx.ModelProto):
        base = model.model_proto
    else:
        raise ModelError("[artifacts] Please pass in either a string or an ONNX ModelProto for the model.")
    if opset not in ("keep", "upgrade") and not isinstance(opset, int):
        raise ModelError(f"[artifacts] opset: got {opset!r}, expected 'keep', 'upgrade' or a number")
    present = proto.opset(base)
    wanted = max(present, _NEWEST_LOSS_OPSET) if opset == "upgrade" else present if opset == "keep" else int(opset)
    if optimizer is not None and wanted < SEQUENCE_OPSET:
        warnings.warn(
            f"the optimizer model has opset {SEQUENCE_OPSET}, which sequences need, where the model has {wanted}; "
            "opset='upgrade' raises all of them",
            stacklevel=3,
        )
    if wanted != present:
        base, path = _at_opset(base, path, wanted), None
    if (wrong := _invalid(base)) is None:
        return base, path
    for target in range(wanted + 1, _C.newest_opset() + 1):
        try:
            found = _at_opset(base, path, target)
        except ModelError:
            continue
        if _invalid(found) is None and opset == "upgrade":
            return found, None
        if _invalid(found) is None:
            wrong += f"; opset='upgrade' raises it to opset {target}, in which it is valid"
            break
    raise ModelError(f"[artifacts] model: it is not valid ONNX at opset {wanted}: {wrong}")


def _at_opset(base: onnx.ModelProto, path: str | None, target: int) -> onnx.ModelProto:
    return onnx.load_from_string(at_opset(load(path or base, foreign=True), target).to_bytes())


def _invalid(base: onnx.ModelProto) -> str | None:
    """What onnx's checker says, if the model is not valid."""
    try:
        onnxblock.blocks.check(base)
    except ModelError as error:
        return str(error.__cause__ or error)
    return None


def _selected(
    base: onnx.ModelProto, path: str | None, requires_grad: list[str] | None, frozen_params: list[str] | None, foreign: bool
) -> tuple[list[str], list[str], dict[str, str]]:
    for argument, names in (("requires_grad", requires_grad), ("frozen_params", frozen_params)):
        if isinstance(names, str):
            raise ModelError(f"[artifacts] {argument}: got a string, expected a list of names")
    frozen = list(frozen_params or [])
    graph = _known(path or base, foreign)
    if requires_grad is not None:
        return list(requires_grad), frozen, {name: "named in requires_grad" for name in requires_grad}
    choices = choose(graph, None, None, False)
    default = {c.name: c.reason for c in choices if c.kind == "parameter"}
    chosen = {name: reason for name, reason in default.items() if name not in set(frozen)}
    if default and not chosen:
        raise GradientError(
            "[artifacts] there is nothing to train: frozen_params names all parameters that train by default "
            f"({', '.join(list(default)[:5])}{', ...' if len(default) > 5 else ''}); leave one out, or name others in requires_grad"
        )
    if not chosen:
        raise GradientError(
            "[artifacts] there is nothing to train: no parameter of the model trains by default; name some in requires_grad"
        )
    return list(chosen), frozen, chosen


def _known(model: Any, foreign: bool) -> Any:
    try:
        return load(model, foreign=foreign)
    except UnsupportedOpError as error:
        raise UnsupportedOpError(
            f"{error}; an operator of a library goes into artifacts for the stock onnxruntime by custom_op_library=, with its type "
            "in value_info and, where a gradient passes, a rule by ortmod.register_gradient"
        ) from error


class _Loss(onnxblock.TrainingBlock):
    """The loss on top of the model, then the additional outputs."""

    def __init__(self, loss: onnxblock.Block | None, additional: list[str], opset: str, reached_only: bool) -> None:
        super().__init__()
        self._reached_only = reached_only
        self._loss, self._additional, self.opset = loss, additional, opset

    def build(self, *inputs: str) -> tuple[str, ...]:
        outputs = self._loss(*inputs) if self._loss is not None else inputs
        outputs = (outputs,) if isinstance(outputs, str) else outputs
        self._check_outputs(outputs)
        if self._loss is None:
            _check_number(self.base, outputs[0])
        elif outputs[0] != LOSS and not proto.exists(self.base, LOSS):
            rename(self.base.graph, outputs[0], LOSS)
            outputs = (LOSS, *outputs[1:])
        return (*outputs, *(name for name in self._additional if name not in outputs))

    def _check_outputs(self, outputs: Any) -> None:
        says = f"[artifacts] loss: {type(self._loss).__name__}.build returned"
        if not isinstance(outputs, list | tuple) or not outputs or not all(isinstance(name, str) for name in outputs):
            raise ModelError(f"{says} {outputs!r}, expected the name of a value, or names of which the first is the loss")
        known = proto.names(self.base.graph)
        for name in outputs:
            if name not in known:
                raise proto.UnknownNameError(f'{says} "{name}", which is no value of the model{proto.near(name, sorted(known))}')


def _check_number(model: onnx.ModelProto, name: str) -> None:
    found = proto.value_info(model, name)
    tensor = found.type.tensor_type if found is not None else onnx.TypeProto.Tensor()
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    if tensor.HasField("shape") and any(d != 1 for d in dims):
        raise GradientError(
            f'[artifacts] loss: without a loss the first output "{name}" must be one number, got shape {dims}; '
            "give loss=, or a model whose first output is the loss"
        )


@contextmanager
def _building(base: onnx.ModelProto, path: str | None, library: str | None) -> Iterator[Any]:
    with ExitStack() as stack:
        handle = stack.enter_context(onnxblock.base(base, path))
        if library is not None:
            stack.enter_context(onnxblock.custom_op_library(library))
        yield handle


def _training_models(
    base: onnx.ModelProto,
    path: str | None,
    loss: Any,
    trainable: list[str],
    frozen: list[str],
    additional: list[str] | None,
    loss_inputs: list[str] | None,
    opset: str | int,
    library: str | None,
    reached_only: bool,
) -> TrainingModels:
    outputs = [value.name for value in base.graph.output]
    given = loss_inputs or outputs
    if isinstance(loss, LossType) and not loss_inputs and len(outputs) > 1:
        raise ModelError(
            f"[artifacts] loss: {loss.name} takes one output and its target, the model has the outputs {', '.join(outputs)}; "
            "say which in loss_input_names"
        )
    known = proto.names(base.graph)
    if isinstance(loss, LossType):
        target = "labels" if loss is LossType.CrossEntropyLoss else "target"
        if target in known - {value.name for value in base.graph.input}:
            raise ModelError(
                f'[artifacts] loss: {loss.name} has an input "{target}" for its target, and the model computes a value of that '
                "name; rename the value, or give a Block that calls the loss with another name"
            )
    for argument, names in (("loss_input_names", loss_inputs or []), ("additional_output_names", additional or [])):
        for name in names:
            if name not in known:
                raise proto.UnknownNameError(
                    f'[artifacts] {argument}: The provided name "{name}" is not a graph value info or a graph output'
                    f"{proto.near(name, sorted(known))}"
                )
    block = getattr(onnxblock.loss, loss.name)() if isinstance(loss, LossType) else loss
    training = _Loss(block, additional or [], "keep" if isinstance(opset, int) else opset, reached_only)
    for name in trainable:
        training.requires_grad(name)
    if both := sorted(set(trainable) & set(frozen)):
        raise ModelError(
            f"[artifacts] A parameter cannot be frozen and require gradient computation at the same time: got {', '.join(both)}"
        )
    for name in frozen:
        training.requires_grad(name, False)
    with _building(base, path, library):
        training(*given)
    return training.models


def _optimizer_model(optimizer: Any, models: TrainingModels, opset: int) -> onnx.ModelProto:
    block: Any = getattr(onnxblock.optim, optimizer.name)() if isinstance(optimizer, OptimType) else optimizer
    ours = type(block).__module__ == onnxblock.optim.__name__
    with onnxblock.empty_base(max(opset, SEQUENCE_OPSET)) as handle:
        handle.model.ir_version = max(models.training.ir_version, 4)
        outputs = block((models.declared(), []) if ours else models.parameters())
        if not isinstance(block, onnxblock.ForwardBlock):
            declare_outputs(handle.model, outputs)
        return handle.model


def _ort_converter() -> Any:
    try:
        from onnxruntime.tools import convert_onnx_models_to_ort as module
    except ImportError as error:
        raise ModelError(
            "[artifacts] ort_format: the package onnxruntime converts the models; install it, or leave ort_format out"
        ) from error
    return module


def _write(
    directory: Path,
    prefix: str,
    models: dict[str, onnx.ModelProto],
    parts: TrainingModels,
    nominal: bool,
    ort_format: bool,
    library: str | None,
) -> list[Path]:
    data = {}
    for name, model in models.items():
        try:
            data[f"{prefix}{name}"] = model.SerializeToString()
        except ValueError as error:
            raise ModelError(
                f"[artifacts] {name} is larger than 2 GiB: name its large constants in frozen_params; the checkpoint holds those"
            ) from error
    if ort_format:
        data.update(_ort_files(data, library))
    state = checkpoint.State(parts.values, parts.trainable)
    names = [*data, f"{prefix}checkpoint", *([f"{prefix}nominal_checkpoint"] if nominal else [])]
    paths = [directory / name for name in names]
    with checkpoint.Replacement(paths) as files:
        for name, content in data.items():
            files.part(directory / name).write_bytes(content)
        checkpoint.write(state, files.part(directory / f"{prefix}checkpoint"))
        if nominal:
            checkpoint.write(state, files.part(directory / f"{prefix}nominal_checkpoint"), nominal=True)
    return paths


def _ort_files(models: dict[str, bytes], library: str | None) -> dict[str, bytes]:
    module = _ort_converter()
    folder = Path(tempfile.mkdtemp())
    try:
        for name, content in models.items():
            (folder / name).write_bytes(content)
            module.convert_onnx_models_to_ort(
                folder / name,
                output_dir=folder,
                custom_op_library_path=None if library is None else Path(library),
                optimization_styles=[module.OptimizationStyle.Fixed],
            )
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in models}
    finally:
        shutil.rmtree(folder)


def _described(models: TrainingModels, reasons: dict[str, str]) -> list[tuple[str, str, str, str]]:
    trains = set(models.trainable)
    rows = []
    for name, value in models.values.items():
        kind, reason = ("trains", reasons.get(name, "")) if name in trains else ("frozen", models.reasons.get(name, ""))
        rows.append((name, type_text((TORCH_TO_ONNX[value.dtype], list(value.shape), 0)), kind, reason))
    return rows
