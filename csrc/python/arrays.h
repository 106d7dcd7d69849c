// Arrays of Python as memory: numpy arrays and torch tensors as they are, everything else as a tensor.
#pragma once
#include <pybind11/numpy.h>
#include <torch/extension.h>

#include "train/session.h"

namespace ortmod {

/// The memory of `value` if that is a numpy array or a tensor on the CPU, contiguous and of numbers of this machine's
/// byte order; the column lives as long as `value`.
bool as_column(pybind11::handle value, Column& column);
/// A tensor of any array, over its memory where possible (ortmod.training._values.to_tensor).
at::Tensor to_tensor(pybind11::handle value);
/// A new numpy array; false where numpy has no such type.
bool new_array(at::ScalarType type, at::IntArrayRef dims, pybind11::array& made);
/// A tensor as a numpy array (ortmod.training._values.to_array).
pybind11::object to_array(const at::Tensor& t);

}  // namespace ortmod
