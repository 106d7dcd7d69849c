// Operators: negative log-likelihood and softmax cross-entropy, with the gradient that one pass over the classes gives.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "kernels/cpu/loss.h"
#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

enum class Reduction { kNone, kMean, kSum };

Reduction reduction_of(const Node& n) {
  const Attr* a = n.find("reduction");
  const auto* s = a ? std::get_if<std::string>(a) : nullptr;
  if (!s || *s == "mean") return Reduction::kMean;
  if (*s == "sum") return Reduction::kSum;
  if (*s == "none") return Reduction::kNone;
  fail(ErrorKind::kModel, "infer", "reduction is unknown: got \"" + *s + "\", expected none, mean or sum", n);
}

/// Without the attribute every label counts: no label has this number.
int64_t ignored(const Node& n) { return n.attr("ignore_index", std::numeric_limits<int64_t>::min()); }

void infer_loss(Infer& c) {
  const DType t = c.dtype(0);
  const Reduction reduction = reduction_of(c.node);
  if (!is_integer(c.dtype(1))) c.fail("labels must be integers: got " + std::string(dtype_name(c.dtype(1))), 1);
  if (c.ranked(0)) {
    const Dims& x = c.dims(0);
    if (x.size() < 2) c.fail("the operand needs a batch and a class axis: got " + to_string(x), 0);
    Dims want = x;
    want.erase(want.begin() + 1);
    if (c.ranked(1)) {
      const Dims& l = c.dims(1);
      bool fits = l.size() == want.size();
      for (size_t i = 0; fits && i < l.size(); ++i) fits = !differ(l[i], want[i]);
      if (!fits) c.fail("labels do not fit the operand: got " + to_string(l) + ", expected " + to_string(want), 1);
    }
    if (c.has(2) && c.ranked(2) && (c.rank(2) != 1 || differ(c.dims(2)[0], x[1])))
      c.fail("weights do not fit the classes: got " + to_string(c.dims(2)) + ", expected " + to_string(Dims{x[1]}), 2);
  }
  if (reduction != Reduction::kNone)
    c.out(0, t, Dims{});
  else if (c.ranked(1))
    c.out(0, t, c.dims(1));
  else
    c.out_unranked(0, t);
  if (c.node.is("SoftmaxCrossEntropyLoss")) c.out(1, c.type(0));
}

at::Tensor likelihood(const Call& c, const at::Tensor& log_prob, Reduction r, int64_t ignore) {
  const c10::optional<at::Tensor> w = c.has(2) ? c10::optional<at::Tensor>(c.in(2)) : c10::nullopt;
  return at::nll_loss_nd(log_prob, c.in(1).to(at::kLong), w, static_cast<int64_t>(r), ignore);
}

Kernel likelihood_kernel(const Node& node) {
  return [r = reduction_of(node), ignore = ignored(node)](Call& c) { c.set(0, likelihood(c, c.in(0), r, ignore)); };
}

Kernel cross_entropy_kernel(const Node& node) {
  return [r = reduction_of(node), ignore = ignored(node)](Call& c) {
    const at::Tensor log_prob = at::_log_softmax(c.in(0), 1, false);
    c.set(0, likelihood(c, log_prob, r, ignore));
    if (c.wants(1)) c.set(1, log_prob);
  };
}

/// Gradient of the loss by each sample's negative log-likelihood, 0 where the label is ignored: labels' dims.
struct Shares {
  at::Tensor labels, share;  // labels: 0 where ignored
  Shares(const at::Tensor& dloss, const at::Tensor& label, const at::Tensor* weights, Reduction r, int64_t ignore) {
    labels = label.to(at::kLong);
    const at::Tensor valid = labels.ne(ignore);
    labels = at::where(valid, labels, at::zeros({}, labels.options()));
    at::Tensor w = weights ? weights->index_select(0, labels.reshape({-1})).view(labels.sizes())
                           : at::ones_like(labels, dloss.options());
    w = w.masked_fill(valid.logical_not(), 0);
    share = (r == Reduction::kMean ? w / w.sum() : w) * dloss;
    share = share.masked_fill(valid.logical_not(), 0);
  }
};

