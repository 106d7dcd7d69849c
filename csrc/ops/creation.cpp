// Operators: tensors made from shapes and scalars (Shape, Size, ConstantOfShape, Range, EyeLike, window functions).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/bind_copy.h"
#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

at::Tensor device_ints(const std::vector<int64_t>& v, at::Device device) { return at::tensor(v, at::kLong).to(device); }

// ---- Shape, Size

/// [first, last) of the axes that `start` and `end` (since 15) select.
struct Part {
  explicit Part(const Node& n) : start(n.attr("start", 0)), end(n.attr("end", INT64_MAX)) {}
  int64_t start, end;
  std::pair<int64_t, int64_t> of(int64_t rank) const {
    auto at = [&](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
    return {at(start), std::max(at(start), at(end))};
  }
};

void shape_infer(Infer& c) {
  if (!c.ranked()) return c.out(0, DType::kInt64, {kAnyDim});
  const auto [first, last] = Part(c.node).of(c.rank());
  const Dims& d = c.dims();
  c.out(0, DType::kInt64, {last - first});
  c.out_ints(0, {{last - first}, {d.begin() + first, d.begin() + last}});
}

Kernel shape_kernel(const Node& n) {
  return [part = Part(n)](Call& c) {
    const at::IntArrayRef s = c.in().sizes();
    const auto [first, last] = part.of(static_cast<int64_t>(s.size()));
    c.set(0, device_ints({s.begin() + first, s.begin() + last}, c.device()));
  };
}

void size_infer(Infer& c) {
  c.out(0, DType::kInt64, {});
  if (!c.ranked()) return;
  Dim n = 1;
  for (Dim d : c.dims()) n = dim_mul(n, d);
  c.out_ints(0, {{}, {n}});
}

Kernel size_kernel(const Node&) {
  return [](Call& c) { c.set(0, at::scalar_tensor(c.in().numel(), at::TensorOptions(at::kLong)).to(c.device())); };
}

// ---- ConstantOfShape

LiteralPtr fill_of(const Node& n) {
  const Attr* a = n.find("value");
  const LiteralPtr* l = a ? std::get_if<LiteralPtr>(a) : nullptr;
  if (a && (!l || (*l)->numel() != 1)) fail(ErrorKind::kModel, "infer", "the value must be a tensor of one element", n);
  return l ? *l : Literal::scalar(DType::kFloat, 0, Dims{1});
}

void constant_infer(Infer& c) {
  const LiteralPtr fill = fill_of(c.node);
  const HostInts* h = c.ints(0);
  if (c.ranked() && c.rank() != 1) c.fail("expected a shape of rank 1: got " + to_string(c.dims()), 0);
  if (!h) {
    if (!c.ranked() || !is_known(c.dims()[0])) return c.out_unranked(0, fill->dtype());
    return c.out(0, fill->dtype(), Dims(static_cast<size_t>(c.dims()[0]), kAnyDim));
  }
  Dims to(h->v.begin(), h->v.end());
  for (Dim d : to)
    if (d < 0 && !is_symbolic(d)) c.fail("the shape has a negative size: got " + std::to_string(d), 0);
  if (const Dim n = numel(to); is_small(n) && (is_integer(fill->dtype()) || fill->dtype() == DType::kBool))
    c.out_ints(0, {to, SmallVec<Dim, 8>(static_cast<size_t>(n), fill->to_ints()[0])});
  c.out(0, fill->dtype(), std::move(to));
}

Kernel constant_kernel(const Node& n) {
  const LiteralPtr fill = fill_of(n);
  const bool whole = is_integer(fill->dtype()) || fill->dtype() == DType::kBool;
  const at::Scalar value = whole ? at::Scalar(fill->to_ints()[0]) : at::Scalar(fill->at(0));
  return [value](Call& c) {
    at::Tensor& y = c.out(0);
    const std::vector<int64_t> to = c.ints(0);
    for (int64_t d : to)
      if (d < 0) c.fail("the shape has a negative size: got " + std::to_string(d), 0);
    if (y.sizes() != at::IntArrayRef(to)) y.resize_(to);
    y.fill_(value);
  };
}

bool constant_bind(Bind& b) { return bind_fill(b, *fill_of(b.node)); }

// ---- Range

std::optional<double> number_of(const Infer& c, size_t i) {
  if (const Literal* l = c.literal(i); l && l->numel() == 1) return l->at(0);
  return std::nullopt;
}

void range_infer(Infer& c) {
  const DType t = c.dtype();
  for (size_t i = 0; i < 3; ++i)
    if (c.ranked(i) && c.rank(i) > 1) c.fail("expected a scalar: got " + to_string(c.dims(i)), static_cast<int>(i));
  const HostInts *s = c.ints(0), *l = c.ints(1), *d = c.ints(2);
  if (s && l && d && s->v.size() == 1 && l->v.size() == 1 && d->v.size() == 1) {
    const Dim start = s->v[0], limit = l->v[0], delta = d->v[0];
    if (delta == 0) c.fail("delta is zero", 2);
    if (is_symbolic(delta)) return c.out(0, t, {kAnyDim});
    if (is_symbolic(start) || is_symbolic(limit)) {
      if (delta < 0) return c.out(0, t, {kAnyDim});
      const Dim span = dim_sub(limit, start);
      return c.out(0, t, {delta == 1 ? span : dim_div(dim_add(span, delta - 1), delta)});
    }
    const Dim n = delta > 0 ? (limit > start ? (limit - start - 1) / delta + 1 : 0)
                            : (start > limit ? (start - limit - 1) / -delta + 1 : 0);
    if (is_small(n)) {
      HostInts o{{n}, {}};
      for (Dim i = 0; i < n; ++i) o.v.push_back(start + i * delta);
      c.out_ints(0, std::move(o));
    }
    return c.out(0, t, {n});
  }
  const auto a = number_of(c, 0), b = number_of(c, 1), e = number_of(c, 2);
  if (a && b && e && *e != 0) return c.out(0, t, {std::max<Dim>(0, static_cast<Dim>(std::ceil((*b - *a) / *e)))});
  c.out(0, t, {kAnyDim});
}

Kernel range_kernel(const Node&) {
  return [](Call& c) {
    const DType t = from_scalar_type(c.in(0).scalar_type());
    at::Tensor y;
    if (is_integer(t)) {
      const int64_t start = c.ints(0).at(0), limit = c.ints(1).at(0), delta = c.ints(2).at(0);
      if (delta == 0) c.fail("delta is zero", 2);
      const int64_t n = delta > 0 ? (limit > start ? (limit - start - 1) / delta + 1 : 0)
                                  : (start > limit ? (start - limit - 1) / -delta + 1 : 0);
      y = at::arange(n, at::TensorOptions(at::kLong).device(c.device())).mul_(delta).add_(start);
    } else {
      const double start = c.number(0), limit = c.number(1), delta = c.number(2);
      if (delta == 0) c.fail("delta is zero", 2);
      const int64_t n = std::max<int64_t>(0, static_cast<int64_t>(std::ceil((limit - start) / delta)));
      y = at::arange(n, at::TensorOptions(at::kDouble).device(c.device())).mul_(delta).add_(start);
    }
    c.set(0, y.to(c.in(0).scalar_type()));
  };
}

/// y_i = start + i * delta.
Grads range_grad(const Grad& g) {
  Grads r(3);
  const Expr dy = g.dy();
  auto total = [&](Expr e, Expr x) { return reshape_like(reduce_sum(e, {0}, false), x); };
  if (g.needs(0)) r[0] = total(dy, g.x(0));
  if (g.needs(2)) r[2] = total(dy * cast(iota(dim(dy, 0)), dy.dtype()), g.x(2));
  return r;
}

// ---- EyeLike

DType eye_type(const Node& n, DType of_input) {
  return n.has("dtype") ? static_cast<DType>(n.attr("dtype", 1)) : of_input;
}

void eye_infer(Infer& c) {
  const DType t = eye_type(c.node, c.dtype());
  if (!c.ranked()) return c.out(0, t, {kAnyDim, kAnyDim});
  if (c.rank() != 2) c.fail("expected an input of rank 2: got " + to_string(c.dims()), 0);
  c.out(0, t, c.dims());
}

Kernel eye_kernel(const Node& n) {
  return [k = n.attr("k", 0)](Call& c) {
    at::Tensor& y = c.out(0);
    if (y.sizes() != c.in().sizes()) y.resize_(c.in().sizes());
    y.zero_();
    if (k > -y.size(0) && k < y.size(1)) y.diagonal(k).fill_(1);
  };
}

// ---- Window functions of `size` samples: a0 - a1 cos(2 pi n / N) + a2 cos(4 pi n / N), N = size or, symmetric, size -
// 1

void window_infer(Infer& c) {
  const DType t = static_cast<DType>(c.node.attr("output_datatype", static_cast<int64_t>(DType::kFloat)));
  const HostInts* h = c.ints(0);
  c.out(0, t, {h && h->v.size() == 1 ? h->v[0] : kAnyDim});
}

struct Cosines {
  double a0, a1, a2;
};
constexpr Cosines kHann{0.5, 0.5, 0}, kHamming{25.0 / 46.0, 21.0 / 46.0, 0}, kBlackman{0.42, 0.5, 0.08};

template <Cosines kTerms>
Kernel window_kernel(const Node& n) {
  const bool periodic = n.attr("periodic", 1) != 0;
  const at::ScalarType type =
      to_scalar_type(static_cast<DType>(n.attr("output_datatype", static_cast<int64_t>(DType::kFloat))));
  return [=](Call& c) {
    const int64_t size = c.ints(0).at(0), period = periodic ? size : size - 1;
    at::Tensor y = at::empty({size}, at::kDouble);
    double* p = y.data_ptr<double>();
    for (int64_t i = 0; i < size; ++i) {
      const double w = period ? 2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(period) : 0;
      p[i] = kTerms.a0 - kTerms.a1 * std::cos(w) + kTerms.a2 * std::cos(2 * w);
    }
    c.set(0, y.to(type).to(c.device()));
  };
}

}  // namespace

