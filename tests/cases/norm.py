"""Rows: normalisation."""

import numpy as np
import torch.nn.functional as tf
from oracle import Case, F, R, U

DTYPES = ("float64", "float32")


def batch_norm(x, scale, bias, mean, var, eps=1e-5):
    shape = (1, -1, *[1] * (x.dim() - 2))
    return (x - mean.view(shape)) / (var.view(shape) + eps).sqrt() * scale.view(shape) + bias.view(shape)


def batch_norm_training(momentum, eps=1e-5):
    """ONNX's definition: the running variance takes the biased one."""

    def run(x, scale, bias, mean, var):
        axes = [0, *range(2, x.dim())]
        m, v = x.mean(axes), x.var(axes, correction=0)
        shape = (1, -1, *[1] * (x.dim() - 2))
        y = (x - m.view(shape)) / (v.view(shape) + eps).sqrt() * scale.view(shape) + bias.view(shape)
        return y, mean * momentum + m.detach() * (1 - momentum), var * momentum + v.detach() * (1 - momentum)

    return run


def layer_norm(axis=-1, eps=1e-5, statistics=False):
    def run(x, scale, bias=None):
        axes = list(range(axis % x.dim(), x.dim()))
        mean = x.mean(axes, keepdim=True)
        invstd = 1 / ((x - mean).square().mean(axes, keepdim=True) + eps).sqrt()
        y = (x - mean) * invstd * scale
        y = y if bias is None else y + bias
        return (y, mean, invstd) if statistics else y

    return run


def group_norm(groups):
    return lambda x, scale, bias: tf.group_norm(x, groups, scale, bias)


