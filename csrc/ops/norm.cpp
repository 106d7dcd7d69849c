// Operators: normalisation over the last axes, over channels, or to unit length.
#include <ATen/ATen.h>

#include <cmath>

#include "ops/attrs.h"
#include "ops/bind_rows.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

DType wide(DType t) { return t == DType::kHalf || t == DType::kBFloat16 ? DType::kFloat : t; }

DType stash_type(const Node& n) { return static_cast<DType>(n.attr("stash_type", 1)); }

void infer_layer_norm(Infer& c) {
  c.same_as(0);
  const DType stash = stash_type(c.node);
  if (!c.ranked(0)) {
    c.out_unranked(1, stash);
    return c.out_unranked(2, stash);
  }
  const Dims& x = c.dims(0);
  const int64_t rank = static_cast<int64_t>(x.size()), axis = c.axis(c.node.attr("axis", -1), rank);
  for (size_t i : {1, 2})
    if (c.has(i) && c.ranked(i)) {
      const Dims& s = c.dims(i);
      if (s.size() > x.size())
        c.fail("scale and bias must broadcast to the operand: got " + to_string(s) + " and " + to_string(x),
               static_cast<int>(i));
      for (size_t k = 0; k < s.size(); ++k)
        if (s[k] != 1 && differ(s[k], x[x.size() - s.size() + k]))
          c.fail("scale and bias must broadcast to the operand: got " + to_string(s) + " and " + to_string(x),
                 static_cast<int>(i));
    }
  if (!c.wants(1)) return;
  Dims m = x;
  for (int64_t i = axis; i < rank; ++i) m[static_cast<size_t>(i)] = 1;
  c.out(1, stash, m);
  c.out(2, stash, std::move(m));
}

std::vector<int64_t> tail(at::IntArrayRef sizes, int64_t axis) {
  return sizes.slice(static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(sizes.size()) : axis)).vec();
}

/// Statistics of narrow types are kept in float32: ATen does so when the weights are float32.
c10::optional<at::Tensor> affine(const at::Tensor& t, const at::Tensor& x) {
  return t.to(to_scalar_type(wide(from_scalar_type(x.scalar_type()))));
}

Kernel layer_norm_kernel(const Node& node) {
  const int64_t axis = node.attr("axis", -1);
  const double epsilon = node.attr("epsilon", 1e-5);
  return [=](Call& c) {
    const at::Tensor& x = c.in(0);
    const std::vector<int64_t> shape = tail(x.sizes(), axis);
    const bool fits = c.in(1).sizes() == shape && (!c.has(2) || c.in(2).sizes() == shape);
    at::Tensor y, mean, invstd;
    if (fits) {
      std::tie(y, mean, invstd) =
          at::native_layer_norm(x, shape, affine(c.in(1), x), c.has(2) ? affine(c.in(2), x) : c10::nullopt, epsilon);
    } else {
      std::tie(y, mean, invstd) =
          at::native_layer_norm(x.to(affine(x, x)->scalar_type()), shape, c10::nullopt, c10::nullopt, epsilon);
      y = y * c.in(1);
      if (c.has(2)) y = y + c.in(2);
    }
    c.set(0, y);
    if (c.wants(1)) c.set(1, mean);
    if (c.wants(2)) c.set(2, invstd);
  };
}

std::vector<int64_t> last_axes(const Grad& g, size_t input, int64_t axis) {
  const int rank = g.rank(input);
  std::vector<int64_t> r;
  for (int64_t i = axis < 0 ? axis + rank : axis; i < rank; ++i) r.push_back(i);
  return r;
}

/// Does operand i have exactly the dims that are normalised?
bool has_tail_dims(const Grad& g, size_t i, size_t axes) {
  const Dims &x = g.dims(0), &s = g.dims(i);
  if (s.size() != axes) return false;
  for (size_t k = 0; k < axes; ++k) {
    const Dim a = s[k], b = x[x.size() - axes + k];
    if (a != b && !(is_symbolic(a) && is_symbolic(b)) && (a == 1 || b == 1 || differ(a, b))) return false;
    if (a != b && (a == 1 || b == 1)) return false;
  }
  return true;
}

Expr mean_of(Expr x, const std::vector<int64_t>& axes) { return reduce_mean(x, axes, true); }

