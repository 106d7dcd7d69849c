"""Command line: python -m ortmod {explain,gradient,train,artifacts} model.onnx"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import onnx

from ortmod import _train_command
from ortmod._errors import OrtmodError
from ortmod._model import type_text
from ortmod._table import table
from ortmod.gradient import GRADIENT_NAMES, build_gradient
from ortmod.ops import explain


def _explain(options: argparse.Namespace) -> None:
    print(explain(options.model))


def _type(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    return type_text((tensor.elem_type, dims if tensor.HasField("shape") else None, 0))


def _gradient(options: argparse.Namespace) -> None:
    path = options.output or Path(options.model).with_suffix(".gradient.onnx")
    opset = int(options.opset) if options.opset.isdigit() else options.opset
    arguments = {
        "wrt": options.wrt,
        "outputs": options.outputs,
        "training": options.training,
        "unreachable": options.unreachable,
        "opset": opset,
    }
    if options.split:
        parts = build_gradient(options.model, split=True, **arguments)
        paths = [path.with_suffix(f".{part}.onnx") for part in ("forward", "backward")]
    else:
        parts, paths = (build_gradient(options.model, **arguments),), [path]
    for proto, where in zip(parts, paths, strict=True):
        onnx.save(proto, where)
        print(f"{where}: {len(proto.graph.node)} nodes")
        for title, values in (("input", proto.graph.input), ("output", proto.graph.output)):
            print(table([title, "type"], [[v.name, _type(v)] for v in values]))
        names: dict[str, str] = next((json.loads(p.value) for p in proto.metadata_props if p.key == GRADIENT_NAMES), {})
        if names:
            print(table(["name", "its gradient"], list(names.items())))


_LOSSES = {"mse": "MSELoss", "cross-entropy": "CrossEntropyLoss", "bce": "BCEWithLogitsLoss", "l1": "L1Loss"}
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}


def _artifacts(options: argparse.Namespace) -> None:
    from ortmod.training.artifacts import LossType, OptimType, generate_artifacts

    report = generate_artifacts(
        options.model,
        options.requires_grad,
        options.frozen,
        None if options.loss is None else LossType[_LOSSES[options.loss]],
        None if options.optimizer is None else OptimType[_OPTIMIZERS[options.optimizer]],
        options.output,
        prefix=options.prefix,
        additional_output_names=options.outputs,
        nominal_checkpoint=options.nominal,
        loss_input_names=options.loss_inputs,
        opset=int(options.opset) if options.opset.isdigit() else options.opset,
    )
    print(report)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ortmod", description="Looks at, differentiates and trains ONNX models.")
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("explain", help="which nodes run and are differentiable, which weights a gradient reaches")
    look.add_argument("model")
    look.set_defaults(run=_explain)
    grad = commands.add_parser("gradient", help="write the gradient of a model as an ONNX model")
    grad.add_argument("model")
    grad.add_argument("-o", "--output", type=Path, help="file to write (default: model.gradient.onnx)")
    grad.add_argument("--wrt", nargs="+", help="weights and inputs (default: what trains by default)")
    grad.add_argument("--outputs", nargs="+", help="outputs to differentiate (default: those that depend on wrt)")
    grad.add_argument("--split", action="store_true", help="write forward and backward apart")
    grad.add_argument("--training", action="store_true", help="BatchNormalization and Dropout as in training")
    grad.add_argument("--unreachable", choices=["error", "zero"], default="error")
    grad.add_argument("--opset", default="keep", help="keep, upgrade, or a number (default: keep)")
    grad.set_defaults(run=_gradient)
    _train_command.add(commands)
    make = commands.add_parser("artifacts", help="write training, eval and optimizer models and a checkpoint")
    make.add_argument("model")
    make.add_argument("-o", "--output", type=Path, help="directory to write to (default: the current one)")
    make.add_argument("--loss", choices=_LOSSES, help="loss on top of the model (default: its first output is the loss)")
    make.add_argument("--loss-inputs", nargs="+", help="values that the loss takes (default: the outputs)")
    make.add_argument("--optimizer", choices=_OPTIMIZERS, help="write the model of this optimizer, too")
    make.add_argument("--requires-grad", nargs="+", help="parameters to train (default: what trains by default)")
    make.add_argument("--frozen", nargs="+", help="parameters of the checkpoint that do not train")
    make.add_argument("--outputs", nargs="+", help="values to return after the loss")
    make.add_argument("--prefix", default="", help="of the names of files")
    make.add_argument("--nominal", action="store_true", help="write a checkpoint without values, too")
    make.add_argument("--opset", default="keep", help="keep, upgrade, or a number (default: keep)")
    make.set_defaults(run=_artifacts)
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            options.run(options)
    except (OrtmodError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
