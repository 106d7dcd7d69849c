"""Rows: slices, gathers, pads, selections."""

import numpy as np
import torch
import torch.nn.functional as tf
from oracle import Case, F, R

F2 = ("float64", "float32")
I32 = np.int32
FAR = 2**63 - 1
WIDE = [min(k % 4, 4 - k % 4) for k in range(-5, 7)]  # reflected more than once
MANY = np.random.default_rng(0).integers(-300, 300, (40, 50))

CASES = [
    # Slice
    Case("Slice", [R(4, 5), [1], [3]], torch=lambda x, *_: x[1:3]),
    Case("Slice", [R(4, 5), [1, 0], [FAR, -2], [1, 0]], torch=lambda x, *_: x[:2, 1:]),
    Case("Slice", [R(4, 6), [0, 5], [4, 0], [0, 1], [2, -2]], torch=lambda x, *_: x[::2].flip(1)[:, 0:5:2]),
    Case("Slice", [R(5, 2), [-1], [-FAR], [0], [-1]], torch=lambda x, *_: x.flip(0)),
    Case("Slice", [R(7), [5], [-6], [0], [-3]], torch=lambda x, *_: x[[5, 2]]),
    Case("Slice", [R(3, 4), [2], [1], [1]], torch=lambda x, *_: x[:, 2:1], fd=False),
    Case("Slice", [R(3, 4), [-100], [100], [1]], torch=lambda x, *_: x.clone()),
    Case("Slice", [R(3, 4), np.array([1], I32), np.array([3], I32), np.array([-1], I32)], torch=lambda x, *_: x[:, 1:3]),
    Case(
        "Slice",
        [R(4, 5)],
        {"starts": [1, 2], "ends": [-1, FAR], "axes": [0, 1]},
        opset=7,
        torch=lambda x: x[1:-1, 2:],
        dtypes=F2,
        unknown="forward",
    ),
    Case("Slice", [R(4, 5)], {"starts": [0, 2], "ends": [-1, FAR]}, opset=9, torch=lambda x: x[:-1, 2:], dtypes=F2),
    Case("Slice", [R(4, 5), [1, -3], [3, -1], [0, 1], [1, 1]], opset=10, torch=lambda x, *_: x[1:3, -3:-1], dtypes=F2),
    Case("Slice", [R(4, 6), [0, 5], [4, 0], [0, 1], [2, -2]], opset=10, torch=lambda x, *_: x[::2].flip(1)[:, 0:5:2], dtypes=F2),
    Case(
        "Slice",  # the end from another tensor's size
        [R(6, 3), R(4, 2)],
        body="""s = Shape (x1) i = Constant <value_ints = [0]> () n = Gather (s, i)
            y0 = Slice (x0, i, n, i)""",
        torch=lambda x, y: x[:4] + 0 * y.sum(),
    ),
    Case("Slice", [R(4), [0], [1], [0], [0]], error="step is zero"),
    Case("Slice", [R(4), [0], [1], [1]], error="axis out of range"),
    # Gather
    Case("Gather", [R(5, 3), [0, 4, 4, -1]], torch=lambda x, i: x[[0, 4, 4, 4]]),
    Case(
        "Gather", [R(2, 5, 3), np.array([[1, 0], [1, 1], [3, -5]])], {"axis": 1}, torch=lambda x, i: x[:, [[1, 0], [1, 1], [3, 0]]]
    ),
    Case("Gather", [R(2, 5), np.array([3, 3, 1], I32)], {"axis": -1}, torch=lambda x, i: x[:, [3, 3, 1]]),
    Case("Gather", [R(4, 3), np.array(2)], torch=lambda x, i: x[2]),
    Case("Gather", [R(4), np.array(-1)], torch=lambda x, i: x[3]),
    Case("Gather", [R(4, 3), np.zeros((0, 2), np.int64)], torch=lambda x, i: x[torch.zeros(0, 2, dtype=torch.long)], fd=False),
    Case("Gather", [R(4, 3), [1, 1, 0]], opset=7, torch=lambda x, i: x[[1, 1, 0]], dtypes=F2, dynamic=False),
    Case("Gather", [R(2, 4, 3), [1, 1, 0]], {"axis": 1}, opset=13, torch=lambda x, i: x[:, [1, 1, 0]]),
    Case("Gather", [R(2, 4, 3), [-1, 1, 0]], {"axis": 2}, opset=11, torch=lambda x, i: x[:, :, [2, 1, 0]], dtypes=F2),
    Case("Gather", [R(3, 2), [3]], error="index out of range: got 3"),
    Case("Gather", [R(3, 2), np.array([[0], [-4]])], error="index out of range: got -4"),
    # GatherElements
    Case("GatherElements", [R(3, 3), np.array([[0, -1, 1], [0, 2, 2]])], {"axis": 1}, torch=lambda x, i: x.gather(1, i % 3)),
    Case("GatherElements", [R(3, 2), np.array([[0, 1], [0, 0]])], opset=11, torch=lambda x, i: x.gather(0, i), dtypes=F2),
    Case("GatherElements", [R(3, 4), np.array([[0, 1], [0, 0]])], opset=13, torch=lambda x, i: x.gather(0, i)),
    Case("GatherElements", [R(3, 2), np.array([[0, 5]])], error="index out of range: got 5"),
    # GatherND
    Case("GatherND", [R(3, 4, 2), np.array([[0, 1], [2, -1], [0, 1]])], const=[1], torch=lambda x, i: x[i[:, 0], i[:, 1]]),
    Case("GatherND", [R(3, 4), np.array([[[1]], [[1]]])], torch=lambda x, i: x[i[..., 0]]),
    Case(
        "GatherND",
        [R(2, 3, 4), np.array([[1], [2]])],
        {"batch_dims": 1},
        torch=lambda x, i: x[[0, 1], i[:, 0]],
        const=[1],
        unknown="forward",
    ),
    Case(
        "GatherND",
        [R(2, 3), np.array([[1, 1], [1, 1]])],
        torch=lambda x, i: x[i[:, 0], i[:, 1]],
        opset=11,
        dtypes=F2,
        const=[1],
        unknown="forward",
    ),
    Case(
        "GatherND",
        [R(2, 3, 2), np.array([[[1]], [[2]]])],
        {"batch_dims": 1},
        torch=lambda x, i: x[[[0], [1]], i[..., 0]],
        opset=12,
        dtypes=F2,
        const=[1],
        unknown="forward",
    ),
    Case("GatherND", [R(2, 3), np.array([[1, 3]])], error="index out of range: got 3"),
    # Pad
    Case("Pad", [R(2, 3), [1, 0, 0, 2]], torch=lambda x, p: tf.pad(x, (0, 2, 1, 0))),
    Case(
        "Pad",
        [R(2, 3), [1, 1, 1, 1], F(0.5)],
        torch=lambda x, p, v: torch.where(tf.pad(torch.ones_like(x), (1, 1, 1, 1)) > 0, tf.pad(x, (1, 1, 1, 1)), v),
    ),
    Case("Pad", [R(4, 5), [-1, 2, 0, -1]], torch=lambda x, p: tf.pad(x, (2, -1, -1, 0))),
    Case("Pad", [R(2, 3, 4), [1, 2], None, [-1]], {"mode": "edge"}, torch=lambda x, p, a: tf.pad(x, (1, 2), mode="replicate")),
    Case(
        "Pad",
        [R(2, 3, 4), [0, 1, 2, 0, 2, 3]],
        {"mode": "reflect"},
        torch=lambda x, p: tf.pad(x[None], (2, 3, 1, 2), mode="reflect")[0],
    ),
    Case(
        "Pad",
        [R(1, 3, 4), [0, 1, 2, 0, 3, 4]],
        {"mode": "wrap"},
        torch=lambda x, p: tf.pad(x[None], (2, 4, 1, 3), mode="circular")[0],
    ),
    Case(
        "Pad",
        [R(3), [5, 4]],
        {"mode": "reflect"},
        expect=lambda x, p: x[WIDE],
        torch=lambda x, p: x[WIDE],
        dynamic=False,
        stock=False,
    ),
    Case(
        "Pad",
        [R(2, 3)],
        {"pads": [0, 1, 0, 1], "mode": "reflect"},
        opset=7,
        torch=lambda x: tf.pad(x, (1, 1), mode="reflect"),
        dtypes=F2,
    ),
    Case(
        "Pad",
        [R(2, 3)],
        {"pads": [1, 0, 2, 1], "mode": "edge"},
        opset=10,
        torch=lambda x: tf.pad(x[None], (0, 1, 1, 2), mode="replicate")[0],
        dtypes=F2,
    ),
    Case(
        "Pad",
        [R(2, 3)],
        {"pads": [1, 0, 2, 1], "value": 0.5},
        opset=8,
        torch=lambda x: tf.pad(x, (0, 1, 1, 2), value=0.5),
        dtypes=F2,
    ),
    Case(
        "Pad",
        [R(2, 3), [0, 1, 0, 1]],
        {"mode": "reflect"},
        opset=11,
        torch=lambda x, p: tf.pad(x, (1, 1), mode="reflect"),
        dtypes=F2,
        unknown="forward",
    ),
    Case("Pad", [R(0, 3), [1, 0, 1, 0]], torch=lambda x, p: tf.pad(x, (0, 0, 1, 1)), fd=False),
    Case("Pad", [R(2, 3), [1, 0, 0]], error="pads has 3 entries, expected 4"),
    # Trilu
    Case("Trilu", [R(2, 3, 4)], torch=torch.triu),
    Case("Trilu", [R(4, 3), np.array(-1)], {"upper": 0}, torch=lambda x, k: torch.tril(x, -1)),
    Case("Trilu", [R(4, 3), np.array(7)], torch=lambda x, k: torch.triu(x, 7)),
    Case("Trilu", [R(3)], error="rank 2 or more"),
    # TopK
    Case("TopK", [R(3, 5), [2]], outputs=2, torch=lambda x, k: tuple(x.topk(2))),
    Case("TopK", [R(3, 5), [3]], {"axis": 0, "largest": 0}, outputs=2, torch=lambda x, k: tuple(x.topk(3, 0, largest=False))),
    Case(
        "TopK",
        [F([1.0, 3.0, 3.0, 2.0, 3.0]), [4]],
        outputs=2,
        fd=False,
        expect=lambda x, k: (np.array([3.0, 3, 3, 2]), np.array([1, 2, 4, 3])),
    ),
    Case("TopK", [R(3, 5)], {"k": 2}, opset=9, outputs=2, torch=lambda x: tuple(x.topk(2)), dtypes=F2),
    Case("TopK", [R(3, 5), [2]], opset=10, outputs=2, torch=lambda x, k: tuple(x.topk(2)), dtypes=F2),
    Case("TopK", [R(3, 5), [6]], outputs=2, error="k is larger than the axis: got 6 for size 5"),
    # ReverseSequence, Compress, NonZero, Unique
    Case(
        "ReverseSequence", [R(4, 3, 2), [1, 4, 0]], const=[], torch=lambda x, n: torch.stack([x[:, 0], x[:, 1].flip(0), x[:, 2]], 1)
    ),
    Case(
        "ReverseSequence",
        [R(2, 4), [3, 2]],
        {"batch_axis": 0, "time_axis": 1},
        torch=lambda x, n: torch.stack([x[0, [2, 1, 0, 3]], x[1, [1, 0, 2, 3]]]),
    ),
    Case("ReverseSequence", [R(4, 3), [5, 1, 1]], error="longer than the time axis"),
    Case("Compress", [R(3, 4), np.array([True, False, True])], {"axis": 1}, torch=lambda x, c: x[:, [0, 2]]),
    Case("Compress", [R(3, 2), np.array([False, True, True, False, True])], torch=lambda x, c: x.reshape(-1)[[1, 2, 4]]),
    Case("Compress", [R(3, 2), np.array([False, True])], {"axis": 0}, opset=9, torch=lambda x, c: x[[1]], dtypes=F2),
    Case("NonZero", [np.array([[1.0, 0, 2], [0, 0, 3]])]),
    Case("NonZero", [np.array([True, False, True])]),
    Case("Unique", [F([2.0, 1, 1, 3, 4, 3])], {"sorted": 0}, outputs=4, fd=False, torch=None, wrt=[], dtypes=F2),
    Case("Unique", [F([2.0, 1, 1, 3, 4, 3])], outputs=4, wrt=[], dtypes=F2),
    Case("Unique", [F([[1.0, 0, 0], [1, 0, 0], [2, 3, 4]])], {"axis": 0}, outputs=4, wrt=[], dtypes=F2),
    Case("Unique", [F([[2.0, 1], [0, 1]])], fd=False, dtypes=F2, torch=lambda x: torch.stack([x[1, 0], x[0, 1], x[0, 0]])),
    Case("ArrayFeatureExtractor", [R(3, 4), [0, 2, 2]], domain="ai.onnx.ml", torch=lambda x, i: x[:, [0, 2, 2]], dtypes=F2),
    Case("ArrayFeatureExtractor", [R(4), [3, 1]], domain="ai.onnx.ml", torch=lambda x, i: x[None, [3, 1]], dtypes=F2),
    # enough work for several threads
    Case(
        "Slice",
        [R(90, 70, 60), [80, 1, -1], [3, FAR, 0], [0, 1, 2], [-2, 1, -1]],
        torch=lambda x, *_: x.flip(0, 2)[9:86:2, 1:, :59],
        fd=False,
        tol=4,
    ),
    Case("Gather", [R(300, 41), MANY], torch=lambda x, i: x[i], fd=False, tol=20),
    Case("Gather", [R(7, 300, 5), MANY], {"axis": 1}, torch=lambda x, i: x[:, i], fd=False, tol=20),
    Case("Gather", [R(20, 300), MANY.astype(I32)], {"axis": 1}, torch=lambda x, i: x[:, i.long()], fd=False, tol=20),
]