// SoftmaxCrossEntropyGrad(dloss, log_prob, labels, weights?) -> gradient of the scores.
void infer_cross_entropy_back(Infer& c) { c.out(0, c.type(1)); }

Kernel cross_entropy_back_kernel(const Node& node) {
  return [r = reduction_of(node), ignore = ignored(node)](Call& c) {
    const at::Tensor& log_prob = c.in(1);
    const Shares s(c.in(0), c.in(2), c.has(3) ? &c.in(3) : nullptr, r, ignore);
    const at::Tensor share = s.share.to(log_prob.scalar_type()).contiguous();
    at::Tensor dx = at::exp(log_prob);
    const bool fast = dx.device().is_cpu() && (dx.scalar_type() == at::kFloat || dx.scalar_type() == at::kDouble);
    if (!fast) {
      dx.mul_(share.unsqueeze(1));
      dx.scatter_add_(1, s.labels.unsqueeze(1), share.unsqueeze(1).neg());
      return c.set(0, dx);
    }
    const int64_t n = dx.size(0), classes = dx.size(1), inner = dx.numel() ? dx.numel() / (n * classes) : 0;
    const at::Tensor label_rows = s.labels.contiguous();
    const int64_t* label = label_rows.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(dx.scalar_type(), "cross_entropy_grad", [&] {
      scalar_t* p = dx.mutable_data_ptr<scalar_t>();
      const scalar_t* w = share.const_data_ptr<scalar_t>();
      at::parallel_for(0, n, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, classes * inner)),
                       [&](int64_t b, int64_t e) {
                         for (int64_t i = b; i < e; ++i) {
                           scalar_t* rows = p + i * classes * inner;
                           for (int64_t k = 0; k < classes; ++k)
                             for (int64_t j = 0; j < inner; ++j) rows[k * inner + j] *= w[i * inner + j];
                           for (int64_t j = 0; j < inner; ++j)
                             rows[label[i * inner + j] * inner + j] -= w[i * inner + j];
                         }
                       });
    });
    c.set(0, dx);
  };
}

struct CrossEntropyArgs {
  Operand x, labels, weights, log_prob, loss;  // backward: dloss, labels, weights, log_prob, dx
  int64_t ignore, rows, cols;
  cpu::Total total;
};
template <class T, class L>
struct CrossEntropy {
  static void forward(const CrossEntropyArgs& a, char* const* base) {
    cpu::cross_entropy<T, L>(a.x.ptr<T>(base), a.labels.ptr<L>(base), a.weights ? a.weights.ptr<T>(base) : nullptr,
                             a.ignore, a.log_prob.ptr<T>(base), a.loss.ptr<T>(base), a.rows, a.cols, a.total);
  }
  static void backward(const CrossEntropyArgs& a, char* const* base) {
    cpu::cross_entropy_grad<T, L>(a.x.ptr<T>(base), a.log_prob.ptr<T>(base), a.labels.ptr<L>(base),
                                  a.weights ? a.weights.ptr<T>(base) : nullptr, a.ignore, a.loss.ptr<T>(base), a.rows,
                                  a.cols, a.total);
  }
};

