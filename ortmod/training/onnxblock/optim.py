"""Optimizers as blocks: one update of all parameters as a standard ONNX model.

Inputs, in the order of onnxruntime-training 1.19.2: `learning_rate` float[1], `step` int64[1] (1 at the first update), then
sequences of tensors in the order of the parameters: `params`, `gradients`, `first_order_moments` and, for AdamW,
`second_order_moments`. Outputs, what onnxruntime-training wrote in place: `updated_params`, then the moments that change:
`updated_first_order_moments`, `updated_second_order_moments`.

Moments of float16 and bfloat16 parameters are float32, as small squares would vanish; so are `params` and `gradients` of bfloat16,
of which the standard has no sequences.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnx import TensorProto, helper

from ortmod._errors import DTypeError, GradientError, ModelError
from ortmod.training import graphs
from ortmod.training.onnxblock import _proto as proto
from ortmod.training.onnxblock import blocks
from ortmod.training.onnxblock.block import ForwardBlock

__all__ = ["SGD", "AdamW", "ClipGradNorm"]

SEQUENCE_OPSET = 11
_WIDE = {TensorProto.FLOAT, TensorProto.DOUBLE}
_SEQUENCES = {*_WIDE, TensorProto.FLOAT16}  # float types of which the standard has sequences
_COMMON = {"params", "lr_scale", "weight_decay"}


class ClipGradNorm(blocks.Block):
    """Scales values so that their common Euclidean norm is at most `max_norm`, as torch.nn.utils.clip_grad_norm_ does."""

    def __init__(self, max_norm: float) -> None:
        super().__init__()
        if not max_norm > 0:
            raise ModelError(f"[onnxblock] ClipGradNorm: got max_norm={max_norm}, expected a positive number")
        self._max_norm = float(max_norm)

    def build(self, *gradients: str) -> list[str]:
        """Returns the names of the scaled values."""
        paste = proto.Paste(self.base.graph)
        return self.paste(paste, list(gradients), proto.element_type(self.base, *gradients))

    def paste(self, paste: proto.Paste, gradients: list[str], code: int) -> list[str]:
        squares = [paste.add("ReduceSumSquare", [g], f"{g}.square", keepdims=0) for g in gradients]
        norm = paste.add("Sqrt", [paste.add("Sum", squares, "clip.squares")], "clip.norm")
        room = paste.add("Add", [norm, paste.number(1e-6, code, "clip.tiny")], "clip.room")
        share = paste.add("Div", [paste.number(self._max_norm, code, "clip.max_norm"), room], "clip.share")
        factor = paste.add("Min", [share, paste.number(1.0, code, "clip.one")], "clip.factor")
        return [paste.add("Mul", [g, factor], f"{g}.clipped") for g in gradients]


class _Optimizer(ForwardBlock):
    """What optimizers have in common: sequences in and out, groups of parameters, clipping."""

    title = ""
    states: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()

    def __init__(self, defaults: dict[str, Any], clip_grad: Any, groups: Iterable[Mapping[str, Any]] | None) -> None:
        super().__init__()
        max_norm = getattr(clip_grad, "_max_norm", clip_grad)
        self._clip = None if max_norm is None else ClipGradNorm(max_norm)
        self._defaults = {"lr_scale": 1.0, **defaults}
        self._groups = [dict(group) for group in groups or ()]
        for group in self._groups:
            if "params" not in group:
                raise ModelError(
                    f'[onnxblock] {self.title}: a group names its parameters in "params" (names or globs): got {group}'
                )
            unknown = set(group) - _COMMON - self.options
            if unknown:
                allowed = ", ".join(sorted(_COMMON | self.options))
                raise ModelError(f"[onnxblock] {self.title}: a group has no option {sorted(unknown)[0]!r}; expected {allowed}")
        for options in (self._defaults, *self._groups):
            self._check({**self._defaults, **options})

    def _check(self, options: dict[str, Any]) -> None:
        for key in ("lr_scale", "weight_decay"):
            if not options[key] >= 0:
                raise ModelError(f"[onnxblock] {self.title}: got {key}={options[key]}, expected a number of at least 0")

    def changed_states(self) -> tuple[str, ...]:
        return self.states

    def build(self, parameters: Any) -> tuple[str, ...]:  # type: ignore[override]
        """`parameters`: the trainable ones, or (trainable, frozen) as TrainingBlock.parameters() gives them."""
        trainable = list(parameters[0] if isinstance(parameters, tuple) else parameters)
        if not trainable:
            raise GradientError(f"[onnxblock] {self.title}: there is no trainable parameter; name some in requires_grad")
        codes = {tensor.data_type for tensor in trainable}
        if len(codes) > 1:
            kinds = ", ".join(sorted(TensorProto.DataType.Name(code) for code in codes))
            raise DTypeError(
                f"[onnxblock] {self.title}: parameters of one element type expected, got {kinds}; a sequence has one type"
            )
        (code,) = codes
        chosen = [self._options_of(tensor.name) for tensor in trainable]
        return self._update(chosen, code)

    def _options_of(self, name: str) -> dict[str, Any]:
        options = dict(self._defaults)
        for group in self._groups:
            patterns = [group["params"]] if isinstance(group["params"], str) else list(group["params"])
            if any(name == p or fnmatch.fnmatchcase(name, p) for p in patterns):
                options.update({key: value for key, value in group.items() if key != "params"})
                group["found"] = True
                break
        return options

    def _update(self, chosen: Sequence[dict[str, Any]], code: int) -> tuple[str, ...]:
        for group in self._groups:
            if not group.pop("found", False):
                raise ModelError(f"[onnxblock] {self.title}: no trainable parameter is named in the group {group['params']!r}")
        graph = self.base.graph
        graph.input.append(helper.make_tensor_value_info("learning_rate", TensorProto.FLOAT, [1]))
        graph.input.append(helper.make_tensor_value_info("step", TensorProto.INT64, [1]))
        wide = code if code in _WIDE else TensorProto.FLOAT
        held = code if code in _SEQUENCES else wide
        codes = {"params": held, "gradients": held} | dict.fromkeys(self.states, wide)
        sequences = {c: helper.make_sequence_type_proto(helper.make_tensor_type_proto(c, None)) for c in (held, wide)}
        for name in codes:
            graph.input.append(helper.make_value_info(name, sequences[codes[name]]))
        paste = proto.Paste(graph)
        scalar = paste.add("Constant", [], "scalar", value=helper.make_tensor("", TensorProto.INT64, [0], []))
        number = paste.add("Reshape", ["learning_rate", scalar], "learning_rate.scalar")
        rate = number if wide == TensorProto.FLOAT else paste.add("Cast", [number], "learning_rate.cast", to=wide)
        step = paste.add("Cast", [paste.add("Reshape", ["step", scalar], "step.scalar")], "step.cast", to=TensorProto.DOUBLE)
        changed = self.changed_states()
        items: dict[str, list[str]] = {name: [] for name in ("params", "gradients", *changed)}
        for i in range(len(chosen)):
            index = paste.add("Constant", [], f"index.{i}", value=helper.make_tensor("", TensorProto.INT64, [], [i]))
            for name, found in items.items():
                item = paste.add("SequenceAt", [name, index], f"{name}.{i}")
                found.append(item if codes[name] == wide else paste.add("Cast", [item], f"{item}.wide", to=wide))
        gradients = self._clip.paste(paste, items["gradients"], wide) if self._clip else items["gradients"]
        results: list[list[str]] = []
        for i, options in enumerate(chosen):
            scale = options["lr_scale"]
            own = rate if scale == 1 else paste.add("Mul", [rate, paste.number(scale, wide, "lr_scale")], "learning_rate.scaled")
            states = [items[name][i] for name in changed]
            made = self._one(paste, options, wide, items["params"][i], gradients[i], own, step, states, f"{i}.")
            if held != wide:
                made[0] = paste.add("Cast", [made[0]], f"{made[0]}.narrow", to=held)
            results.append(made)
        outputs = []
        for name, values in zip(["params", *changed], zip(*results, strict=True), strict=True):
            outputs.append(f"updated_{name}")
            graph.node.append(helper.make_node("SequenceConstruct", list(values), [outputs[-1]]))
            graph.output.append(helper.make_value_info(outputs[-1], sequences[codes[name]]))
        return tuple(outputs)

    def _one(
        self,
        paste: proto.Paste,
        options: dict[str, Any],
        code: int,
        weight: str,
        gradient: str,
        rate: str,
        step: str,
        states: list[str],
        prefix: str,
    ) -> list[str]:
        """Adds the update of one parameter; returns the new parameter, then its new states."""
        raise NotImplementedError


class AdamW(_Optimizer):
    """Adam with decoupled weight decay.

    Args:
        bias_correction: moments are divided by 1 - beta^step (ORT's form only allows False).
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decay of the parameters, times the learning rate.
        clip_grad: the largest norm of all gradients together, or None.
        form: "torch" (decay before the step, eps added after the bias correction) or "ort" (the default of onnxruntime-training
            1.19.2, that of Hugging Face: eps added before the correction, decay after the step).
        groups: options for some parameters: {"params": names or globs, "lr_scale": factor of the learning rate, "weight_decay",
            "betas", "eps"}; the first group that names a parameter counts.
    """

    title = "AdamW"
    states = ("first_order_moments", "second_order_moments")
    options = frozenset({"betas", "eps"})

    def __init__(
        self,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip_grad: Any = None,
        *,
        form: str = "torch",
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        if form not in ("torch", "ort"):
            raise ModelError(f'[onnxblock] AdamW: got form={form!r}, expected "torch" or "ort"')
        if not bias_correction and form == "torch":
            raise ModelError(
                '[onnxblock] AdamW: torch\'s form always corrects the bias; give form="ort" with bias_correction=False'
            )
        self._form, self._correct = form, bias_correction
        super().__init__({"betas": betas, "eps": eps, "weight_decay": weight_decay}, clip_grad, groups)

    def _check(self, options: dict[str, Any]) -> None:
        super()._check(options)
        if not all(0 <= beta < 1 for beta in options["betas"]):
            raise ModelError(f"[onnxblock] AdamW: got betas={options['betas']}, expected two numbers of at least 0 and below 1")
        if not options["eps"] > 0:
            raise ModelError(f"[onnxblock] AdamW: got eps={options['eps']}, expected a positive number")

    def _one(self, paste, options, code, weight, gradient, rate, step, states, prefix):  # type: ignore[no-untyped-def]
        (beta1, beta2) = options["betas"]
        values: dict[str, Any] = {"eps": float(options["eps"]), "weight_decay": float(options["weight_decay"])}
        values.update(beta1=float(beta1), beta2=float(beta2), take1=1 - float(beta1), take2=1 - float(beta2))
        if self._form == "torch":
            piece = graphs.graph(
                "adamw", dtype=code, name="adamw", denominator=graphs.text("adamw_torch", dtype=code, **values), **values
            )
        else:
            kind = "rate_corrected" if self._correct else "rate_plain"
            piece = graphs.graph("adamw_ort", dtype=code, name="adamw", step_rate=graphs.text(kind, dtype=code, **values), **values)
        return paste.piece(piece, [weight, gradient, rate, step, *states], prefix)


class SGD(_Optimizer):
    """Stochastic gradient descent, as torch.optim.SGD without dampening.

    Args:
        clip_grad: the largest norm of all gradients together, or None.
        momentum: what is kept of the last update direction.
        nesterov: look ahead along the momentum.
        weight_decay: times the parameter, added to its gradient.
        groups: options for some parameters: {"params": names or globs, "lr_scale": factor of the learning rate, "weight_decay"}.
    """

    title = "SGD"
    states = ("first_order_moments",)

    def __init__(
        self,
        clip_grad: Any = None,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ModelError(f"[onnxblock] SGD: got momentum={momentum}, expected a number of at least 0 and below 1")
        if nesterov and momentum == 0:
            raise ModelError("[onnxblock] SGD: nesterov needs a momentum above 0")
        self._momentum, self._nesterov = float(momentum), nesterov
        super().__init__({"weight_decay": weight_decay}, clip_grad, groups)

    def changed_states(self) -> tuple[str, ...]:
        return self.states if self._momentum else ()

    def _one(self, paste, options, code, weight, gradient, rate, step, states, prefix):  # type: ignore[no-untyped-def]
        if options["weight_decay"]:
            decay = graphs.graph("decay", dtype=code, weight_decay=float(options["weight_decay"]))
            (gradient,) = paste.piece(decay, [weight, gradient], prefix)
        if not self._momentum:
            return paste.piece(graphs.graph("sgd", dtype=code, name="sgd"), [weight, gradient, rate], prefix)
        kind = "nesterov_torch" if self._nesterov else "momentum_torch"
        piece = graphs.graph(kind, dtype=code, name=kind, momentum=self._momentum)
        return paste.piece(piece, [weight, gradient, rate, *states], prefix)
