// Operators of domain ortmod that belong to no family: SumTo.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <algorithm>

#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// ---- SumTo(dy, x): dy summed over what broadcasting added, to the shape of x; only the shape of x is read

void sum_to_infer(Infer& c) {
  Type t = c.type(1);
  t.dtype = c.dtype(0);
  if (c.ranked(0) && c.ranked(1)) {
    const Dims &from = c.dims(0), &to = c.dims(1);
    bool fits = from.size() >= to.size();
    for (size_t i = 0; fits && i < to.size(); ++i)
      fits = to[i] == 1 || equal_dim(from[from.size() - to.size() + i], to[i]).has_value();
    if (!fits) c.fail("a shape cannot be broadcast to the other: got " + to_string(to) + " and " + to_string(from), 1);
  }
  c.out(0, std::move(t));
}

Kernel sum_to_kernel(const Node&) {
  return [](Call& c) {
    const at::IntArrayRef to = c.in(1).sizes();
    if (!at::is_expandable_to(to, c.in(0).sizes())) c.fail("a shape cannot be broadcast to the other", 1);
    c.set(0, at::sum_to(c.in(0), to));
  };
}

/// Since 13 the axes are computed. Before, each axis that may have been stretched is cut into (size of x, how often it
/// was repeated) and summed over the second part.
Grads sum_to_body(const Grad& g) {
  Expr dy = g.x(0);
  const Expr x = g.x(1);
  Builder& b = g.builder();
  const int64_t r = g.rank(1), extra = g.rank(0) - r;
  if (extra > 0) {
    std::vector<int64_t> added;
    for (int64_t i = 0; i < extra; ++i) added.push_back(i);
    dy = reduce_sum(dy, added, false);
  }
  const Dims &from = dy.type().dims, &to = x.type().dims;
  std::vector<int64_t> maybe;
  for (int64_t i = 0; i < r; ++i) {
    const Dim d = from[static_cast<size_t>(i)], t = to[static_cast<size_t>(i)];
    if (!(d == t && d != kAnyDim) && !(is_known(t) && t != 1)) maybe.push_back(i);
  }
  if (maybe.empty()) return {dy};
  if (b.opset() >= 13) {
    const Expr ones = b.op("NonZero", {cast(equal(dims_of(x, maybe), b.ints({1})), DType::kInt64)});
    const Expr axes = gather(b.ints(maybe), squeeze(ones, {0}), 0);
    return {b.op("ReduceSum", {dy, axes}, {{"keepdims", int64_t{1}}, {"noop_with_empty_axes", int64_t{1}}})};
  }
  std::vector<Expr> cut;
  std::vector<int64_t> second;
  for (int64_t i = 0; i < r; ++i) {
    const bool open = std::find(maybe.begin(), maybe.end(), i) != maybe.end();
    cut.push_back(dim(open ? x : dy, i));
    if (!open) continue;
    second.push_back(static_cast<int64_t>(cut.size()));
    const Expr d = dim(x, i);
    cut.push_back(dim(dy, i) / (d + cast(equal(d, b.ints({0})), DType::kInt64)));
  }
  return {reduce_sum(reshape(dy, concat(cut, 0)), second, false)};
}

Grads sum_to_grad(const Grad& g) { return only_first(g, expand_like(g.dy(), g.x(0))); }

}  // namespace

OpTable fused_ops() {
  return {
      {.name = "SumTo",
       .domain = "ortmod",
       .infer = sum_to_infer,
       .kernel = sum_to_kernel,
       .grad = sum_to_grad,
       .body = sum_to_body,
       .shape_inputs = 0b10},
  };
}

}  // namespace ortmod
