"""The base class of blocks, and blocks of one operator."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ortmod._errors import ModelError
from ortmod.training.onnxblock import _accessor as accessor
from ortmod.training.onnxblock import _proto as proto


class Block(ABC):
    """Something that can be stacked on top of a model.

    Subclasses implement `build`, which adds to `self.base` and returns the names of what it computes. The model must be valid
    afterwards.

    Attributes:
        base (onnx.ModelProto): the model that `build` manipulates.
    """

    base: Any = None

    def __init__(self, temp_file_name: str = "temp.onnx") -> None:  # noqa: B027 (a name that old code gives; nothing is written)
        super().__init__()

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Adds to the model; returns names of values."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `build`, then checks the model (once, for blocks within blocks)."""
        handle = accessor.current()
        self.base = handle.model
        handle.depth += 1
        try:
            result = self.build(*args, **kwargs)
            if handle.depth == 1:
                result = self._finish(handle, result)
        finally:
            handle.depth -= 1
        return result

    def _finish(self, handle: accessor.ModelAccessor, result: Any) -> Any:
        check(handle.model)
        return result


def check(model: onnx.ModelProto) -> None:
    """ModelError if the model contradicts the standard. Outputs need not be declared yet."""
    small = proto.without_data(model)
    for tensor in model.graph.initializer:
        if not tensor.name:
            raise ModelError("[onnxblock] an initializer has no name")
    try:
        onnx.checker.check_model(small, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"[onnxblock] the model is not valid after the block was built: {error}") from error


class _Node(Block):
    """One node of the standard domain."""

    op = ""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self._attributes = attributes

    def build(self, *inputs: str) -> str:
        return proto.node(self.base, self.op, inputs, **self._attributes)[0]


class _Binary(_Node):
    def __init__(self) -> None:
        super().__init__()

    def build(self, input_name1: str, input_name2: str) -> str:  # type: ignore[override]
        return super().build(input_name1, input_name2)


class Add(_Binary):
    """The sum of two values."""

    op = "Add"


class Sub(_Binary):
    """The difference of two values."""

    op = "Sub"


class Mul(_Binary):
    """The product of two values."""

    op = "Mul"


class Div(_Binary):
    """The quotient of two values."""

    op = "Div"


class _Unary(_Node):
    def build(self, input_name: str) -> str:  # type: ignore[override]
        return super().build(input_name)


class Sigmoid(_Unary):
    """1 / (1 + exp(-x))."""

    op = "Sigmoid"


class Log(_Unary):
    """The natural logarithm."""

    op = "Log"


class Neg(_Unary):
    """-x."""

    op = "Neg"


class Abs(_Unary):
    """The absolute value."""

    op = "Abs"


class ReduceMean(_Unary):
    """The mean of all elements."""

    op = "ReduceMean"

    def __init__(self, keepdims: bool = True) -> None:
        super().__init__(keepdims=int(keepdims))


class ReduceSum(_Unary):
    """The sum of all elements."""

    op = "ReduceSum"

    def __init__(self, keepdims: bool = True) -> None:
        super().__init__(keepdims=int(keepdims))


class Pow(Block):
    """Elements to a power."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self._exponent = exponent

    def build(self, pow_input_name: str) -> str:
        code = proto.element_type(self.base, pow_input_name)
        exponent = proto.constant(self.base, "pow_exponent", self._exponent, code, [])
        return proto.node(self.base, "Pow", [pow_input_name, exponent])[0]


class Constant(Block):
    """One number, of shape [1] and of the model's float type."""

    def __init__(self, value_float: float) -> None:
        super().__init__()
        self._value = value_float

    def build(self) -> str:
        return proto.constant(self.base, "initializer", self._value, proto.element_type(self.base), [1])


class SequenceConstruct(Block):
    """A sequence of values."""

    def build(self, *sequence_input_names: str) -> str:
        return proto.node(self.base, "SequenceConstruct", sequence_input_names)[0]


class ReduceAllL2(Block):
    """The Euclidean norm of all elements of all values, of shape [1]."""

    def build(self, *reduce_node_input_names: str) -> str:
        squares = [proto.node(self.base, "ReduceSumSquare", [name], keepdims=0)[0] for name in reduce_node_input_names]
        total = proto.node(self.base, "Sum", squares)[0]
        one = proto.constant(self.base, "reduceall_shape", [1], TensorProto.INT64)
        return proto.node(self.base, "Reshape", [proto.node(self.base, "Sqrt", [total])[0], one], output="reducealll2_output")[0]


