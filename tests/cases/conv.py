"""Rows: convolutions and transposed convolutions over one to three axes."""

import numpy as np
import torch.nn.functional as tf
from oracle import Case, R

CONV = {1: tf.conv1d, 2: tf.conv2d, 3: tf.conv3d}
TRANSPOSED = {1: tf.conv_transpose1d, 2: tf.conv_transpose2d, 3: tf.conv_transpose3d}


def split(pads, n):
    return [(pads[i], pads[n + i]) for i in range(n)]


def both_sides(x, pads, value=0.0):
    return tf.pad(x, [p for pair in reversed(pads) for p in pair], value=value)


def same(sizes, kernel, strides, dilations, lower):
    pads = []
    for x, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-x // s) - 1) * s + d * (k - 1) + 1 - x, 0)
        half = total // 2
        pads.append((total - half, half) if lower else (half, total - half))
    return pads


def conv(attrs):
    def run(x, w, b=None):
        n = x.dim() - 2
        s, d = attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n)
        mode = attrs.get("auto_pad", "NOTSET")
        pads = split(attrs.get("pads", [0] * 2 * n), n)
        if mode.startswith("SAME"):
            pads = same(x.shape[2:], w.shape[2:], s, d, mode == "SAME_LOWER")
        return CONV[n](both_sides(x, pads), w, b, s, 0, d, attrs.get("group", 1))

    return run


def transposed(attrs):
    """The whole result, cut or filled with zeros to the size that the attributes ask for."""

    def run(x, w, b=None):
        n = x.dim() - 2
        s, d = attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n)
        extra, mode = attrs.get("output_padding", [0] * n), attrs.get("auto_pad", "NOTSET")
        full = TRANSPOSED[n](x, w, None, s, 0, 0, attrs.get("group", 1), d)
        pads = []
        for i in range(n):
            size = full.shape[i + 2] + extra[i]
            if "output_shape" in attrs or mode.startswith("SAME"):
                want = attrs["output_shape"][i] if "output_shape" in attrs else x.shape[i + 2] * s[i]
                total = max(size - want, 0)
                begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            else:
                p = split(attrs.get("pads", [0] * 2 * n), n)[i]
                begin, want = p[0], size - sum(p)
            pads.append((-begin, want + begin - full.shape[i + 2]))
        y = both_sides(full, pads)
        return y if b is None else y + b.view(-1, *[1] * n)

    return run


def row(op, fn, x, w, bias=False, **attrs):
    options = {k: attrs.pop(k) for k in ("opset", "dynamic", "stock", "unknown", "dtypes", "fd") if k in attrs}
    group = attrs.get("group", 1)
    inputs = [R(*x), R(*w)] + ([R(w[0] if op == "Conv" else w[1] * group)] if bias else [])
    attrs.setdefault("kernel_shape", list(w[2:]))
    options.setdefault("dtypes", ("float64", "float32"))
    return Case(op, inputs, attrs, torch=fn(attrs), **options)


def c(x, w, **attrs):
    return row("Conv", conv, x, w, **attrs)


def t(x, w, **attrs):
    return row("ConvTranspose", transposed, x, w, **attrs)


def int8(*shape, low=-8, high=8, dtype=np.int8):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


