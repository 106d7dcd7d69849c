// Operators: running sums and products along an axis.
#include <ATen/ATen.h>

#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::Tensor;

void infer_cumulative(Infer& i) {
  i.same_as(0);
  i.type(1);
  const HostInts* axis = i.ints(1);
  if (i.ranked(1) && is_known(numel(i.dims(1))) && numel(i.dims(1)) != 1)
    i.fail("the axis must be one number: got shape " + to_string(i.dims(1)), 1);
  if (axis && axis->v.size() == 1 && !is_symbolic(axis->v[0]) && i.ranked(0)) i.axis(axis->v[0], i.rank(0));
}

void infer_cumsum(Infer& i) {
  infer_cumulative(i);
  const HostInts* x = i.ints(0);
  if (!x || x->dims.size() != 1 || !is_host_type(i.dtype(0))) return;
  const bool exclusive = i.node.attr("exclusive", false), reverse = i.node.attr("reverse", false);
  HostInts r = *x;
  Dim sum = 0;
  const size_t n = r.v.size();
  for (size_t k = 0; k < n; ++k) {
    const size_t at = reverse ? n - 1 - k : k;
    const Dim next = dim_add(sum, x->v[at]);
    r.v[at] = exclusive ? sum : next;
    sum = next;
  }
  i.out_ints(0, std::move(r));
}

using Scan = Tensor (*)(const Tensor& x, int64_t axis);

/// A running operation with its start, forwards or backwards, with or without the element itself.
Kernel scan_kernel(const Node& n, Scan scan, double start) {
  const bool exclusive = n.attr("exclusive", false), reverse = n.attr("reverse", false);
  return [=](Call& c) {
    const int64_t rank = c.in(0).dim();
    int64_t axis = c.ints(1).at(0);
    if (axis < -rank || axis >= rank)
      c.fail("axis out of range: got " + std::to_string(axis) + " for rank " + std::to_string(rank), 1);
    if (axis < 0) axis += rank;
    Tensor x = widened(c.in(0));
    const int64_t size = x.size(axis);
    if (size == 0) return c.set(0, x);
    if (reverse) x = x.flip(axis);
    if (exclusive) {
      const Tensor first = at::full_like(x.narrow(axis, 0, 1), start);
      x = at::cat({first, x.narrow(axis, 0, size - 1)}, axis);
    }
    Tensor y = scan(x, axis);
    c.set(0, reverse ? y.flip(axis) : y);
  };
}

Kernel cumsum_kernel(const Node& n) {
  return scan_kernel(
      n, [](const Tensor& x, int64_t axis) { return at::cumsum(x, axis, x.scalar_type()); }, 0);
}
Kernel cumprod_kernel(const Node& n) {
  return scan_kernel(
      n, [](const Tensor& x, int64_t axis) { return at::cumprod(x, axis, x.scalar_type()); }, 1);
}

Expr cumulative(const Grad& g, std::string_view op, Expr x, bool turned) {
  const int64_t exclusive = g.attr("exclusive", 0), reverse = g.attr("reverse", 0);
  return g.builder().op(op, {x, g.x(1)}, {{"exclusive", exclusive}, {"reverse", turned ? 1 - reverse : reverse}});
}

Grads cumsum_grad(const Grad& g) { return {cumulative(g, "CumSum", g.dy(), true)}; }

// For x_i != 0: sum over j >= i of dy_j y_j / x_i. The first zero gets sum of dy_j y'_j with y' the products that leave
// it out; what comes after it gets 0.
Grads cumprod_grad(const Grad& g) {
  Builder& b = g.builder();
  const Expr x = g.x(), zero = like(x, 0), one = like(x, 1);
  const Expr is_zero = equal(x, zero);
  const int64_t reverse = g.attr("reverse", 0);
  const Expr zeros = b.op("CumSum", {cast(is_zero, x.dtype()), g.x(1)}, {{"reverse", reverse}});
  const Expr first = logical_and(is_zero, equal(zeros, one));
  const Expr others = cumulative(g, "CumProd", where(first, one, x), false);
  const Expr plain = cumulative(g, "CumSum", g.dy() * g.y(), true) / where(is_zero, one, x);
  const Expr at_zero = cumulative(g, "CumSum", g.dy() * others, true);
  return {where(first, at_zero, where(is_zero, zero, plain))};
}

}  // namespace

OpTable cumulative_ops() {
  return {
      {.name = "CumSum",
       .infer = infer_cumsum,
       .kernel = cumsum_kernel,
       .grad = cumsum_grad,
       .exact = true,
       .host_inputs = 2},
      {.name = "CumProd",
       .infer = infer_cumulative,
       .kernel = cumprod_kernel,
       .grad = cumprod_grad,
       .exact = true,
       .host_inputs = 2,
       .limits = "second order is exact only where no element is zero"},
  };
}

}  // namespace ortmod