OpTable creation_ops() {
  return {
      {.name = "Shape", .infer = shape_infer, .kernel = shape_kernel, .grad = no_grad, .shape_inputs = 1},
      {.name = "Size", .infer = size_infer, .kernel = size_kernel, .grad = no_grad, .shape_inputs = 1},
      {.name = "ConstantOfShape",
       .infer = constant_infer,
       .kernel = constant_kernel,
       .bind = constant_bind,
       .grad = no_grad,
       .host_inputs = 1},
      {.name = "Range",
       .infer = range_infer,
       .kernel = range_kernel,
       .grad = range_grad,
       .exact = true,
       .host_inputs = 0b111},
      {.name = "EyeLike", .infer = eye_infer, .kernel = eye_kernel, .grad = no_grad, .shape_inputs = 1},
      {.name = "HannWindow", .infer = window_infer, .kernel = window_kernel<kHann>, .grad = no_grad, .host_inputs = 1},
      {.name = "HammingWindow",
       .infer = window_infer,
       .kernel = window_kernel<kHamming>,
       .grad = no_grad,
       .host_inputs = 1},
      {.name = "BlackmanWindow",
       .infer = window_infer,
       .kernel = window_kernel<kBlackman>,
       .grad = no_grad,
       .host_inputs = 1},
  };
}

}  // namespace ortmod