/// Static steps where classes are the last axis and labels have 32 or 64 bits.
template <bool kBackward>
bool bind_cross_entropy(Bind& b) {
  const size_t scores = kBackward ? 1 : 0, labels = kBackward ? 2 : 1, weights = kBackward ? 3 : 2;
  const DType t = b.dtype(scores), l = b.dtype(labels);
  const Dims& d = b.dims(scores);
  if (d.size() != 2 || d[1] == 0 || !b.wants(0) || (t != DType::kFloat && t != DType::kDouble) ||
      (l != DType::kInt64 && l != DType::kInt32))
    return false;
  if (b.has(weights) && b.dtype(weights) != t) return false;
  const Reduction r = reduction_of(b.node);
  CrossEntropyArgs a{};
  a.total = r == Reduction::kNone ? cpu::Total::kNone : r == Reduction::kMean ? cpu::Total::kMean : cpu::Total::kSum;
  a.ignore = ignored(b.node);
  a.rows = d[0];
  a.cols = d[1];
  a.x = b.in(0);
  a.labels = b.in(labels);
  if (b.has(weights)) a.weights = b.in(weights);
  if (kBackward && b.dtype(0) != t) return false;
  a.log_prob = kBackward    ? b.in(1)
               : b.wants(1) ? b.out(1)
                            : b.scratch(static_cast<size_t>(d[0] * d[1]) * dtype_size(t));
  a.loss = b.out(0);
  const auto emit = [&]<class T>(T) {
    const auto of = [&]<class L>(L) {
      b.emit(kBackward ? CrossEntropy<T, L>::backward : CrossEntropy<T, L>::forward, a);
    };
    if (l == DType::kInt64)
      of(int64_t{});
    else
      of(int32_t{});
  };
  if (t == DType::kFloat)
    emit(0.0F);
  else
    emit(0.0);
  return true;
}

// NllLossGrad(dloss, labels, shape of the operand, weights?) -> gradient of the log-probabilities.
void infer_likelihood_back(Infer& c) {
  if (const HostInts* s = c.ints(2)) return c.out(0, c.dtype(0), Dims(s->v.begin(), s->v.end()));
  if (c.ranked(1)) return c.out(0, c.dtype(0), Dims(c.dims(1).size() + 1, kAnyDim));
  c.out_unranked(0, c.dtype(0));
}

Kernel likelihood_back_kernel(const Node& node) {
  return [r = reduction_of(node), ignore = ignored(node)](Call& c) {
    const Shares s(c.in(0), c.in(1), c.has(3) ? &c.in(3) : nullptr, r, ignore);
    at::Tensor dx = at::zeros(c.ints(2), c.in(0).options());
    dx.scatter_(1, s.labels.unsqueeze(1), s.share.to(dx.scalar_type()).unsqueeze(1).neg());
    c.set(0, dx);
  };
}

/// The pieces of a gradient in standard operators.
struct Pieces {
  Expr valid, hit, weight;  // hit: bool, [N, C, ..]; weight: [N, ..], 0 where ignored
  Pieces(Expr label, Expr weights, Expr classes, DType t, int rank, const Node& node) {
    Builder& b = label.builder();
    const Expr labels = cast(label, DType::kInt64);
    Expr safe = labels;
    if (node.has("ignore_index")) {
      valid = logical_not(equal(labels, b.int_scalar(ignored(node))));
      safe = where(valid, labels, b.int_scalar(0));
    }
    std::vector<int64_t> column(static_cast<size_t>(rank), 1);
    column[1] = -1;
    const Expr ids = reshape(b.op("Range", {b.int_scalar(0), squeeze(classes, {0}), b.int_scalar(1)}), column);
    hit = equal(unsqueeze(labels, {1}), ids);
    if (weights) weight = cast(gather(weights, safe, 0), t);
    if (valid) weight = weight ? where(valid, weight, b.scalar(0, t)) : cast(valid, t);
  }
};

Expr share_of(const Pieces& p, Expr dloss, Expr labels, Reduction r) {
  Expr s = p.weight ? p.weight * dloss : dloss;
  if (r == Reduction::kMean) {
    const Expr total = p.weight ? reduce_sum(p.weight, {}, false) : cast(size(labels), dloss.dtype());
    s = s / total;
  }
  if (r != Reduction::kNone && !p.weight) s = expand(s, shape(labels));
  return p.valid ? where(p.valid, s, like(s, 0)) : s;
}

Grads cross_entropy_back_body(const Grad& g) {
  const Expr log_prob = g.x(1);
  const Pieces p(g.x(2), g.has_x(3) ? g.x(3) : Expr(), dim(log_prob, 1), log_prob.dtype(), g.rank(1), g.node());
  const Expr share = unsqueeze(share_of(p, g.x(0), g.x(2), reduction_of(g.node())), {1});
  return {(exp(log_prob) - cast(p.hit, log_prob.dtype())) * share};
}

