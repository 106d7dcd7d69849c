"""Rows: pooling."""

import numpy as np
import torch
import torch.nn.functional as tf
from oracle import Case, F, R

from cases.conv import both_sides, same, split

DTYPES = ("float64", "float32")


def windows(x, attrs, value, end_of_pads=False):
    """[N, C, out.., kernel..] of x padded by `value`; with end_of_pads: also 1 where the padding counts, 0 beyond."""
    n = x.dim() - 2
    k = attrs["kernel_shape"]
    s, d = attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n)
    mode = attrs.get("auto_pad", "NOTSET")
    pads = split(attrs.get("pads", [0] * 2 * n), n)
    if mode.startswith("SAME"):
        pads = same(x.shape[2:], k, s, d, mode == "SAME_LOWER")
    sizes, after = [], []
    for i in range(n):
        room = x.shape[i + 2] + sum(pads[i]) - d[i] * (k[i] - 1) - 1
        out = room // s[i] + 1
        if attrs.get("ceil_mode"):
            out = min(-(-room // s[i]) + 1, -(-(x.shape[i + 2] + pads[i][0]) // s[i]))
        sizes.append(out)
        after.append((out - 1) * s[i] + d[i] * (k[i] - 1) + 1 - x.shape[i + 2] - pads[i][0])
    y = both_sides(x, [(p[0], a) for p, a in zip(pads, after, strict=True)], value)
    for i in range(n):
        index = torch.arange(sizes[i])[:, None] * s[i] + torch.arange(k[i])[None, :] * d[i]
        y = y.movedim(2 + i, -1)[..., index].movedim(-2, 2 + i)
    return y


def flat(w, n):
    return w.flatten(start_dim=2 + n)


def max_pool(attrs):
    def run(x):
        return flat(windows(x, attrs, -float("inf")), x.dim() - 2).amax(-1)

    return run


def max_pool_indices(attrs):
    def run(x):
        n = x.dim() - 2
        w = flat(windows(x, attrs, -float("inf")), n)
        where = flat(windows(torch.arange(x.numel(), dtype=torch.float64).view(x.shape), attrs, -1.0), n)
        best = w.argmax(-1, keepdim=True)
        return w.gather(-1, best).squeeze(-1), where.gather(-1, best).squeeze(-1).long()

    return run


def average_pool(attrs):
    def run(x):
        n = x.dim() - 2
        total = flat(windows(x, attrs, 0.0), n).sum(-1)
        ones = torch.ones_like(x)
        if attrs.get("count_include_pad") and not attrs.get("auto_pad", "NOTSET").startswith("SAME"):
            pads = split(attrs.get("pads", [0] * 2 * n), n)
            ones = both_sides(ones, pads, 1.0)
            rest = {k: v for k, v in attrs.items() if k != "pads"}
            count = flat(windows(ones, {**rest, "auto_pad": "NOTSET"}, 0.0), n).sum(-1)
            count = count[tuple(slice(0, s) for s in total.shape)]
        else:
            count = flat(windows(ones, attrs, 1.0 if attrs.get("count_include_pad") else 0.0), n).sum(-1)
        return total / count

    return run


def lp_pool(attrs):
    p = attrs.get("p", 2)
    return lambda x: flat(windows(x.abs() ** p, attrs, 0.0), x.dim() - 2).sum(-1) ** (1 / p)


def row(op, fn, x, **attrs):
    options = {k: attrs.pop(k) for k in ("opset", "dynamic", "stock", "outputs", "fd", "dtypes") if k in attrs}
    options.setdefault("dtypes", DTYPES)
    return Case(op, [R(*x)], attrs, torch=fn(attrs), **options)


def m(x, **attrs):
    return row("MaxPool", max_pool, x, **attrs)


def a(x, **attrs):
    return row("AveragePool", average_pool, x, **attrs)


def lp(x, **attrs):
    return row("LpPool", lp_pool, x, **attrs)


CASES = [
    m((2, 3, 8), kernel_shape=[3]),
    m((2, 3, 8), kernel_shape=[3], strides=[2], pads=[0, 1], dilations=[2]),
    m((2, 3, 6, 7), kernel_shape=[3, 2], dtypes=("float64", "float32", "bfloat16")),
    m((2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    m((2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], opset=13),
    m((2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], opset=8, dynamic=False),
    m((2, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 2, 0], opset=12),
    m((2, 3, 7, 6), kernel_shape=[2, 3], auto_pad="SAME_UPPER", strides=[2, 2], opset=12),
    m((1, 2, 8, 8), kernel_shape=[3, 3], strides=[3, 2], ceil_mode=1),
    m((1, 2, 8, 7), kernel_shape=[2, 2], strides=[3, 3], pads=[0, 1, 1, 1], ceil_mode=1),
    m((1, 2, 8, 8), kernel_shape=[2, 3], dilations=[3, 2]),
    m((1, 2, 6, 7), kernel_shape=[3, 3], pads=[0, 2, 1, 0], strides=[1, 2]),
    m((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    m((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="SAME_LOWER", strides=[2, 2]),
    m((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="VALID", strides=[2, 2]),
    m((1, 2, 4, 5, 4), kernel_shape=[2, 3, 2], strides=[1, 2, 2], pads=[1, 0, 0, 0, 1, 1]),
    Case(
        "MaxPool",
        [R(2, 3, 7, 6)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]},
        outputs=2,
        torch=max_pool_indices({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]}),
        dtypes=DTYPES,
    ),
    Case("MaxPool", [R(2, 3, 6)], {"kernel_shape": [2]}, outputs=2, torch=max_pool_indices({"kernel_shape": [2]}), dtypes=DTYPES),
    Case("MaxPool", [R(2, 2, 5, 6)], {"kernel_shape": [2, 2], "storage_order": 1}, outputs=2, second=False, dtypes=("float32",)),
    Case(
        "MaxPool",
        [F([[[1.0, 1.0, 1.0, 0.0]]])],
        {"kernel_shape": [2]},
        torch=lambda x: tf.max_pool1d(x, 2, 1),
        fd=False,
        dtypes=DTYPES,
    ),
    Case("MaxPool", [np.arange(32, dtype=np.int8).reshape(1, 2, 4, 4)], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
    Case(
        "MaxPool",
        [R(0, 2, 5, 5)],
        {"kernel_shape": [2, 2]},
        torch=lambda x: tf.max_pool2d(x, 2, 1),
        fd=False,
        stock=False,
        dynamic=False,
        dtypes=DTYPES,
    ),
    Case("MaxPool", [R(1, 2, 5, 5)], {"kernel_shape": [2]}, dynamic=False, error="do not fit an operand of rank 4"),
    Case("MaxPool", [R(1, 2, 2, 5)], {"kernel_shape": [3, 3]}, dynamic=False, error="window is larger"),
    Case("MaxPool", [R(1, 2, 2, 5)], {"strides": [3, 3]}, dynamic=False, error='"kernel_shape" is missing'),
    a((2, 3, 8), kernel_shape=[3]),
    a((2, 3, 8), kernel_shape=[3], strides=[2], pads=[0, 1]),
    a((2, 3, 6, 7), kernel_shape=[3, 2], dtypes=("float64", "float32", "bfloat16"), opset=22),
    a((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    a((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], opset=7, dynamic=False),
    a((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    a((1, 2, 8, 8), kernel_shape=[3, 3], strides=[3, 2], ceil_mode=1),
    a((1, 2, 8, 7), kernel_shape=[3, 2], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    a((1, 2, 8, 7), kernel_shape=[3, 3], strides=[3, 3], pads=[0, 1, 1, 2], ceil_mode=1),
    a((1, 2, 8, 8), kernel_shape=[2, 3], dilations=[3, 2]),
    a((1, 2, 8, 8), kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 2, 0, 1]),
    a((1, 2, 6, 7), kernel_shape=[3, 3], pads=[0, 2, 1, 0], strides=[1, 2]),
    a((1, 2, 6, 7), kernel_shape=[3, 3], pads=[0, 2, 1, 0], strides=[1, 2], count_include_pad=1),
    a((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    a((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="SAME_LOWER", strides=[2, 2]),
    a((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2], count_include_pad=1),
    a((1, 2, 6, 7), kernel_shape=[3, 2], auto_pad="VALID", strides=[2, 2]),
    a((1, 2, 4, 5, 4), kernel_shape=[2, 3, 2], strides=[1, 2, 2], pads=[1, 1, 1, 1, 1, 1]),
    a((1, 2, 4, 5, 4), kernel_shape=[2, 3, 2], strides=[1, 2, 2], pads=[1, 0, 0, 0, 1, 1]),
    lp((2, 3, 8), kernel_shape=[3]),
    lp((2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    lp((2, 3, 7, 6), kernel_shape=[3, 2], p=1),
    lp((2, 3, 7, 6), kernel_shape=[3, 2], p=3, auto_pad="SAME_UPPER", strides=[2, 2]),
    lp((2, 3, 7, 6), kernel_shape=[2, 2], dilations=[2, 3]),
    lp((1, 2, 8, 8), kernel_shape=[3, 3], strides=[3, 2], ceil_mode=1, dynamic=False),
    Case(
        "LpPool",
        [F([[[0.0, 0.0, 3.0, 4.0]]])],
        {"kernel_shape": [2]},
        fd=False,
        second=False,
        dtypes=DTYPES,
        expect=lambda x: np.array([[[0.0, 3.0, 5.0]]]),
    ),
    Case("GlobalAveragePool", [R(2, 3, 4, 5)], torch=lambda x: x.mean((2, 3), keepdim=True)),
    Case("GlobalAveragePool", [R(2, 3, 4)], opset=7, torch=lambda x: x.mean(2, keepdim=True)),
    Case("GlobalAveragePool", [R(2, 3, 4, 2, 3)], torch=lambda x: x.mean((2, 3, 4), keepdim=True)),
    Case("GlobalMaxPool", [R(2, 3, 4, 5)], torch=lambda x: x.amax((2, 3), keepdim=True)),
    Case("GlobalMaxPool", [F([[[1.0, 3.0, 3.0]]])], opset=7, torch=lambda x: x.amax(2, keepdim=True), fd=False),
    Case("GlobalLpPool", [R(2, 3, 4, 5)], torch=lambda x: (x * x).sum((2, 3), keepdim=True).sqrt(), dtypes=DTYPES),
    Case("GlobalLpPool", [R(2, 3, 4, 5)], {"p": 1}, torch=lambda x: x.abs().sum((2, 3), keepdim=True), dtypes=DTYPES, second=False),
    Case(
        "GlobalLpPool",
        [R(2, 3, 4, 5)],
        {"p": 3},
        torch=lambda x: (x.abs() ** 3).sum((2, 3), keepdim=True) ** (1 / 3),
        dtypes=DTYPES,
    ),
    Case(
        "MaxUnpool",
        [R(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        dtypes=DTYPES,
        torch=lambda x, i: torch.zeros(16, dtype=x.dtype).scatter(0, i.flatten(), x.flatten()).view(1, 1, 4, 4),
    ),
    Case(
        "MaxUnpool",
        [R(1, 1, 2, 2), np.array([[[[6, 8], [16, 18]]]]), [1, 1, 5, 5]],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        dtypes=DTYPES,
        torch=lambda x, i, s: torch.zeros(25, dtype=x.dtype).scatter(0, i.flatten(), x.flatten()).view(1, 1, 5, 5),
    ),
]
