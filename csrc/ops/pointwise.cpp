// Operators: arithmetic of one, two or more operands and the elementary functions.
#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "kernels/cpu/pointwise.h"
#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::Tensor;

// Host-known integers.
Dim host_neg(Dim a) { return dim_sub(0, a); }
Dim host_abs(Dim a) { return is_symbolic(a) ? (is_size(a) ? a : kAnyDim) : std::abs(a); }
Dim host_sign(Dim a) { return is_symbolic(a) ? kAnyDim : (a > 0) - (a < 0); }
Dim host_div(Dim a, Dim b) {
  if (b == 0 || a == kAnyDim || b == kAnyDim) return kAnyDim;
  if (!is_symbolic(a) && !is_symbolic(b)) return a / b;
  return is_size(a) && is_size(b) ? dim_div(a, b) : kAnyDim;
}
Dim host_floor_mod(Dim a, Dim b) {
  if (b == 0 || a == kAnyDim || b == kAnyDim) return kAnyDim;
  return dim_sub(a, dim_mul(dim_div(a, b), b));
}
Dim host_fmod(Dim a, Dim b) {
  if (b == 0 || is_symbolic(a) || is_symbolic(b)) return kAnyDim;
  return a % b;
}
Dim host_pow(Dim a, Dim b) {
  if (b == 1) return a;
  if (is_symbolic(a) || is_symbolic(b) || b < 0 || b > 62) return kAnyDim;
  Dim r = 1;
  for (Dim k = 0; k < b; ++k)
    if (__builtin_mul_overflow(r, a, &r)) return kAnyDim;
  return r;
}
Dim host_where(Dim c, Dim a, Dim b) {
  if (is_symbolic(c)) return a == b ? a : kAnyDim;
  return c ? a : b;
}

void infer_pow(Infer& i) {
  i.broadcast_all(i.dtype(0));
  host_map(i, host_pow);
}
void infer_mod(Infer& i) {
  const bool fmod = i.node.attr("fmod", false);
  if (!fmod && is_float(i.dtype(0)) && i.version() < 28)
    fail_type(i, "floating-point operands need fmod=1: got fmod=0 and " + std::string(dtype_name(i.dtype(0))), 0);
  infer_elementwise(i);
  host_map(i, fmod ? host_fmod : host_floor_mod);
}
void infer_where(Infer& i) {
  if (i.dtype(0) != DType::kBool && i.dtype(0) != DType::kUndefined)
    fail_type(i, "wrong element type of the condition: got " + std::string(dtype_name(i.dtype(0))) + ", expected bool",
              0);
  const DType t = i.dtype(1);
  if (i.dtype(2) != t && t != DType::kUndefined && i.dtype(2) != DType::kUndefined)
    fail_type(i,
              "operands differ in element type: got " + std::string(dtype_name(i.dtype(2))) + ", expected " +
                  std::string(dtype_name(t)),
              2);
  i.broadcast_all(t);
  host_map(i, host_where);
}
void infer_clip(Infer& i) {
  check_same_types(i, i.num_in());
  for (size_t k = 1; k < i.num_in(); ++k)
    if (i.has(k) && i.ranked(k) && is_known(numel(i.dims(k))) && numel(i.dims(k)) != 1)
      i.fail("a bound must be a scalar: got shape " + to_string(i.dims(k)), static_cast<int>(k));
  i.same_as(0);
}

// ATen functions under one signature.
Tensor& add(Tensor& y, const Tensor& a, const Tensor& b) { return at::add_out(y, a, b); }
Tensor& sub(Tensor& y, const Tensor& a, const Tensor& b) { return at::sub_out(y, a, b); }
Tensor& div(Tensor& y, const Tensor& a, const Tensor& b) {
  return at::isIntegralType(a.scalar_type(), false) ? at::div_out(y, a, b, "trunc") : at::div_out(y, a, b);
}

Kernel mean_kernel(const Node&) {
  return [](Call& c) {
    Tensor acc = c.in(0);
    for (size_t k = 1; k < c.num_in(); ++k) acc = at::add(acc, c.in(k));
    c.set(0, c.num_in() == 1 ? acc : acc / static_cast<double>(c.num_in()));
  };
}

Kernel mod_kernel(const Node& n) {
  const Binary f = n.attr("fmod", false) ? static_cast<Binary>(at::fmod_out) : static_cast<Binary>(at::remainder_out);
  return [f](Call& c) { run_binary(c, f); };
}