Grads likelihood_back_body(const Grad& g) {
  const Expr x_shape = g.x(2);
  const DType t = g.type(0).dtype;
  const Value* v = x_shape.value();
  const Expr classes =
      v->is_constant() ? g.builder().ints({v->literal->to_ints()[1]}) : gather(x_shape, g.builder().ints({1}), 0);
  const Pieces p(g.x(1), g.has_x(3) ? g.x(3) : Expr(), classes, t, g.rank(1) + 1, g.node());
  const Expr share = unsqueeze(share_of(p, g.x(0), g.x(1), reduction_of(g.node())), {1});
  return {-(share * cast(p.hit, t))};
}

/// Gradient of the class weights: of sum(w nll), or of that divided by sum(w).
Expr weight_grad(const Grad& g, Expr log_prob) {
  const DType t = log_prob.dtype();
  const int rank = g.rank(0);
  const Reduction r = reduction_of(g.node());
  const Pieces p(g.x(1), g.x(2), dim(g.x(0), 1), t, rank, g.node());
  const Expr hit = cast(p.hit, t);
  Expr each = -reduce_sum(where(p.hit, log_prob, like(log_prob, 0)), {1}, false);
  if (r == Reduction::kMean) each = (each - g.y(0)) / reduce_sum(p.weight, {}, false);
  each = each * g.dy(0);
  if (p.valid) each = where(p.valid, each, like(each, 0));
  std::vector<int64_t> axes{0};
  for (int i = 2; i < rank; ++i) axes.push_back(i);
  return cast(reduce_sum(hit * unsqueeze(each, {1}), axes, false), g.type(2).dtype);
}

Grads cross_entropy_grad(const Grad& g) {
  const Attrs attrs = copy_attrs(g.node(), {"reduction", "ignore_index"});
  const Expr log_prob = g.y(1);
  Grads r(g.num_inputs());
  if (g.needs(0) && g.dy(0))
    r[0] = fused("SoftmaxCrossEntropyGrad", {g.dy(0), log_prob, g.x(1), g.has_x(2) ? g.x(2) : Expr()}, attrs);
  if (g.needs(0) && g.dy(1)) {
    const Expr more = fused("LogSoftmaxGrad", {g.dy(1), log_prob}, {{"axis", int64_t{1}}});
    r[0] = r[0] ? r[0] + more : more;
  }
  if (g.needs(2) && g.dy(0)) r[2] = weight_grad(g, log_prob);
  return r;
}

Grads likelihood_grad(const Grad& g) {
  const Attrs attrs = copy_attrs(g.node(), {"reduction", "ignore_index"});
  Grads r(g.num_inputs());
  if (g.needs(0)) r[0] = fused("NllLossGrad", {g.dy(0), g.x(1), shape(g.x(0)), g.has_x(2) ? g.x(2) : Expr()}, attrs);
  if (g.needs(2)) r[2] = weight_grad(g, g.x(0));
  return r;
}

}  // namespace

OpTable loss_ops() {
  return {
      {.name = "SoftmaxCrossEntropyLoss",
       .since = 12,
       .infer = infer_loss,
       .kernel = cross_entropy_kernel,
       .bind = bind_cross_entropy<false>,
       .grad = cross_entropy_grad},
      {.name = "NegativeLogLikelihoodLoss",
       .since = 12,
       .infer = infer_loss,
       .kernel = likelihood_kernel,
       .grad = likelihood_grad},
      {.name = "SoftmaxCrossEntropyGrad",
       .domain = "ortmod",
       .infer = infer_cross_entropy_back,
       .kernel = cross_entropy_back_kernel,
       .bind = bind_cross_entropy<true>,
       .body = cross_entropy_back_body},
      {.name = "NllLossGrad",
       .domain = "ortmod",
       .infer = infer_likelihood_back,
       .kernel = likelihood_back_kernel,
       .body = likelihood_back_body,
       .host_inputs = 4},
  };
}

}  // namespace ortmod
