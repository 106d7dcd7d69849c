// Memory of trainers: large tensors lie in huge pages, and what one fit gives back the next one finds mapped.
#pragma once
#include <ATen/core/Tensor.h>

namespace ortmod {

/// An uninitialised tensor.
at::Tensor arena(at::IntArrayRef sizes, const at::TensorOptions& options);

/// to = from, for a copy that is hardly ever read: a large one does not displace what is in the cache.
void copy_arena(const at::Tensor& to, const at::Tensor& from);

/// Zeros, written without reading what was there.
void clear_arena(const at::Tensor& t);

}  // namespace ortmod