def lrn(size, alpha, beta, bias):
    def run(x):
        squares = tf.pad(x.square().unsqueeze(1).flatten(3), (0, 0, (size - 1) // 2, size - 1 - (size - 1) // 2))
        sums = squares.unfold(2, size, 1).sum(-1).view(x.shape)
        return x / (bias + alpha / size * sums) ** beta

    return run


def mean_variance(axes):
    def run(x):
        c = x - x.mean(axes, keepdim=True)
        return c / (c.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return run


def rms_norm(axis=-1, eps=1e-5):
    def run(x, scale):
        axes = list(range(axis % x.dim(), x.dim()))
        return x / (x.square().mean(axes, keepdim=True) + eps).sqrt() * scale

    return run


def lp_norm(axis, p):
    return lambda x: x / x.norm(p, dim=axis, keepdim=True)


STATS = [R(3), R(3), R(3), U(0.5, 2.0, 3)]

CASES = [
    Case("BatchNormalization", [R(4, 3, 2, 5), *STATS], torch=batch_norm),
    Case("BatchNormalization", [R(4, 3, 2, 5), *STATS], {"epsilon": 0.125}, opset=7, torch=lambda *a: batch_norm(*a, eps=0.125)),
    Case("BatchNormalization", [R(4, 3, 2, 5), *STATS], opset=9, torch=batch_norm),
    Case("BatchNormalization", [R(4, 3), *STATS], opset=14, torch=batch_norm),
    Case("BatchNormalization", [R(4, 3, 6), *STATS], torch=batch_norm),
    Case(
        "BatchNormalization",
        [R(4), R(1), R(1), R(1), U(0.5, 2.0, 1)],
        torch=lambda x, *rest: batch_norm(x[:, None], *rest).squeeze(1),
    ),
    Case("BatchNormalization", [R(4, 3, 2, 2, 2), *STATS], torch=batch_norm),
    Case(
        "BatchNormalization",
        [R(4, 3, 2, 5), *STATS],
        {"training_mode": 1, "momentum": 0.75},
        outputs=3,
        wrt=[0, 1, 2],
        training=True,
        torch=batch_norm_training(0.75),
        dtypes=DTYPES,
        fd=False,
        second=False,
        stock=False,
    ),
    Case("BatchNormalization", [R(4, 3, 2, 5), R(2), R(3), R(3), U(0.5, 2.0, 3)], dynamic=False, error="one element per channel"),
    Case("LayerNormalization", [R(2, 4, 5), R(5), R(5)], torch=layer_norm()),
    Case("LayerNormalization", [R(2, 4, 5), R(5)], {"epsilon": 0.125}, torch=layer_norm(eps=0.125)),
    Case("LayerNormalization", [R(2, 4, 5), R(4, 5), R(4, 5)], {"axis": 1}, torch=layer_norm(1)),
    Case("LayerNormalization", [R(2, 4, 5), R(2, 4, 5), R(2, 4, 5)], {"axis": 0}, torch=layer_norm(0)),
    Case("LayerNormalization", [R(2, 4, 5), R(5), R(5)], {"axis": 1}, torch=layer_norm(1)),
    Case("LayerNormalization", [R(2, 4, 5), R(5), R(1)], torch=layer_norm(), unknown="forward"),
    Case(
        "LayerNormalization", [R(2, 4, 5), R(5), R(5)], outputs=3, torch=layer_norm(statistics=True), dtypes=("float32",), tol=1e5
    ),
    Case(
        "LayerNormalization",
        [R(2, 4, 5), R(5), R(5)],
        outputs=(True, False, True),
        dtypes=("float32",),
        torch=lambda *a: layer_norm(statistics=True)(*a)[::2],
        tol=1e5,
    ),
    Case("LayerNormalization", [R(0, 5), R(5), R(5)], torch=layer_norm(), fd=False, stock=False, dynamic=False),
    Case("LayerNormalization", [R(2, 5), R(4), R(5)], dynamic=False, error="scale and bias must broadcast"),
    Case("LayerNormalization", [R(2, 5), R(5), R(5)], {"axis": 2}, dynamic=False, error="axis out of range: got 2 for rank 2"),
    Case("InstanceNormalization", [R(2, 3, 4, 5), R(3), R(3)], torch=lambda x, s, b: tf.instance_norm(x, weight=s, bias=b)),
    Case(
        "InstanceNormalization",
        [R(2, 3, 6), R(3), R(3)],
        {"epsilon": 0.125},
        opset=7,
        torch=lambda x, s, b: tf.instance_norm(x, weight=s, bias=b, eps=0.125),
    ),
    Case("GroupNormalization", [R(2, 6, 4, 3), R(6), R(6)], {"num_groups": 3}, torch=group_norm(3)),
    Case("GroupNormalization", [R(2, 6, 4), R(6), R(6)], {"num_groups": 6}, torch=group_norm(6)),
    Case(
        "GroupNormalization",
        [R(2, 6, 4), R(3), R(3)],
        {"num_groups": 3, "epsilon": 0.25},
        opset=18,
        torch=lambda x, s, b: tf.group_norm(x, 3, s.repeat_interleave(2), b.repeat_interleave(2), 0.25),
        checked=False,
    ),
    Case(
        "GroupNormalization",
        [R(2, 6, 4), R(6), R(6)],
        {"num_groups": 4},
        dynamic=False,
        error="num_groups must divide the channels",
    ),
    Case("RMSNormalization", [R(2, 4, 5), R(5)], opset=23, torch=rms_norm(), stock=False),
    Case("RMSNormalization", [R(2, 4, 5), R(4, 5)], {"axis": 1, "epsilon": 0.25}, opset=23, torch=rms_norm(1, 0.25), stock=False),
    Case("LRN", [R(2, 5, 3, 4)], {"size": 3, "alpha": 0.5, "beta": 0.75, "bias": 2.0}, torch=lrn(3, 0.5, 0.75, 2.0)),
    Case("LRN", [R(2, 6, 3, 2)], {"size": 5, "alpha": 0.25}, opset=7, torch=lrn(5, 0.25, 0.75, 1.0)),
    Case("MeanVarianceNormalization", [R(2, 3, 4, 5)], torch=mean_variance((0, 2, 3))),
    Case("MeanVarianceNormalization", [R(2, 3, 4)], {"axes": [-1]}, opset=9, torch=mean_variance((-1,))),
    Case("LpNormalization", [R(2, 3, 4)], torch=lp_norm(-1, 2), dtypes=DTYPES),
    Case("LpNormalization", [R(2, 3, 4)], {"axis": 1, "p": 1}, torch=lp_norm(1, 1), dtypes=DTYPES),
    Case(
        "LpNormalization",
        [F([[0.0, 0.0], [3.0, 4.0]])],
        {"axis": 1},
        opset=7,
        fd=False,
        second=False,
        dtypes=DTYPES,
        expect=lambda x: np.array([[0.0, 0.0], [0.6, 0.8]]),
    ),
    Case("LpNormalization", [R(2, 3)], {"p": 3}, dynamic=False, error="p must be 1 or 2: got 3"),
]
