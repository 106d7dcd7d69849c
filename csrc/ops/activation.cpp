// Operators: activation functions.
#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "kernels/cpu/pointwise.h"
#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::Tensor;

/// A kernel of one operand and up to two numbers read from attributes when the plan is made.
using Param2 = Tensor (*)(const Tensor& x, double a, double b);
Kernel with(Param2 f, double a = 0, double b = 0) {
  return [f, a, b](Call& c) { c.set(0, f(c.in(0), a, b)); };
}

double alpha(const Node& n, double fallback) { return n.attr("alpha", fallback); }
double alpha(const Grad& g, double fallback) { return g.attr("alpha", fallback); }

Expr zero(const Grad& g) { return like(g.x(), 0); }
Expr positive(const Grad& g) { return greater(g.x(), zero(g)); }

Kernel leaky_relu(const Node& n) {
  const double a = alpha(n, kLeakyReluAlpha);
  return [a](Call& c) { at::leaky_relu_out(c.out(0), c.in(0), a); };
}
Kernel elu(const Node& n) {
  const double a = alpha(n, 1);
  return [a](Call& c) { at::elu_out(c.out(0), c.in(0), a); };
}
Kernel selu(const Node& n) {
  const double a = alpha(n, kSeluAlpha), gamma = n.attr("gamma", kSeluGamma);
  return [a, gamma](Call& c) { at::elu_out(c.out(0), c.in(0), a, gamma); };
}
Kernel celu(const Node& n) {
  const double a = alpha(n, 1);
  return [a](Call& c) { at::elu_out(c.out(0), c.in(0), a, 1, 1 / a); };
}
Kernel thresholded_relu(const Node& n) {
  const double a = alpha(n, 1);
  return [a](Call& c) { at::threshold_out(c.out(0), c.in(0), a, 0); };
}
Kernel hard_sigmoid(const Node& n) {
  return with([](const Tensor& x, double a, double b) { return at::clamp(x * a + b, 0, 1); },
              alpha(n, kHardSigmoidAlpha), n.attr("beta", 0.5));
}
Kernel hard_swish(const Node&) {
  return [](Call& c) { at::hardswish_out(c.out(0), c.in(0)); };
}
Kernel softplus(const Node&) {
  return with([](const Tensor& x, double, double) { return at::clamp_min(x, 0) + at::log1p(at::exp(-at::abs(x))); });
}
Kernel softsign(const Node&) {
  return with([](const Tensor& x, double, double) { return x / (at::abs(x) + 1); });
}
Kernel shrink(const Node& n) {
  return with(
      [](const Tensor& x, double l, double b) {
        return at::where(x < -l, x + b, at::where(x > l, x - b, at::zeros_like(x))).to(x.scalar_type());
      },
      n.attr("lambd", 0.5), n.attr("bias", 0.0));
}
Kernel gelu(const Node& n) {
  const std::string approximate = n.attr("approximate", "none");
  return [approximate](Call& c) { at::gelu_out(c.out(0), c.in(0), approximate); };
}
Kernel swish(const Node& n) {
  return with([](const Tensor& x, double a, double) { return x * at::sigmoid(a == 1 ? x : x * a); }, alpha(n, 1));
}
Kernel swiglu(const Node& n) {
  const double a = alpha(n, 1);
  return [a](Call& c) { c.set(0, c.in(0) * at::sigmoid(a == 1 ? c.in(0) : c.in(0) * a) * c.in(1)); };
}
Kernel prelu(const Node&) {
  return [](Call& c) {
    const Tensor &x = c.in(0), &s = c.in(1);
    at::where_out(c.out(0), x > 0, x, x * s);
  };
}

void infer_prelu(Infer& i) {
  i.type(1);
  infer_elementwise(i);
  if (!i.ranked(0) || !i.ranked(1)) return;
  const Dims &x = i.dims(0), &s = i.dims(1);
  for (size_t k = 0; k < s.size(); ++k)
    if (k >= x.size() || (is_known(s[s.size() - 1 - k]) && s[s.size() - 1 - k] > 1 && x[x.size() - 1 - k] == 1))
      i.fail("the slope must broadcast to the input: got " + to_string(s) + " for " + to_string(x), 1);
  i.same_as(0);
}

void infer_gelu(Infer& i) {
  const std::string a = i.node.attr("approximate", "none");
  if (a != "none" && a != "tanh") i.fail("unknown approximation: got \"" + a + "\", expected none or tanh");
  infer_float(i);
}

void infer_swiglu(Infer& i) {
  i.type(1);
  check_same_types(i, 2);
  if (i.ranked(0) && i.ranked(1)) {
    const Dims &a = i.dims(0), &b = i.dims(1);
    bool same = a.size() == b.size();
    for (size_t k = 0; same && k < a.size(); ++k) same = a[k] == b[k] || !is_known(a[k]) || !is_known(b[k]);
    if (!same) i.fail("operands differ in shape: got " + to_string(b) + ", expected " + to_string(a), 1);
  }
  infer_float(i);
}

// Each rule gives the value at a kink that torch gives; no branch that is not taken can overflow.
Grads relu_grad(const Grad& g) { return {where(greater(g.y(), like(g.y(), 0)), g.dy(), like(g.dy(), 0))}; }
Grads leaky_relu_grad(const Grad& g) { return {where(positive(g), g.dy(), g.dy() * alpha(g, kLeakyReluAlpha))}; }