class Clip(Block):
    """Elements kept between two numbers; either may be absent."""

    def __init__(self, clip_min: float | None = None, clip_max: float | None = None) -> None:
        super().__init__()
        self._bounds = (("clip_min", clip_min), ("clip_max", clip_max))

    def build(self, clip_input_name: str) -> str:
        if proto.opset(self.base) < 11:
            attributes: dict[str, Any] = {name[5:]: float(value) for name, value in self._bounds if value is not None}
            return proto.node(self.base, "Clip", [clip_input_name], **attributes)[0]
        code = proto.element_type(self.base, clip_input_name)
        bounds = ["" if value is None else proto.constant(self.base, name, value, code, []) for name, value in self._bounds]
        return proto.node(self.base, "Clip", [clip_input_name, *bounds])[0]


class PassThrough(Block):
    """Its inputs as they are."""

    def build(self, *input_names: str) -> Any:
        return input_names[0] if len(input_names) == 1 else input_names


class InputLike(Block):
    """A new input of the type and shape of another value.

    Raises:
        LookupError: the model has no such value.
    """

    def __init__(self, like: str) -> None:
        super().__init__()
        self._like = like

    def build(self, input_name: str | None = None) -> str:
        like = proto.value_info(self.base, self._like)
        if like is None:
            known = [v.name for part in (self.base.graph.input, self.base.graph.output) for v in part]
            raise proto.UnknownNameError(
                f'[onnxblock] Could not find input or output with name "{self._like}"{proto.near(self._like, known)}'
            )
        return add_input(self.base, input_name or "input", like.type)


def add_input(model: onnx.ModelProto, name: str, value_type: onnx.TypeProto) -> str:
    added = onnx.ValueInfoProto(name=proto.unique(model.graph, name))
    added.type.CopyFrom(value_type)
    model.graph.input.append(added)
    return added.name


class LabelEncoder(Block):
    """Maps keys to values (ai.onnx.ml LabelEncoder); give one keys_* and one values_* list."""

    def __init__(
        self,
        default_float: float = 0.0,
        default_int64: int = -1,
        default_string: str = "_Unused",
        keys_floats: Sequence[float] | None = None,
        keys_int64s: Sequence[int] | None = None,
        keys_strings: Sequence[str] | None = None,
        values_floats: Sequence[float] | None = None,
        values_int64s: Sequence[int] | None = None,
        values_strings: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        given: Mapping[str, Any] = {
            "keys_floats": keys_floats,
            "keys_int64s": keys_int64s,
            "keys_strings": keys_strings,
            "values_floats": values_floats,
            "values_int64s": values_int64s,
            "values_strings": values_strings,
        }
        self._attributes: dict[str, Any] = {
            "default_float": default_float,
            "default_int64": default_int64,
            "default_string": default_string,
        }
        self._attributes.update({key: list(value) for key, value in given.items() if value is not None})

    def build(self, label_encoder_input_name: str) -> str:
        if all(entry.domain != "ai.onnx.ml" for entry in self.base.opset_import):
            self.base.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
        return proto.node(self.base, "LabelEncoder", [label_encoder_input_name], domain="ai.onnx.ml", **self._attributes)[0]


class Cast(Block):
    """Elements as another type (a code of onnx.TensorProto)."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self._to = to

    def build(self, cast_input_name: str) -> str:
        return proto.node(self.base, "Cast", [cast_input_name], to=self._to)[0]


class Linear(Block):
    """A dense layer (Gemm) with new weights of shapes [in, out] and [out], drawn as torch.nn.Linear draws them."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        self._in, self._out, self._bias = in_features, out_features, bias
        self._scales: dict[str, Any] = {"alpha": float(alpha), "beta": float(beta)}

    def build(self, linear_input_name: str) -> str:
        code = proto.element_type(self.base, linear_input_name)
        bound = 1 / np.sqrt(self._in)
        draw = np.random.uniform
        inputs = [linear_input_name, proto.constant(self.base, "linear.weight", draw(-bound, bound, (self._in, self._out)), code)]
        if self._bias:
            inputs.append(proto.constant(self.base, "linear.bias", draw(-bound, bound, self._out), code))
        return proto.node(self.base, "Gemm", inputs, output="linear_output", **self._scales)[0]


def type_of(model: onnx.ModelProto, name: str) -> onnx.TypeProto:
    """The type of a value; LookupError if the model has none of that name."""
    found = None
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        found = proto.value_info(model, name)
    if found is None:
        known = [v.name for part in (model.graph.output, model.graph.input) for v in part]
        raise proto.UnknownNameError(
            f'[onnxblock] The provided name "{name}" is not a graph value info or a graph output{proto.near(name, known)}'
        )
    return found.type