// The result has the type of the base.
Kernel pow_kernel(const Node&) {
  return [](Call& c) {
    const Tensor x = widened(c.in(0)), e = widened(c.in(1));
    if (x.is_floating_point()) {
      at::pow_out(c.out(0), x, e.to(x.scalar_type()));
    } else if (e.is_floating_point()) {
      c.set(0, at::pow(x.to(at::kDouble), e.to(at::kDouble)).to(x.scalar_type()));
    } else {
      c.set(0, at::pow(x.to(at::kLong), e.to(at::kLong)));
    }
  };
}

Kernel where_kernel(const Node&) {
  return [](Call& c) { at::where_out(c.out(0), c.in(0), c.in(1), c.in(2)); };
}

Kernel clip_kernel(const Node& n) {
  std::optional<double> lo, hi;
  if (n.has("min")) lo = n.attr("min", 0.0);
  if (n.has("max")) hi = n.attr("max", 0.0);
  return [lo, hi](Call& c) {
    const Tensor x = widened(c.in(0));
    std::optional<Tensor> low, high;
    if (c.has(1)) low = widened(c.in(1)).reshape({});
    if (c.has(2)) high = widened(c.in(2)).reshape({});
    if (lo) low = at::scalar_tensor(*lo, x.options());
    if (hi) high = at::scalar_tensor(*hi, x.options());
    if (!low && !high) return c.set(0, x);
    if (is_wide_unsigned(c.in(0))) return c.set(0, at::clamp(x, low, high));
    at::clamp_out(c.out(0), x, low, high);
  };
}

Grads min_max_grad(const Grad& g) {
  const size_t n = g.num_inputs();
  if (n == 1) return {g.dy()};
  std::vector<Expr> hits;
  Expr total;
  for (size_t i = 0; i < n; ++i) {
    hits.push_back(cast(equal(g.x(i), g.y()), g.y().dtype()));
    total = total ? total + hits[i] : hits[i];
  }
  const Expr share = g.dy() / total;
  Grads r(n);
  for (size_t i = 0; i < n; ++i)
    if (g.needs(i)) r[i] = share * hits[i];
  return r;
}

Grads clip_grad(const Grad& g) {
  Expr lo = g.x(1), hi = g.x(2);
  if (g.node().has("min")) lo = like(g.x(), g.attr("min", 0.0));
  if (g.node().has("max")) hi = like(g.x(), g.attr("max", 0.0));
  const Expr x = g.x(), dy = g.dy(), zero = like(dy, 0);
  Grads r(g.num_inputs());
  if (g.needs(0)) {
    Expr inside;
    if (lo) inside = greater_equal(x, lo);
    if (hi) inside = inside ? logical_and(inside, less_equal(x, hi)) : less_equal(x, hi);
    r[0] = inside ? where(inside, dy, zero) : dy;
  }
  if (g.needs(1)) r[1] = where(hi ? logical_and(less(x, lo), less_equal(lo, hi)) : less(x, lo), dy, zero);
  if (g.needs(2)) r[2] = where(lo ? logical_or(greater(x, hi), greater(lo, hi)) : greater(x, hi), dy, zero);
  return r;
}

// d x^e / dx = e x^(e-1), 0 where x and e are 0; d x^e / de = x^e log x, 0 where x <= 0.
Grads pow_grad(const Grad& g) {
  const Expr x = g.x(), e = cast(g.x(1), x.dtype()), dy = g.dy();
  Grads r(2);
  if (g.needs(0)) {
    const Literal* c = constant_input(g.node(), 1);
    const bool scalar = c && c->numel() == 1;
    const double k = scalar ? c->at(0) : 0;
    bool has_zero = !c;
    for (int64_t i = 0; c && i < c->numel(); ++i) has_zero |= c->at(i) == 0;
    if (scalar && k == 0) {
      r[0] = zeros_like(dy);
    } else if (scalar && k == 1) {
      r[0] = dy;
    } else if (scalar && k == 2) {
      r[0] = dy * (2.0 * x);
    } else if (scalar) {
      r[0] = dy * (k * pow(x, like(x, k - 1)));
    } else {
      const Expr zero = like(x, 0);
      const Expr base = has_zero ? where(logical_and(equal(x, zero), equal(e, zero)), like(x, 1), x) : x;
      r[0] = dy * (e * pow(base, e - 1.0));
    }
  }
  if (g.needs(1)) {
    const Expr positive = greater(x, like(x, 0));
    r[1] = dy * where(positive, g.y(), like(x, 0)) * log(where(positive, x, like(x, 1)));
  }
  return r;
}