Grads layer_norm_grad(const Grad& g) {
  const Expr x = g.x(0), scale = g.x(1), dy = g.dy(0);
  const std::vector<int64_t> axes = last_axes(g, 0, g.attr("axis", int64_t{-1}));
  const double epsilon = g.attr("epsilon", 1e-5);
  const DType t = wide(x.dtype());
  Grads r(g.num_inputs());
  // The outputs Mean and InvStdDev have the stash type, too narrow for float64 operands: then they are computed again.
  Expr mean, invstd;
  const bool kept = stash_type(g.node()) == t;
  if (kept) {
    mean = g.y(1);
    invstd = g.y(2);
  } else {
    mean = mean_of(cast(x, t), axes);
    invstd = reciprocal(sqrt(mean_of(square(cast(x, t) - mean), axes) + epsilon));
  }
  if (dy) {
    if (has_tail_dims(g, 1, axes.size())) {
      const std::vector<Expr> d =
          fused_multi("LayerNormGrad", {dy, x, scale, mean, invstd}, 3, {{"axes", static_cast<int64_t>(axes.size())}});
      r[0] = d[0];
      r[1] = d[1];
      if (g.needs(2)) r[2] = has_tail_dims(g, 2, axes.size()) ? d[2] : dy;
    } else {
      const Expr d = cast(dy * scale, t), xhat = (cast(x, t) - mean) * invstd;
      if (g.needs(0)) r[0] = cast(invstd * (d - mean_of(d, axes) - xhat * mean_of(d * xhat, axes)), x.dtype());
      if (g.needs(1)) r[1] = dy * cast(xhat, x.dtype());
      if (g.needs(2)) r[2] = dy;
    }
  }
  if (g.needs(0) && (g.dy(1) || g.dy(2))) {
    // d mean / dx = 1 / n; d invstd / dx = -invstd^3 (x - mean) / n
    const Expr n = cast(size(x), t) / cast(size(mean), t);
    Expr more;
    if (g.dy(1)) more = cast(g.dy(1), t) / n;
    if (g.dy(2)) {
      const Expr part = -(cast(g.dy(2), t) * invstd * square(invstd) / n * (cast(x, t) - mean));
      more = more ? more + part : part;
    }
    more = cast(expand_like(more, x), x.dtype());
    r[0] = r[0] ? r[0] + more : more;
  }
  return r;
}

// LayerNormGrad(dy, x, scale, mean, invstd) -> dx, dscale, dbias; `axes`: how many last axes are normalised.
void infer_layer_norm_back(Infer& c) {
  c.out(0, c.type(1));
  c.out(1, c.type(2));
  c.out(2, c.type(2));
}

Kernel layer_norm_back_kernel(const Node& node) {
  const int64_t axes = node.attr("axes", 1);
  return [=](Call& c) {
    const at::Tensor& x = c.in(1);
    const at::Tensor scale = *affine(c.in(2), x);
    const auto [dx, dscale, dbias] = at::native_layer_norm_backward(
        c.in(0), x, tail(x.sizes(), x.dim() - axes), c.in(3).to(scale.scalar_type()), c.in(4).to(scale.scalar_type()),
        scale, scale, {c.wants(0), c.wants(1), c.wants(2)});
    if (c.wants(0)) c.set(0, dx);
    if (c.wants(1)) c.set(1, dscale);
    if (c.wants(2)) c.set(2, dbias);
  };
}

Grads layer_norm_back_body(const Grad& g) {
  const Expr mean = g.x(3), invstd = g.x(4);
  const DType t = mean.dtype();
  const Expr dy = cast(g.x(0), t), x = cast(g.x(1), t), scale = cast(g.x(2), t);
  const int rank = g.rank(1);
  const int64_t n = g.attr("axes", int64_t{1});
  std::vector<int64_t> axes, lead;
  for (int64_t i = rank - n; i < rank; ++i) axes.push_back(i);
  for (int64_t i = 0; i < rank - n; ++i) lead.push_back(i);
  const Expr xhat = (x - mean) * invstd, d = dy * scale;
  const Expr dx = invstd * (d - mean_of(d, axes) - xhat * mean_of(d * xhat, axes));
  const auto over_rows = [&](Expr e) { return cast(lead.empty() ? e : reduce_sum(e, lead, false), g.type(2).dtype); };
  return {cast(dx, g.type(1).dtype), over_rows(dy * xhat), over_rows(dy)};
}

void infer_rms_norm(Infer& c) {
  c.same_as(0);
  if (c.ranked(0)) c.axis(c.node.attr("axis", -1), c.rank(0));
}

Kernel rms_norm_kernel(const Node& node) {
  const int64_t axis = node.attr("axis", -1);
  const double epsilon = node.attr("epsilon", 1e-5);
  return [=](Call& c) {
    const at::Tensor x = c.in(0).to(to_scalar_type(wide(from_scalar_type(c.in(0).scalar_type()))));
    std::vector<int64_t> axes;
    for (int64_t i = axis < 0 ? axis + x.dim() : axis; i < x.dim(); ++i) axes.push_back(i);
    c.set(0, (x * at::rsqrt((x * x).mean(axes, true).add_(epsilon))).to(c.in(0).scalar_type()) * c.in(1));
  };
}

