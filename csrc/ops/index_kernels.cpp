// Indices of the gather and scatter kernels.
#include "ops/index_kernels.h"

#include <ATen/ATen.h>

namespace ortmod {
namespace {

[[noreturn]] void out_of_range(const Call& c, size_t i, int64_t got, int64_t size) {
  c.fail("index out of range: got " + std::to_string(got) + ", expected -" + std::to_string(size) + " to " +
             std::to_string(size - 1),
         static_cast<int>(i));
}

}  // namespace

at::Tensor wrapped_indices(const Call& c, size_t i, int64_t size) {
  const at::Tensor idx = c.in(i).to(at::kLong);
  if (!idx.device().is_cpu()) return at::where(idx.lt(0), idx + size, idx);
  const int64_t* p = idx.const_data_ptr<int64_t>();
  const int64_t n = idx.numel();
  bool negative = false;
  for (int64_t k = 0; k < n; ++k) {
    if (p[k] < -size || p[k] >= size) out_of_range(c, i, p[k], size);
    negative = negative || p[k] < 0;
  }
  if (!negative) return idx;
  at::Tensor r = at::empty_like(idx);
  int64_t* q = r.data_ptr<int64_t>();
  for (int64_t k = 0; k < n; ++k) q[k] = p[k] < 0 ? p[k] + size : p[k];
  return r;
}

Rows rows_of(const Call& c, at::IntArrayRef shape, size_t i, int64_t batch_dims) {
  const at::Tensor idx = c.in(i).to(at::kLong);
  const int64_t r = static_cast<int64_t>(shape.size()), depth = idx.dim() ? idx.size(-1) : 0;
  if (depth < 1 || batch_dims + depth > r)
    c.fail("an index has " + std::to_string(depth) + " entries, expected 1 to " + std::to_string(r - batch_dims),
           static_cast<int>(i));
  Rows rows{{}, 1, 1, depth};
  int64_t batches = 1, inner = 1;
  for (int64_t k = 0; k < r; ++k) {
    const int64_t d = shape[static_cast<size_t>(k)];
    (k < batch_dims + depth ? rows.count : rows.width) *= d;
    if (k < batch_dims)
      batches *= d;
    else if (k < batch_dims + depth)
      inner *= d;
  }
  const int64_t n = idx.numel() / depth, per_batch = batches ? n / batches : 0;
  auto size_at = [&](int64_t k) { return shape[static_cast<size_t>(batch_dims + k)]; };
  if (!idx.device().is_cpu()) {
    const at::Tensor t = idx.reshape({batches, per_batch, depth});
    at::Tensor row = at::arange(batches, idx.options()).unsqueeze(1).expand({batches, per_batch}).clone();
    for (int64_t k = 0; k < depth; ++k) {
      const at::Tensor e = t.select(2, k);
      row = row * size_at(k) + at::where(e.lt(0), e + size_at(k), e);
    }
    rows.index = row.reshape({-1});
    return rows;
  }
  rows.index = at::empty({n}, at::kLong);
  const int64_t* p = idx.const_data_ptr<int64_t>();
  int64_t* q = rows.index.data_ptr<int64_t>();
  for (int64_t m = 0; m < n; ++m) {
    int64_t row = per_batch ? m / per_batch : 0;
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t e = p[m * depth + k], d = size_at(k);
      if (e < -d || e >= d) out_of_range(c, i, e, d);
      row = row * d + (e < 0 ? e + d : e);
    }
    q[m] = row;
  }
  return rows;
}

}  // namespace ortmod
