"""Rows: tensors made from shapes and scalars."""

import numpy as np
import onnx
import torch
from oracle import Case, F, R


def filled(value):
    return {"value": onnx.helper.make_tensor("value", onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), [1], [value])}


CASES = [
    Case("Shape", [R(2, 3, 4)], wrt=[]),
    Case("Shape", [R(2, 3, 4)], {"start": -2, "end": 5}, wrt=[]),
    Case("Shape", [R(2, 3, 4)], {"start": 2, "end": 1}, wrt=[]),
    Case("Shape", [R()], wrt=[], opset=7, dtypes=("float64", "float32")),
    Case("Size", [R(2, 3, 4)], wrt=[]),
    Case("Size", [R(2, 0)], wrt=[]),
    Case("ConstantOfShape", [[2, 3]]),
    Case("ConstantOfShape", [[2, 0]], filled(np.int32(7))),
    Case("ConstantOfShape", [np.zeros(0, np.int64)], filled(np.float64(1.5))),
    Case("ConstantOfShape", [[2, -3]], error="negative size"),
    Case("Range", [np.array(1), np.array(10), np.array(3)]),
    Case("Range", [np.array(10), np.array(1), np.array(-2)]),
    Case("Range", [np.array(1), np.array(0), np.array(2)]),
    Case("Range", [np.array(1, np.int32), np.array(10, np.int32), np.array(3, np.int32)]),
    Case(
        "Range",
        [F(0.5), F(3.75), F(0.25)],
        torch=lambda a, b, d: a + d * torch.arange(13, dtype=d.dtype),
        wrt=[0, 2],
        dtypes=("float64", "float32"),
        fd=False,
    ),
    Case("Range", [np.array(1), np.array(3), np.array(0)], error="delta is zero"),
    Case("EyeLike", [R(3, 4)], {"k": 1}, wrt=[], dtypes=("float64", "float32")),
    Case("EyeLike", [np.zeros((3, 2), np.int32)], {"k": -5, "dtype": 1}),
    Case("EyeLike", [R(3)], error="rank 2"),
    Case("HannWindow", [np.array(8)]),
    Case("HannWindow", [np.array(7)], {"periodic": 0, "output_datatype": 11}),
    Case("HammingWindow", [np.array(8)]),
    Case("BlackmanWindow", [np.array(9)], {"periodic": 0}),
]