/// x > 0 ? a : y b + c, where y already holds the exponential.
Grads elu_like(const Grad& g, double a, double b, double c) {
  Expr negative = b == 1 ? g.y() : g.y() * b;
  negative = negative + c;
  return {where(positive(g), a == 1 ? g.dy() : g.dy() * a, g.dy() * negative)};
}
Grads elu_grad(const Grad& g) { return elu_like(g, 1, 1, alpha(g, 1)); }
Grads selu_grad(const Grad& g) {
  const double gamma = g.attr("gamma", kSeluGamma);
  return elu_like(g, gamma, 1, gamma * alpha(g, kSeluAlpha));
}
Grads celu_grad(const Grad& g) { return elu_like(g, 1, 1 / alpha(g, 1), 1); }
Grads thresholded_relu_grad(const Grad& g) {
  return {where(greater(g.x(), like(g.x(), alpha(g, 1))), g.dy(), like(g.dy(), 0))};
}
Grads hard_sigmoid_grad(const Grad& g) {
  const Expr y = g.y();
  const Expr inside = logical_and(greater(y, like(y, 0)), less(y, like(y, 1)));
  return {where(inside, g.dy() * alpha(g, kHardSigmoidAlpha), like(g.dy(), 0))};
}
Grads hard_swish_grad(const Grad& g) {
  const Expr x = g.x(), dy = g.dy();
  const Expr inner = where(less(x, like(x, 3)), dy * (x / 3.0 + 0.5), dy);
  return {where(greater(x, like(x, -3)), inner, like(dy, 0))};
}
// t + x (1 - t^2) sigmoid(x) with t = tanh(softplus(x))
Grads mish_grad(const Grad& g) {
  const Expr x = g.x(), t = tanh(ortmod::unary("Softplus", x));
  return {g.dy() * (t + x * (1.0 - t * t) * sigmoid(x))};
}
Grads softplus_grad(const Grad& g) { return {g.dy() * sigmoid(g.x())}; }
Grads softsign_grad(const Grad& g) {
  const Expr d = abs(g.x()) + 1.0;
  return {g.dy() / (d * d)};
}
Grads shrink_grad(const Grad& g) {
  const double l = g.attr("lambd", 0.5);
  const Expr x = g.x();
  return {where(logical_or(less(x, like(x, -l)), greater(x, like(x, l))), g.dy(), like(g.dy(), 0))};
}
// none: Phi(x) + x phi(x); tanh: derivative of x (1 + tanh(k (x + c x^3))) / 2
Grads gelu_grad(const Grad& g) {
  const Expr x = g.x(), xx = x * x;
  if (g.attr("approximate", "none") != "tanh") {
    const Expr cdf = 0.5 * (1.0 + ortmod::unary("Erf", x * (std::numbers::sqrt2 / 2)));
    const Expr pdf = exp(-0.5 * xx) * (std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2);
    return {g.dy() * (cdf + x * pdf)};
  }
  constexpr double k = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, c = 0.044715;
  const Expr t = tanh(x * (k + k * c * xx));
  return {g.dy() * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (k + 3 * k * c * xx))};
}
Expr scaled(Expr x, double a) { return a == 1 ? x : x * a; }
// d x s / dx = s + a x s (1 - s) with s = sigmoid(a x)
Expr swish_slope(Expr x, double a) {
  const Expr s = sigmoid(scaled(x, a));
  return s * (1.0 + scaled(x, a) * (1.0 - s));
}
Grads swish_grad(const Grad& g) { return {g.dy() * swish_slope(g.x(), alpha(g, 1))}; }
Grads swiglu_grad(const Grad& g) {
  const double a = alpha(g, 1);
  Grads r(2);
  if (g.needs(0)) r[0] = g.dy() * g.x(1) * swish_slope(g.x(0), a);
  if (g.needs(1)) r[1] = g.dy() * (g.x(0) * sigmoid(scaled(g.x(0), a)));
  return r;
}
Grads prelu_grad(const Grad& g) {
  const Expr p = positive(g), dy = g.dy();
  Grads r(2);
  if (g.needs(0)) r[0] = where(p, dy, dy * g.x(1));
  if (g.needs(1)) r[1] = where(p, like(dy, 0), dy * g.x());
  return r;
}

OpDef activation(std::string_view name, KernelFn kernel, Pw pw, GradFn grad, InferFn infer = infer_float) {
  return {.name = name,
          .infer = infer,
          .kernel = kernel,
          .grad = grad,
          .pointwise = pw,
          .inplace = true,
          .exact = pw != Pw::kPRelu};
}

}  // namespace

OpTable activation_ops() {
  return {
      activation("Relu", unary<at::relu_out>, Pw::kRelu, relu_grad, infer_same),
      activation("LeakyRelu", leaky_relu, Pw::kLeakyRelu, leaky_relu_grad),
      activation("PRelu", prelu, Pw::kPRelu, prelu_grad, infer_prelu),
      activation("Elu", elu, Pw::kElu, elu_grad),
      activation("Selu", selu, Pw::kSelu, selu_grad),
      activation("Celu", celu, Pw::kCelu, celu_grad),
      activation("ThresholdedRelu", thresholded_relu, Pw::kThresholdedRelu, thresholded_relu_grad),
      activation("HardSigmoid", hard_sigmoid, Pw::kHardSigmoid, hard_sigmoid_grad),
      activation("HardSwish", hard_swish, Pw::kHardSwish, hard_swish_grad),
      activation("Mish", unary<at::mish_out>, Pw::kMish, mish_grad),
      activation("Softplus", softplus, Pw::kSoftplus, softplus_grad),
      activation("Softsign", softsign, Pw::kSoftsign, softsign_grad),
      activation("Shrink", shrink, Pw::kShrink, shrink_grad, infer_same),
      activation("Gelu", gelu, Pw::kGelu, gelu_grad, infer_gelu),
      activation("Swish", swish, Pw::kSwish, swish_grad),
      {.name = "SwiGLU", .infer = infer_swiglu, .kernel = swiglu, .grad = swiglu_grad, .inplace = true, .exact = true},
  };
}

}  // namespace ortmod