// a mod b = a - n b with the integer n, which is recovered by rounding.
Grads mod_grad(const Grad& g) {
  Grads r{g.dy(), {}};
  if (g.needs(1)) r[1] = -(g.dy() * unary("Floor", (g.x(0) - g.y()) / g.x(1) + 0.5));
  return r;
}

Grads div_grad(const Grad& g) {
  const Expr t = g.dy() / g.x(1);
  Grads r{t, {}};
  if (g.needs(1)) r[1] = -(t * g.y());
  return r;
}

Grads where_grad(const Grad& g) {
  const Expr zero = like(g.dy(), 0);
  Grads r(3);
  if (g.needs(1)) r[1] = where(g.x(0), g.dy(), zero);
  if (g.needs(2)) r[2] = where(g.x(0), zero, g.dy());
  return r;
}

Grads sum_grad(const Grad& g) { return Grads(g.num_inputs(), g.dy()); }
Grads mean_grad(const Grad& g) {
  return Grads(g.num_inputs(), g.num_inputs() == 1 ? g.dy() : g.dy() / static_cast<double>(g.num_inputs()));
}

OpDef function(std::string_view name, KernelFn kernel, Pw pw, GradFn grad) {
  return {.name = name,
          .infer = infer_float,
          .kernel = kernel,
          .grad = grad,
          .pointwise = pw,
          .inplace = true,
          .exact = true};
}

}  // namespace

