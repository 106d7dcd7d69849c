// Operators: InstanceNormalization and GroupNormalization.
#include <ATen/ATen.h>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

void infer_group(Infer& c) {
  c.same_as(0);
  if (!c.ranked(0)) return;
  const Dims& x = c.dims(0);
  if (x.size() < 2) c.fail("the operand needs a batch and a channel axis: got " + to_string(x), 0);
  const int64_t groups = c.node.attr("num_groups", 0);
  const bool group = c.node.is("GroupNormalization");
  if (group && (groups < 1 || (is_known(x[1]) && x[1] % groups)))
    c.fail("num_groups must divide the channels: got " + std::to_string(groups) + " and " + to_string(x));
  const Dim want = group && c.version() < 21 ? groups : x[1];
  for (int i : {1, 2})
    if (c.ranked(static_cast<size_t>(i)) &&
        (c.rank(static_cast<size_t>(i)) != 1 || differ(c.dims(static_cast<size_t>(i))[0], want)))
      c.fail("scale and bias do not fit: got " + to_string(c.dims(static_cast<size_t>(i))) + ", expected " +
                 to_string(Dims{want}),
             i);
}

/// Narrow types are computed in float32.
at::Tensor widened(const at::Tensor& t) { return at::isReducedFloatingType(t.scalar_type()) ? t.to(at::kFloat) : t; }

struct Shape {
  int64_t n, c, area;
  explicit Shape(const at::Tensor& x) : n(x.size(0)), c(x.size(1)), area(c10::multiply_integers(x.sizes().slice(2))) {}
};

Kernel group_kernel(const Node& node) {
  const double epsilon = node.attr("epsilon", 1e-5);
  const int64_t groups = node.attr("num_groups", 0);
  const bool per_group = node.is("GroupNormalization") && node.version < 21;
  return [=](Call& c) {
    const at::Tensor x = widened(c.in(0));
    const Shape s(x);
    at::Tensor scale = c.in(1).to(x.scalar_type()), bias = c.in(2).to(x.scalar_type());
    if (per_group) {
      scale = scale.repeat_interleave(s.c / groups);
      bias = bias.repeat_interleave(s.c / groups);
    }
    if (x.numel() == 0) return c.set(0, x);
    c.set(0, std::get<0>(at::native_group_norm(x, scale, bias, s.n, s.c, s.area, groups ? groups : s.c, epsilon))
                 .view(x.sizes()));
  };
}

/// GroupNormGrad's groups: 0 means one per channel.
Grads group_grad(const Grad& g) {
  const int64_t groups = g.attr("num_groups", int64_t{0});
  const bool per_group = g.node().is("GroupNormalization") && g.version() < 21;
  const Expr x = g.x(0);
  Builder& b = g.builder();
  Expr scale = g.x(1);
  if (per_group) {
    const Expr ones = reshape(expand(like(scale, 1), dim(x, 1)), {groups, -1});
    scale = reshape(unsqueeze(scale, {1}) * ones, {-1});
  }
  Attrs attrs = copy_attrs(g.node(), {"epsilon"});
  attrs.emplace_back("groups", groups);
  const std::vector<Expr> d = fused_multi("GroupNormGrad", {g.dy(), x, scale}, 3, attrs);
  Grads r(3);
  if (g.needs(0)) r[0] = d[0];
  for (size_t i : {1, 2})
    if (g.needs(i)) r[i] = per_group ? reduce_sum(reshape(d[i], b.ints({groups, -1})), {1}, false) : d[i];
  return r;
}

// GroupNormGrad(dy, x, scale per channel) -> dx, dscale, dbias.
void infer_group_back(Infer& c) {
  c.out(0, c.type(1));
  c.out(1, c.type(2));
  c.out(2, c.type(2));
}

Kernel group_back_kernel(const Node& node) {
  const double epsilon = node.attr("epsilon", 1e-5);
  const int64_t groups = node.attr("groups", 0);
  return [=](Call& c) {
    const at::Tensor x = widened(c.in(1)), dy = c.in(0).to(x.scalar_type()), scale = c.in(2).to(x.scalar_type());
    const Shape s(x);
    if (x.numel() == 0) {
      c.set(0, x);
      c.set(1, at::zeros_like(scale));
      return c.set(2, at::zeros_like(scale));
    }
    const int64_t n = groups ? groups : s.c;
    const auto [y, mean, rstd] = at::native_group_norm(x, scale, c10::nullopt, s.n, s.c, s.area, n, epsilon);
    const auto [dx, dscale, dbias] = at::native_group_norm_backward(dy, x, mean, rstd, scale, s.n, s.c, s.area, n,
                                                                    {c.wants(0), c.wants(1), c.wants(2)});
    if (c.wants(0)) c.set(0, dx);
    if (c.wants(1)) c.set(1, dscale);
    if (c.wants(2)) c.set(2, dbias);
  };
}

Grads group_back_body(const Grad& g) {
  Builder& b = g.builder();
  const DType t = g.type(1).dtype == DType::kDouble ? DType::kDouble : DType::kFloat;
  const Expr dy = cast(g.x(0), t), x = cast(g.x(1), t), scale = cast(g.x(2), t);
  const int rank = g.rank(1);
  const int64_t groups = g.attr("groups", int64_t{0});
  const Expr rows = groups ? b.ints({0, groups, -1}) : b.ints({0, 0, -1});
  std::vector<int64_t> axes{0}, ones;
  for (int i = 2; i < rank; ++i) {
    axes.push_back(i);
    ones.push_back(i - 1);
  }
  const Expr xg = reshape(x, rows);
  const Expr centred = xg - reduce_mean(xg, {2}, true);
  const Expr invstd = reciprocal(sqrt(reduce_mean(square(centred), {2}, true) + g.attr("epsilon", 1e-5)));
  const Expr xhat = centred * invstd;
  const Expr d = reshape(dy * unsqueeze(scale, ones), rows);
  const Expr dx = invstd * (d - reduce_mean(d, {2}, true) - xhat * reduce_mean(d * xhat, {2}, true));
  return {cast(reshape_like(dx, x), g.type(1).dtype),
          cast(reduce_sum(dy * reshape_like(xhat, x), axes, false), g.type(2).dtype),
          cast(reduce_sum(dy, axes, false), g.type(2).dtype)};
}

}  // namespace

OpTable group_norm_ops() {
  return {
      {.name = "InstanceNormalization", .since = 6, .infer = infer_group, .kernel = group_kernel, .grad = group_grad},
      {.name = "GroupNormalization", .since = 18, .infer = infer_group, .kernel = group_kernel, .grad = group_grad},
      {.name = "GroupNormGrad",
       .domain = "ortmod",
       .infer = infer_group_back,
       .kernel = group_back_kernel,
       .body = group_back_body},
  };
}

}  // namespace ortmod
