// Indices of the gather and scatter kernels: checked, negative ones wrapped, tuples turned into rows.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/kernel.h"

namespace ortmod {

/// Input i as int64 indices in [0, size); an index outside [-size, size) is an error (on the CPU; on CUDA the device
/// asserts).
at::Tensor wrapped_indices(const Call& c, size_t i, int64_t size);

/// Index tuples of input i into a tensor of `shape`, as rows of its view [count, width].
struct Rows {
  at::Tensor index;  // int64, 1-D
  int64_t count, width, depth;
};
Rows rows_of(const Call& c, at::IntArrayRef shape, size_t i, int64_t batch_dims);

}  // namespace ortmod