OpTable pointwise_ops() {
  OpTable t = {
      {.name = "Add",
       .infer = infer_host2<infer_elementwise, dim_add>,
       .kernel = binary<add>,
       .grad = sum_grad,
       .pointwise = Pw::kAdd,
       .inplace = true},
      {.name = "Sub",
       .infer = infer_host2<infer_elementwise, dim_sub>,
       .kernel = binary<sub>,
       .grad = [](const Grad& g) -> Grads {
         return {g.dy(), g.needs(1) ? -g.dy() : Expr()};
       },
       .pointwise = Pw::kSub,
       .inplace = true},
      {.name = "Mul",
       .infer = infer_host2<infer_elementwise, dim_mul>,
       .kernel = binary<at::mul_out>,
       .grad = [](const Grad& g) -> Grads {
         return {g.needs(0) ? g.dy() * g.x(1) : Expr(), g.needs(1) ? g.dy() * g.x(0) : Expr()};
       },
       .pointwise = Pw::kMul,
       .inplace = true},
      {.name = "Div",
       .infer = infer_host2<infer_elementwise, host_div>,
       .kernel = binary<div>,
       .grad = div_grad,
       .pointwise = Pw::kDiv,
       .inplace = true},
      {.name = "Pow",
       .infer = infer_pow,
       .kernel = pow_kernel,
       .grad = pow_grad,
       .pointwise = Pw::kPow,
       .inplace = true},
      {.name = "Mod",
       .infer = infer_mod,
       .kernel = mod_kernel,
       .grad = mod_grad,
       .pointwise = Pw::kMod,
       .inplace = true},
      {.name = "Max",
       .infer = infer_host2<infer_elementwise, dim_max>,
       .kernel = variadic<at::maximum_out>,
       .grad = min_max_grad,
       .pointwise = Pw::kMax,
       .inplace = true},
      {.name = "Min",
       .infer = infer_host2<infer_elementwise, dim_min>,
       .kernel = variadic<at::minimum_out>,
       .grad = min_max_grad,
       .pointwise = Pw::kMin,
       .inplace = true},
      {.name = "Sum",
       .infer = infer_host2<infer_elementwise, dim_add>,
       .kernel = variadic<add>,
       .grad = sum_grad,
       .pointwise = Pw::kSum,
       .inplace = true},
      {.name = "Mean",
       .infer = infer_elementwise,
       .kernel = mean_kernel,
       .grad = mean_grad,
       .pointwise = Pw::kMean,
       .inplace = true},
      {.name = "Clip",
       .infer = infer_clip,
       .kernel = clip_kernel,
       .grad = clip_grad,
       .pointwise = Pw::kClip,
       .inplace = true},
      {.name = "Where",
       .infer = infer_where,
       .kernel = where_kernel,
       .grad = where_grad,
       .pointwise = Pw::kWhere,
       .inplace = true},
      {.name = "Neg",
       .infer = infer_host1<infer_same, host_neg>,
       .kernel = unary<at::neg_out>,
       .grad = [](const Grad& g) -> Grads { return {-g.dy()}; },
       .pointwise = Pw::kNeg,
       .inplace = true,
       .exact = true},
      {.name = "Abs",
       .infer = infer_host1<infer_same, host_abs>,
       .kernel = unary<at::abs_out>,
       .grad = [](const Grad& g) -> Grads { return {g.dy() * sign(g.x())}; },
       .pointwise = Pw::kAbs,
       .inplace = true,
       .exact = true},
      {.name = "Sign",
       .infer = infer_host1<infer_same, host_sign>,
       .kernel = unary<at::sign_out>,
       .grad = no_grad,
       .pointwise = Pw::kSign,
       .inplace = true},
      function("Floor", unary<at::floor_out>, Pw::kFloor, no_grad),
      function("Ceil", unary<at::ceil_out>, Pw::kCeil, no_grad),
      function("Round", unary<at::round_out>, Pw::kRound, no_grad),
      function("Reciprocal", unary<at::reciprocal_out>, Pw::kReciprocal,
               [](const Grad& g) -> Grads { return {-(g.dy() * g.y() * g.y())}; }),
      function("Sqrt", unary<at::sqrt_out>, Pw::kSqrt, [](const Grad& g) -> Grads { return {0.5 * g.dy() / g.y()}; }),
      function("Exp", unary<at::exp_out>, Pw::kExp, [](const Grad& g) -> Grads { return {g.dy() * g.y()}; }),
      function("Log", unary<at::log_out>, Pw::kLog, [](const Grad& g) -> Grads { return {g.dy() / g.x()}; }),
      function(
          "Erf", unary<at::erf_out>, Pw::kErf,
          [](const Grad& g) -> Grads { return {g.dy() * (2 * std::numbers::inv_sqrtpi) * exp(-(g.x() * g.x()))}; }),
      function("Sin", unary<at::sin_out>, Pw::kSin, [](const Grad& g) -> Grads { return {g.dy() * cos(g.x())}; }),
      function("Cos", unary<at::cos_out>, Pw::kCos, [](const Grad& g) -> Grads { return {-(g.dy() * sin(g.x()))}; }),
      function("Tan", unary<at::tan_out>, Pw::kTan,
               [](const Grad& g) -> Grads { return {g.dy() * (1.0 + g.y() * g.y())}; }),
      function("Asin", unary<at::asin_out>, Pw::kAsin,
               [](const Grad& g) -> Grads { return {g.dy() / sqrt(1.0 - g.x() * g.x())}; }),
      function("Acos", unary<at::acos_out>, Pw::kAcos,
               [](const Grad& g) -> Grads { return {-(g.dy() / sqrt(1.0 - g.x() * g.x()))}; }),
      function("Atan", unary<at::atan_out>, Pw::kAtan,
               [](const Grad& g) -> Grads { return {g.dy() / (1.0 + g.x() * g.x())}; }),
      function("Sinh", unary<at::sinh_out>, Pw::kSinh,
               [](const Grad& g) -> Grads { return {g.dy() * ortmod::unary("Cosh", g.x())}; }),
      function("Cosh", unary<at::cosh_out>, Pw::kCosh,
               [](const Grad& g) -> Grads { return {g.dy() * ortmod::unary("Sinh", g.x())}; }),
      function("Tanh", unary<at::tanh_out>, Pw::kTanh,
               [](const Grad& g) -> Grads { return {g.dy() * (1.0 - g.y() * g.y())}; }),
      function("Asinh", unary<at::asinh_out>, Pw::kAsinh,
               [](const Grad& g) -> Grads { return {g.dy() / sqrt(g.x() * g.x() + 1.0)}; }),
      function("Acosh", unary<at::acosh_out>, Pw::kAcosh,
               [](const Grad& g) -> Grads { return {g.dy() / sqrt(g.x() * g.x() - 1.0)}; }),
      function("Atanh", unary<at::atanh_out>, Pw::kAtanh,
               [](const Grad& g) -> Grads { return {g.dy() / (1.0 - g.x() * g.x())}; }),
      function("Sigmoid", unary<at::sigmoid_out>, Pw::kSigmoid,
               [](const Grad& g) -> Grads { return {g.dy() * (g.y() * (1.0 - g.y()))}; }),
  };
  return t;
}

}  // namespace ortmod