Grads rms_norm_body(const Grad& g) {
  const DType t = wide(g.type(0).dtype);
  const Expr x = cast(g.x(0), t);
  const Expr scale =
      reciprocal(sqrt(mean_of(square(x), last_axes(g, 0, g.attr("axis", int64_t{-1}))) + g.attr("epsilon", 1e-5)));
  return {cast(x * scale, g.type(0).dtype) * g.x(1)};
}

void infer_same(Infer& c) { c.same_as(0); }

void infer_lrn(Infer& c) {
  c.same_as(0);
  if (c.ranked(0) && c.rank(0) < 3) c.fail("the operand needs spatial axes: got " + to_string(c.dims(0)), 0);
  if (c.node.attr("size", 0) < 1) c.fail("the attribute size must be positive");
}

/// Windows over the channels as an average pool over one axis.
Grads lrn_body(const Grad& g) {
  Builder& b = g.builder();
  const Expr x = g.x(0);
  const int64_t n = g.attr("size", int64_t{1});
  const Expr squares = unsqueeze(reshape(square(x), {0, 0, -1}), {1});
  const Expr means = b.op("AveragePool", {squares},
                          {{"kernel_shape", std::vector<int64_t>{n, 1}},
                           {"pads", std::vector<int64_t>{(n - 1) / 2, 0, n - 1 - (n - 1) / 2, 0}},
                           {"strides", std::vector<int64_t>{1, 1}},
                           {"count_include_pad", int64_t{1}}});
  const Expr base = reshape_like(squeeze(means, {1}), x) * g.attr("alpha", 1e-4) + g.attr("bias", 1.0);
  return {x * pow(base, like(base, -g.attr("beta", 0.75)))};
}

Grads mean_variance_body(const Grad& g) {
  const std::vector<int64_t> axes = g.ints("axes", {0, 2, 3});
  const Expr centred = g.x(0) - mean_of(g.x(0), axes);
  return {centred / (sqrt(mean_of(square(centred), axes)) + 1e-9)};
}

void infer_lp_norm(Infer& c) {
  c.same_as(0);
  if (c.ranked(0)) c.axis(c.node.attr("axis", -1), c.rank(0));
  const int64_t p = c.node.attr("p", 2);
  if (p != 1 && p != 2) c.fail("p must be 1 or 2: got " + std::to_string(p));
}

Kernel lp_norm_kernel(const Node& node) {
  const int64_t axis = node.attr("axis", -1);
  const double p = static_cast<double>(node.attr("p", 2));
  return [=](Call& c) {
    const at::Tensor n = at::linalg_vector_norm(c.in(0), p, {axis}, true);
    c.set(0, at::where(n == 0, at::zeros_like(c.in(0)), c.in(0) / n));
  };
}

/// y = x / n, n the norm of a row; rows of zeros stay zero and pass nothing on.
Grads lp_norm_grad(const Grad& g) {
  const Expr x = g.x(0), y = g.y(0), dy = g.dy();
  const int64_t axis = g.attr("axis", int64_t{-1}), at = axis < 0 ? axis + g.rank(0) : axis;
  const bool squares = g.attr("p", int64_t{2}) == 2;
  const Expr sums = reduce_sum(squares ? square(x) : abs(x), {at}, true);
  const Expr zero = cast(equal(sums, like(sums, 0)), x.dtype());
  const Expr n = squares ? sqrt(sums + zero) : sums + zero;
  const Expr along = reduce_sum(dy * y, {at}, true);
  return {(dy - (squares ? y : sign(x)) * along) / n * (1.0 - zero)};
}

}  // namespace

OpTable norm_ops() {
  return {
      {.name = "LayerNormalization",
       .since = 17,
       .infer = infer_layer_norm,
       .kernel = layer_norm_kernel,
       .bind = bind_layer_norm,
       .grad = layer_norm_grad},
      {.name = "LayerNormGrad",
       .domain = "ortmod",
       .infer = infer_layer_norm_back,
       .kernel = layer_norm_back_kernel,
       .bind = bind_layer_norm_grad,
       .body = layer_norm_back_body},
      {.name = "RMSNormalization",
       .since = 23,
       .infer = infer_rms_norm,
       .kernel = rms_norm_kernel,
       .bind = bind_rms_norm,
       .body = rms_norm_body},
      {.name = "LRN", .infer = infer_lrn, .body = lrn_body},
      {.name = "MeanVarianceNormalization", .since = 9, .infer = infer_same, .body = mean_variance_body},
      {.name = "LpNormalization", .infer = infer_lp_norm, .kernel = lp_norm_kernel, .grad = lp_norm_grad},
  };
}

}  // namespace ortmod
