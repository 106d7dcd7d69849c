"""Rows: new shapes and orders of the same elements, joining and cutting."""

import numpy as np
import torch
from oracle import Case, F, R

RUN_TIME_SHAPE = "s = Shape (x1)  y0 = {} (x0, s)"

CASES = [
    Case("Identity", [R(2, 3)], torch=lambda x: x.clone()),
    Case("Identity", [R()], torch=lambda x: x.clone(), opset=13),
    # Reshape
    Case("Reshape", [R(2, 3, 4), [6, 4]], torch=lambda x, s: x.reshape(6, 4)),
    Case("Reshape", [R(2, 3, 4), [0, -1]], torch=lambda x, s: x.reshape(2, 12)),
    Case("Reshape", [R(2, 3, 4), [-1]], torch=lambda x, s: x.reshape(-1), opset=7, dtypes=("float64", "float32")),
    Case("Reshape", [R(1, 1), np.zeros(0, np.int64)], torch=lambda x, s: x.reshape(())),
    Case("Reshape", [R(0, 3, 4), [0, -1]], expect=lambda x, s: x.reshape(0, 12), fd=False, stock=False),
    Case("Reshape", [R(3, 0, 2), [0, 2, 5]], {"allowzero": 1}, torch=lambda x, s: x.reshape(0, 2, 5), fd=False),
    Case("Reshape", [R(2, 6), R(3, 4)], body=RUN_TIME_SHAPE.format("Reshape"), torch=lambda x, y: x.reshape(3, 4) + 0 * y),
    Case(
        "Reshape",  # heads: [batch, time, 6] -> [batch, time, 2, 3] from a chain of shape arithmetic
        [R(2, 5, 6)],
        body="""s = Shape (x0) i0 = Constant <value_ints = [0]> () i1 = Constant <value_ints = [1]> ()
            b = Gather (s, i0) t = Gather (s, i1) h = Constant <value_ints = [2]> () d = Constant <value_ints = [-1]> ()
            to = Concat <axis = 0> (b, t, h, d) y0 = Reshape (x0, to)""",
        torch=lambda x: x.reshape(2, 5, 2, 3),
    ),
    Case("Reshape", [R(2, 3), [4, -1]], error=r"got \[2, 3\], target \[4, -1\]"),
    Case("Reshape", [R(2, 3), [5]], error="number of elements differs"),
    Case("Reshape", [R(2, 3), [-1, -1]], error="more than one -1"),
    # Flatten
    Case("Flatten", [R(2, 3, 4)], {"axis": 2}, torch=lambda x: x.reshape(6, 4)),
    Case("Flatten", [R(2, 3, 4)], {"axis": -3}, torch=lambda x: x.reshape(1, 24)),
    Case("Flatten", [R(2, 3)], opset=7, torch=lambda x: x.clone(), dtypes=("float64", "float32")),
    Case("Flatten", [R()], {"axis": 0}, torch=lambda x: x.reshape(1, 1)),
    Case("Flatten", [R(2, 3)], {"axis": 3}, error="axis out of range: got 3 for rank 2"),
    # Squeeze and Unsqueeze
    Case("Squeeze", [R(1, 3, 1, 2), [0, -2]], torch=lambda x, a: x.reshape(3, 2)),
    Case("Squeeze", [R(1, 3, 1)], torch=lambda x: x.reshape(3), dynamic=False),
    Case("Squeeze", [R(1, 3, 1)], {"axes": [0]}, opset=11, torch=lambda x: x.reshape(3, 1), dtypes=("float64", "float32")),
    Case("Squeeze", [R(2, 3), [0]], error="only axes of size 1"),
    Case("Unsqueeze", [R(3, 2), [-1, 0]], torch=lambda x, a: x.reshape(1, 3, 2, 1)),
    Case("Unsqueeze", [R(), [0]], torch=lambda x, a: x.reshape(1)),
    Case("Unsqueeze", [R(3, 2)], {"axes": [1, 3]}, opset=11, torch=lambda x: x.reshape(3, 1, 2, 1), dtypes=("float64", "float32")),
    Case("Unsqueeze", [R(3, 2), [1, -3]], error="an axis is given twice"),
    # Transpose
    Case("Transpose", [R(2, 3, 4)], {"perm": [1, 2, 0]}, torch=lambda x: x.permute(1, 2, 0)),
    Case("Transpose", [R(2, 3, 4)], torch=lambda x: x.permute(2, 1, 0)),
    Case(
        "Transpose",
        [R(2, 3, 4, 5)],
        {"perm": [0, 2, 1, 3]},
        opset=7,
        torch=lambda x: x.transpose(1, 2),
        dtypes=("float64", "float32"),
    ),
    Case("Transpose", [R(0, 3)], torch=lambda x: x.t(), fd=False),
    Case("Transpose", [R(2, 3)], {"perm": [0, 0]}, error="not a permutation"),
    # Expand and Tile
    Case("Expand", [R(3, 1), [2, 1, 4]], torch=lambda x, s: x.expand(2, 3, 4)),
    Case("Expand", [R(2, 3), [1]], torch=lambda x, s: x.clone()),
    Case("Expand", [R(), [2, 2]], torch=lambda x, s: x.expand(2, 2), opset=8, dtypes=("float64", "float32")),
    Case("Expand", [R(2, 1), R(2, 5)], body=RUN_TIME_SHAPE.format("Expand"), torch=lambda x, y: x.expand(2, 5) + 0 * y),
    Case("Expand", [R(1, 3), [0, 3]], torch=lambda x, s: x.expand(0, 3), fd=False),
    Case("Expand", [R(2, 3), [2, 4]], error="cannot be broadcast"),
    Case("Tile", [R(2, 3), [2, 1]], torch=lambda x, r: x.repeat(2, 1)),
    Case("Tile", [R(2, 3, 2), [2, 3, 2]], torch=lambda x, r: x.repeat(2, 3, 2)),
    Case("Tile", [R(3), [2]], torch=lambda x, r: x.repeat(2), opset=7, dtypes=("float64", "float32")),
    Case("Tile", [R(2, 3), [0, 2]], torch=lambda x, r: x.repeat(0, 2), fd=False),
    Case("Tile", [R(2, 3), [2]], error="repeats has 1 entries"),
    # Concat and Split
    Case("Concat", [R(2, 3), R(2, 1), R(2, 4)], {"axis": 1}, torch=lambda *x: torch.cat(x, 1)),
    Case("Concat", [R(2, 3), R(1, 3)], {"axis": -2}, opset=11, torch=lambda *x: torch.cat(x, 0), dtypes=("float64", "float32")),
    Case(
        "Concat",
        [R(4, 3), R(1, 3)],
        {"axis": 0},
        wrt=[0],
        opset=7,
        torch=lambda *x: torch.cat(x, 0),
        unknown="forward",
        dtypes=("float64", "float32"),
    ),
    Case(
        "Concat", [R(2, 3), R(4, 3), R(5, 3)], {"axis": 0}, opset=9, torch=lambda *x: torch.cat(x, 0), dtypes=("float64", "float32")
    ),
    Case("Concat", [R(2, 3), R(4, 3), R(5, 3)], {"axis": 0}, wrt=[1], torch=lambda *x: torch.cat(x, 0)),
    Case("Concat", [R(3), R(0), R(2)], {"axis": 0}, torch=lambda *x: torch.cat(x, 0)),
    Case("Concat", [R(2, 3)], {"axis": 1}, torch=lambda x: x.clone()),
    Case("Concat", [R(2, 3), R(3, 3)], {"axis": 1}, error="sizes differ outside the axis"),
    Case("Split", [R(4, 3), [1, 3]], {"axis": 0}, outputs=2, torch=lambda x, s: x.split([1, 3])),
    Case("Split", [R(6, 2)], {"num_outputs": 3}, outputs=3, torch=lambda x: x.split(2)),
    Case("Split", [R(2, 7)], {"axis": -1, "num_outputs": 3}, outputs=3, torch=lambda x: x.split(3, 1)),
    Case(
        "Split",
        [R(2, 6)],
        {"axis": 1, "split": [2, 4]},
        opset=11,
        outputs=2,
        torch=lambda x: x.split([2, 4], 1),
        dtypes=("float64", "float32"),
    ),
    Case("Split", [R(2, 6)], {"axis": 1}, opset=7, outputs=2, torch=lambda x: x.split(3, 1), dtypes=("float64", "float32")),
    Case(
        "Split",  # an unused output
        [R(4, 6)],
        body="y0, unused, y1 = Split <axis = 1, num_outputs = 3> (x0)",
        outputs=2,
        torch=lambda x: (x[:, :2], x[:, 4:]),
    ),
    Case("Split", [R(4, 3), [1, 2]], outputs=2, error="do not add up: got 3, expected 4"),
    Case("Split", [R(5, 3)], opset=13, outputs=2, error="cannot be split into equal parts"),
    # blocks
    Case("DepthToSpace", [R(1, 8, 2, 3)], {"blocksize": 2}, wrt=[0]),
    Case("DepthToSpace", [R(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, torch=lambda x: torch.nn.functional.pixel_shuffle(x, 2)),
    Case("DepthToSpace", [R(1, 6, 2, 3)], {"blocksize": 2}, error="not a multiple of the block"),
    Case("SpaceToDepth", [R(2, 2, 4, 6)], {"blocksize": 2}),
    Case(
        "SpaceToDepth",
        [R(2, 2, 4, 6)],
        {"blocksize": 2, "mode": "CRD"},
        opset=28,
        torch=lambda x: torch.nn.functional.pixel_unshuffle(x, 2),
    ),
    Case("SpaceToDepth", [R(1, 2, 4, 6)], {"blocksize": 2}, opset=7, dtypes=("float64", "float32")),
    Case(
        "CenterCropPad",
        [R(5, 4, 3), [2, 7]],
        {"axes": [0, -1]},
        stock=False,
        torch=lambda x, s: torch.nn.functional.pad(x[1:3], (2, 2)),
    ),
    Case("CenterCropPad", [R(4, 5), [5, 2]], stock=False, torch=lambda x, s: torch.nn.functional.pad(x[:, 1:3], (0, 0, 0, 1))),
    # integers and masks go the same way
    Case("Concat", [F([1.0]), F([2.0])], {"axis": 0}, torch=lambda *x: torch.cat(x, 0)),
    Case("Transpose", [np.arange(6, dtype=np.int32).reshape(2, 3)]),
    Case("Tile", [np.array([True, False]), [3]]),
    Case("Reshape", [np.arange(6, dtype=np.uint8), [2, 3]]),
    Case("Transpose", [np.arange(24, dtype=np.int8).reshape(4, 6)]),
    Case("Transpose", [(np.arange(24) * 1j).reshape(4, 6)], expect=lambda x: x.T),
    # enough work for several threads
    Case("Transpose", [R(5, 130, 67)], {"perm": [0, 2, 1]}, torch=lambda x: x.transpose(1, 2), fd=False),
    Case("Transpose", [R(50, 13, 67)], torch=lambda x: x.permute(2, 1, 0), fd=False),
    Case("Transpose", [R(8, 60, 4, 32)], {"perm": [0, 2, 1, 3]}, torch=lambda x: x.transpose(1, 2), fd=False),
    Case("Concat", [R(70, 300), R(70, 1), R(70, 257)], {"axis": 1}, torch=lambda *x: torch.cat(x, 1), fd=False),
    Case("Split", [R(100, 601)], {"axis": 1, "num_outputs": 4}, outputs=4, torch=lambda x: x.split(151, 1), fd=False),
    Case("Expand", [R(300, 1, 50), [2, 300, 7, 50]], torch=lambda x, s: x.expand(2, 300, 7, 50), fd=False, tol=10),
    Case("Tile", [R(60, 50), [7, 9]], torch=lambda x, r: x.repeat(7, 9), fd=False, tol=10),
]