CASES = [
    c((2, 3, 7), (4, 3, 3), bias=True),
    c((2, 3, 7), (4, 3, 3), strides=[2], pads=[1, 0], dilations=[2]),
    c((2, 3, 6, 5), (4, 3, 3, 2), bias=True, dtypes=("float64", "float32", "bfloat16")),
    c((2, 3, 6, 5), (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], bias=True),
    c((2, 3, 6, 5), (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], bias=True, opset=7, dynamic=False),
    c((2, 3, 8, 7), (4, 3, 3, 3), strides=[3, 2]),
    c((1, 2, 8, 8), (2, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    c((1, 2, 8, 8), (2, 2, 3, 3), dilations=[2, 1], strides=[3, 2]),
    c((1, 2, 6, 6), (2, 2, 3, 3), pads=[0, 1, 2, 3]),
    c((1, 2, 6, 7), (2, 2, 3, 3), pads=[2, 0, 0, 1], strides=[2, 3]),
    c((2, 4, 6, 6), (6, 2, 3, 3), group=2, bias=True),
    c((2, 4, 7, 6), (4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    c((2, 3, 5, 5), (6, 1, 2, 2), group=3, dilations=[2, 2], pads=[0, 1, 1, 0]),
    c((2, 2, 6, 6), (3, 2, 3, 3), auto_pad="SAME_UPPER"),
    c((2, 2, 7, 6), (3, 2, 2, 4), auto_pad="SAME_UPPER", strides=[2, 3]),
    c((2, 2, 7, 6), (3, 2, 2, 4), auto_pad="SAME_LOWER", strides=[2, 3], bias=True),
    c((2, 2, 7, 7), (3, 2, 1, 1), auto_pad="SAME_UPPER", strides=[3, 3]),
    c((2, 2, 7, 6), (3, 2, 3, 3), auto_pad="VALID", strides=[2, 2]),
    c((2, 3, 4, 4), (5, 3, 1, 1)),
    c((2, 3, 4, 4), (5, 3, 4, 4)),
    c((1, 2, 4, 5, 3), (2, 2, 2, 3, 2), bias=True, stock=False),
    c((1, 2, 4, 5, 4), (2, 1, 2, 2, 3), group=2, strides=[2, 1, 2], pads=[1, 0, 1, 0, 1, 1]),
    Case(
        "Conv", [R(0, 2, 5, 5), R(3, 2, 3, 3)], torch=tf.conv2d, fd=False, stock=False, dynamic=False, dtypes=("float64", "float32")
    ),
    Case("Conv", [R(1, 3, 5, 5), R(2, 2, 3, 3)], dynamic=False, error="channels do not fit the weight"),
    Case("Conv", [R(1, 2, 5), R(2, 2, 3, 3)], dynamic=False, error="differ in rank"),
    Case("Conv", [R(1, 2, 2, 5), R(2, 2, 3, 3)], dynamic=False, error="window is larger than the padded operand"),
    Case("Conv", [R(1, 2, 5, 5), R(2, 2, 3, 3)], {"kernel_shape": [2, 2]}, dynamic=False, error="kernel_shape does not fit"),
    Case("Conv", [R(1, 2, 5, 5), R(2, 2, 3, 3)], {"strides": [1, 0]}, dynamic=False, error="strides out of range"),
    Case("Conv", [R(1, 2, 5, 5), R(2, 2, 3, 3), R(3)], dynamic=False, error="the bias does not fit"),
    t((2, 3, 5), (3, 4, 3), bias=True),
    t((2, 3, 5), (3, 4, 3), strides=[2], pads=[1, 0], output_padding=[1]),
    t((2, 3, 4, 5), (3, 2, 3, 3), bias=True),
    t((2, 3, 4, 5), (3, 2, 3, 2), strides=[2, 3], pads=[1, 0, 1, 1], bias=True),
    t((2, 3, 4, 5), (3, 2, 3, 2), strides=[2, 3], output_padding=[1, 2]),
    t((2, 3, 4, 5), (3, 2, 3, 3), dilations=[2, 1], pads=[1, 2, 0, 1]),
    t((2, 4, 4, 5), (4, 3, 3, 3), group=2, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    t((2, 3, 4, 4), (3, 1, 2, 2), group=3, strides=[2, 2]),
    t((1, 2, 4, 3), (2, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    t((1, 2, 4, 3), (2, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2], bias=True),
    t((1, 2, 4, 3), (2, 3, 4, 3), auto_pad="VALID", strides=[2, 3]),
    t((1, 2, 4, 3), (2, 3, 3, 3), strides=[3, 2], output_shape=[10, 8], dynamic=False, stock=False),
    t((1, 2, 4, 3), (2, 3, 3, 3), strides=[3, 2], output_shape=[10, 6], auto_pad="SAME_UPPER", dynamic=False, stock=False),
    t((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), strides=[2, 1, 2], pads=[1, 0, 0, 0, 1, 1]),
    Case("ConvTranspose", [R(1, 3, 5, 5), R(2, 2, 3, 3)], dynamic=False, error="channels do not fit the weight"),
    Case("ConvTranspose", [R(1, 2, 2, 2), R(2, 2, 2, 2)], {"pads": [3, 3, 3, 3]}, dynamic=False, error="pads are larger"),
    Case("ConvInteger", [int8(1, 2, 5, 5, low=0, dtype=np.uint8), int8(3, 2, 3, 3, low=0, dtype=np.uint8)], {"pads": [1, 0, 1, 2]}),
    Case("ConvInteger", [int8(1, 2, 5, 5, low=0, dtype=np.uint8), int8(3, 2, 3, 3, low=0, dtype=np.uint8), np.uint8(3)]),
]
