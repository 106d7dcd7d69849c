"""What torch says about a network of the zoo, and which initializers of an export stand for which torch parameter."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import zoo
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def fuse_batch_norm(net: nn.Module) -> nn.Module:
    """Every (convolution, normalization) pair of the ResNet as one convolution, as folding exporters write it."""
    for block in list(net.modules()):
        if isinstance(getattr(block, "normalization", None), nn.BatchNorm2d):
            block.convolution = fuse_conv_bn_eval(block.convolution, block.normalization)
            block.normalization = nn.Identity()
    return net


def twin(export: zoo.Export, distinct: bool = True) -> nn.Module:
    """The torch network with the parametrisation of the file."""
    net = export.net(distinct)
    return net if export.keeps_names else fuse_batch_norm(net)


def forward(net: nn.Module, feed: dict[str, torch.Tensor]) -> torch.Tensor:
    return net(*feed.values())


def seed(output: torch.Tensor) -> torch.Tensor:
    """A fixed random gradient of the output: an even one would cancel in softmax and normalisations."""
    g = torch.Generator().manual_seed(11)
    return torch.randn(output.shape, generator=g, dtype=torch.float64).to(output.dtype)


@dataclass(frozen=True)
class Truth:
    output: torch.Tensor
    grads: dict[str, torch.Tensor]


def gradients(net: nn.Module, feed: dict[str, torch.Tensor]) -> Truth:
    """Output and the gradient of every parameter, of the scalar sum(output * seed)."""
    net.zero_grad(set_to_none=True)
    for p in net.parameters():
        p.requires_grad_(True)
    out = forward(net, feed)
    out.backward(seed(out))
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in net.named_parameters(remove_duplicate=False)}
    return Truth(out.detach(), grads)


def frozen_in_torch(net: nn.Module) -> set[str]:
    return {n for n, p in net.named_parameters(remove_duplicate=False) if not p.requires_grad}


def initializers(proto: onnx.ModelProto) -> dict[str, torch.Tensor]:
    return {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in proto.graph.initializer if t.data_type in FLOATS}


@dataclass(frozen=True)
class Copy:
    """An initializer that holds the parameter, as it is or transposed."""

    initializer: str
    transposed: bool

    def as_parameter(self, t: torch.Tensor) -> torch.Tensor:
        return t.T if self.transposed else t


def copies(proto: onnx.ModelProto, net: nn.Module) -> dict[str, list[Copy]]:
    """For each distinct parameter the initializers whose values are the parameter's (found by value, never by name)."""
    found: dict[str, list[Copy]] = {n: [] for n, _ in net.named_parameters()}
    by_shape = defaultdict(list)
    for name, p in net.named_parameters():
        by_shape[tuple(p.shape)].append((name, p.detach(), False))
        if p.dim() == 2:
            by_shape[tuple(p.T.shape)].append((name, p.detach().T, True))
    for initializer, value in initializers(proto).items():
        for name, p, transposed in by_shape[tuple(value.shape)]:
            if torch.allclose(value.to(p.dtype), p, rtol=1e-5, atol=1e-6):
                found[name].append(Copy(initializer, transposed))
                break
    return found


def without_dropout(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The inference form of a file exported in train(): onnxruntime itself would drop some entries."""
    for node in proto.graph.node:
        if node.op_type == "Dropout":
            node.op_type = "Identity"
            del node.input[1:]
    return proto


def run_onnxruntime(proto: onnx.ModelProto, feed: dict[str, torch.Tensor]) -> np.ndarray:
    """Raises onnxruntime's own error where it lacks a kernel (float64 Conv, Gelu, ...)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {k: v.numpy() for k, v in feed.items() if k in names})[0]


def relative(got: torch.Tensor, want: torch.Tensor, least: float = 0.0) -> float:
    """Largest error relative to the largest entry, or to `least` where that is greater."""
    if got.shape != want.shape:
        raise AssertionError(f"shape: got {tuple(got.shape)}, expected {tuple(want.shape)}")
    if not want.numel():
        return 0.0
    scale = max(float(want.abs().max()), least)
    error = float((got.double() - want.double()).abs().max())
    return error if scale == 0 else error / scale


def errors(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> dict[str, float]:
    """Per name. A gradient that is zero but for rounding (softmax of a key bias) is measured against the others."""
    most = max(float(w.abs().max()) for w in want.values())
    return {n: relative(g, want[n], most if float(want[n].abs().max()) < 1e-5 * most else 0.0) for n, g in got.items()}


def computes_in_float32(proto: onnx.ModelProto) -> bool:
    """A float64 export that casts to float32, or holds constants rounded to float32."""
    float32 = onnx.TensorProto.FLOAT
    for node in proto.graph.node:
        for a in node.attribute:
            if node.op_type == "Cast" and a.name == "to" and a.i == float32:
                return True
            if node.op_type == "Constant" and (a.name in ("value_float", "value_floats") or a.t.data_type == float32):
                return True
    return any(t.data_type == float32 or rounded(t) for t in proto.graph.initializer)


def rounded(t: onnx.TensorProto) -> bool:
    """A float64 scalar with the digits of a float32, or the root of one: folded in float32 (the scale of attention)."""
    if t.data_type != onnx.TensorProto.DOUBLE or t.dims:
        return False
    value = abs(float(numpy_helper.to_array(t)))
    if not 1e-6 < value < 1e6:
        return False

    def few_digits(v: float, bits: int) -> bool:
        fraction = float(np.frexp(v)[0]) * 2**bits
        return abs(fraction - round(fraction)) < 2.0 ** (bits - 50)

    return any(few_digits(v, 24) and not few_digits(v, 12) for v in (value, value * value))


def tied(net: nn.Module) -> set[str]:
    """All names of parameters that have more than one."""
    names: dict[int, list[str]] = {}
    for n, p in net.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(n)
    return {n for group in names.values() if len(group) > 1 for n in group}


def with_initializers(proto: onnx.ModelProto, values: dict[str, torch.Tensor]) -> onnx.ModelProto:
    for t in proto.graph.initializer:
        if t.name in values:
            t.CopyFrom(numpy_helper.from_array(values[t.name].numpy(), t.name))
    return proto


def onnxruntime_lacks_kernel() -> type[Exception]:
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing

    return Missing
