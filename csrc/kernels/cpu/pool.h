// Max pooling over planes of two axes, forward with indices and backward. float and double.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

struct Pool2d {
  int64_t planes, in[2], out[2], kernel[2], stride[2], dilation[2], before[2];
};

/// The first largest element of each window (NaN wins); `indices` (may be null) count from the start of the whole
/// tensor.
template <class T>
void max_pool(const Pool2d& p, const T* x, T* y, int64_t* indices);
/// dx = 0, then dx[indices] += dy; the indices of a plane lie in that plane.
template <class T>
void max_pool_grad(const T* dy, const int64_t* indices, T* dx, int64_t planes, int64_t n_out, int64_t n_in);

}  // namespace ortmod::cpu
