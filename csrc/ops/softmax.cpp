// Operators: Softmax, LogSoftmax, Hardmax (before opset 13 over all axes from `axis` on, joined) and their gradients.
#include <ATen/ATen.h>

#include "ops/bind_rows.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

void infer_softmax(Infer& c) {
  c.same_as(0);
  if (c.ranked(0)) c.axis(c.node.attr("axis", c.version() < 13 ? 1 : -1), c.rank(0));
}

/// The axis of a node, and whether all axes from it on are joined.
struct Along {
  int64_t axis;
  bool joined;
  explicit Along(const Node& n)
      : axis(n.attr("axis", n.op->domain.empty() && n.version < 13 ? 1 : -1)),
        joined(n.op->domain.empty() ? n.version < 13 : n.attr("joined", false)) {}
  at::Tensor view(const at::Tensor& x) const {
    if (!joined) return x;
    const int64_t a = axis < 0 ? axis + x.dim() : axis;
    return x.view({c10::multiply_integers(x.sizes().slice(0, static_cast<size_t>(a))),
                   c10::multiply_integers(x.sizes().slice(static_cast<size_t>(a)))});
  }
  int64_t over() const { return joined ? 1 : axis; }
  Attrs attrs(int rank) const {
    const int64_t a = axis < 0 && rank >= 0 ? axis + rank : axis;
    return {{"axis", a}, {"joined", static_cast<int64_t>(joined && a != rank - 1)}};
  }
  std::vector<int64_t> axes(int rank) const {
    const int64_t a = axis < 0 ? axis + rank : axis;
    std::vector<int64_t> r{a};
    for (int64_t i = a + 1; joined && i < rank; ++i) r.push_back(i);
    return r;
  }
};

template <at::Tensor& (*kOut)(at::Tensor&, const at::Tensor&, int64_t, bool),
          at::Tensor (*kMake)(const at::Tensor&, int64_t, bool)>
Kernel softmax_kernel(const Node& node) {
  return [along = Along(node)](Call& c) {
    const at::Tensor& x = c.in(0);
    if (along.joined || c.out(0).sizes() != x.sizes())
      return c.set(0, kMake(along.view(x), along.over(), false).view(x.sizes()));
    kOut(c.out(0), x, along.over(), false);
  };
}

Kernel hardmax_kernel(const Node& node) {
  return [along = Along(node)](Call& c) {
    const at::Tensor x = along.view(c.in(0));
    at::Tensor y = at::zeros_like(x);
    if (x.numel()) y.scatter_(along.over(), x.argmax(along.over(), true), 1);
    c.set(0, y.view(c.in(0).sizes()));
  };
}

template <const char* const& kName>
Grads softmax_grad(const Grad& g) {
  return {fused(kName, {g.dy(), g.y()}, Along(g.node()).attrs(g.type(0).rank()))};
}

// SoftmaxGrad(dy, y), LogSoftmaxGrad(dy, y). A row of NaN (all of its scores were -inf) passes nothing on: otherwise a
// NaN that Where has replaced after the softmax would come back as 0 * NaN.
void infer_pair(Infer& c) { c.same_as(0); }

bool may_have_nan(const at::Tensor& y, int64_t axis) {
  if (!y.device().is_cpu() || y.numel() == 0) return y.numel() != 0;
  return at::isnan(y.select(axis, 0)).any().item<bool>();
}

template <at::Tensor (*kBack)(const at::Tensor&, const at::Tensor&, int64_t, at::ScalarType)>
Kernel softmax_back_kernel(const Node& node) {
  return [along = Along(node)](Call& c) {
    const at::Tensor dy = along.view(c.in(0)), y = along.view(c.in(1));
    at::Tensor dx = kBack(dy, y, along.over(), y.scalar_type());
    if (may_have_nan(y, along.over())) dx.masked_fill_(at::isnan(y), 0);
    c.set(0, dx.view(c.in(0).sizes()));
  };
}

Expr without_nan(Expr p) {
  if (p.builder().opset() < 9) return p;
  return where(unary("IsNaN", p), like(p, 0), p);
}

Grads softmax_back_body(const Grad& g) {
  const Expr dy = g.x(0), y = without_nan(g.x(1));
  return {y * (dy - reduce_sum(dy * y, Along(g.node()).axes(g.rank(1)), true))};
}

Grads log_softmax_back_body(const Grad& g) {
  const Expr dy = g.x(0);
  return {dy - without_nan(exp(g.x(1))) * reduce_sum(dy, Along(g.node()).axes(g.rank(1)), true)};
}

constexpr const char* kSoftmaxGrad = "SoftmaxGrad";
constexpr const char* kLogSoftmaxGrad = "LogSoftmaxGrad";

}  // namespace

OpTable softmax_ops() {
  return {
      {.name = "Softmax",
       .infer = infer_softmax,
       .kernel = softmax_kernel<at::_softmax_out, at::_softmax>,
       .bind = bind_softmax<false>,
       .grad = softmax_grad<kSoftmaxGrad>},
      {.name = "LogSoftmax",
       .infer = infer_softmax,
       .kernel = softmax_kernel<at::_log_softmax_out, at::_log_softmax>,
       .bind = bind_softmax<true>,
       .grad = softmax_grad<kLogSoftmaxGrad>},
      {.name = "Hardmax", .infer = infer_softmax, .kernel = hardmax_kernel, .grad = no_grad},
      {.name = "SoftmaxGrad",
       .domain = "ortmod",
       .infer = infer_pair,
       .kernel = softmax_back_kernel<at::_softmax_backward_data>,
       .bind = bind_softmax_grad<false>,
       .body = softmax_back_body},
      {.name = "LogSoftmaxGrad",
       .domain = "ortmod",
       .infer = infer_pair,
       .kernel = softmax_back_kernel<at::_log_softmax_backward_data>,
       .bind = bind_softmax_grad<true>,
       .body = log_softmax_back_body},
  };
}

}  // namespace ortmod
