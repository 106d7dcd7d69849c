// Operators: BatchNormalization in inference and training form.
#include <ATen/ATen.h>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

/// Before opset 14 the number of outputs decides.
bool is_training(const Node& n) {
  if (n.version >= 14) return n.attr("training_mode", false);
  for (size_t i = 1; i < n.outputs.size(); ++i)
    if (n.outputs[i]) return true;
  return false;
}

DType wide(DType t) { return t == DType::kHalf || t == DType::kBFloat16 ? DType::kFloat : t; }

/// Batch statistics are kept in float32 for narrow types.
void infer_channels(Infer& c, size_t first, size_t last) {
  if (!c.ranked(0)) return;
  const Dims& x = c.dims(0);
  if (x.empty()) c.fail("the operand needs a batch axis: got " + to_string(x), 0);
  const Dim channels = x.size() == 1 ? 1 : x[1];
  for (size_t i = first; i <= last; ++i)
    if (c.has(i) && c.ranked(i) && (c.rank(i) != 1 || differ(c.dims(i)[0], channels)))
      c.fail("one element per channel: got " + to_string(c.dims(i)) + ", expected " + to_string(Dims{channels}),
             static_cast<int>(i));
}

Dims channel_dims(const Infer& c) {
  if (c.ranked(1)) return c.dims(1);
  return Dims{c.ranked(0) && c.rank(0) > 1 ? c.dims(0)[1] : kAnyDim};
}

/// Statistics of one number are none (torch refuses it in these words).
void check_batch(const Infer& c) {
  if (!c.ranked(0)) return;
  const Dims& x = c.dims(0);
  for (size_t k = 0; k < x.size(); ++k)
    if (k != 1 && x[k] != 1) return;
  c.fail("Expected more than 1 value per channel when training, got input size " + to_string(x), 0,
         "use a larger batch, or eval()");
}

void infer_batch_norm(Infer& c) {
  infer_channels(c, 1, 4);
  if (is_training(c.node)) check_batch(c);
  if (!c.node.attr("spatial", true)) c.fail("spatial=0 is not supported: statistics must be per channel");
  c.same_as(0);
  if (!c.has(3) || !c.has(4)) c.fail("mean and variance are missing", c.has(3) ? 4 : 3);
  for (size_t o = 1; o < 5 && o < c.num_out(); ++o) c.out(o, o % 2 ? c.dtype(3) : c.dtype(4), channel_dims(c));
}

// BatchNormTrain(x, scale, bias, mean, var) -> y, mean', var', batch mean, 1 / sqrt(batch var + epsilon).
void infer_batch_norm_train(Infer& c) {
  infer_channels(c, 1, 4);
  check_batch(c);
  c.same_as(0);
  c.out(1, c.dtype(3), channel_dims(c));
  c.out(2, c.dtype(4), channel_dims(c));
  c.out(3, wide(c.dtype(0)), channel_dims(c));
  c.out(4, wide(c.dtype(0)), channel_dims(c));
}

struct Operands {
  at::Tensor x, scale, bias, mean, var;
  explicit Operands(const Call& c) : x(c.in(0)) {
    if (x.dim() == 1) x = x.unsqueeze(1);
    const at::ScalarType t = to_scalar_type(wide(from_scalar_type(x.scalar_type())));
    scale = c.in(1).to(t);
    bias = c.in(2).to(t);
    mean = c.in(3).to(t);
    var = c.in(4).to(t);
  }
};

std::vector<int64_t> all_but_channels(int64_t rank) {
  std::vector<int64_t> r{0};
  for (int64_t i = 2; i < rank; ++i) r.push_back(i);
  return r;
}

/// Statistics of the batch: mean, variance over n elements (torch: n - 1 for the running variance).
struct Trained {
  at::Tensor y, mean, var, batch_mean, batch_invstd, batch_var;
};

Trained train(const Operands& in, double epsilon, double momentum, bool unbiased, bool wants_var) {
  Trained r;
  at::Tensor mean = in.mean.clone(), var = in.var.clone();
  std::tie(r.y, r.batch_mean, r.batch_invstd) =
      at::native_batch_norm(in.x, in.scale, in.bias, mean, var, true, 1 - momentum, epsilon);
  if (!unbiased || wants_var) {
    const at::Tensor wide = in.x.to(in.mean.scalar_type());
    r.batch_var =
        at::var(wide, at::OptionalIntArrayRef(all_but_channels(wide.dim())), c10::optional<at::Scalar>(0), false);
  }
  r.mean = mean;
  r.var = unbiased ? var : in.var * momentum + r.batch_var * (1 - momentum);
  return r;
}

Kernel batch_norm_kernel(const Node& node) {
  const double epsilon = node.attr("epsilon", 1e-5), momentum = node.attr("momentum", 0.9);
  const bool training = is_training(node);
  return [=](Call& c) {
    const Operands in(c);
    if (!training) {
      const at::Tensor y =
          std::get<0>(at::native_batch_norm(in.x, in.scale, in.bias, in.mean, in.var, false, 0, epsilon));
      return c.set(0, y.view(c.in(0).sizes()));
    }
    const Trained r = train(in, epsilon, momentum, false, true);
    c.set(0, r.y.view(c.in(0).sizes()));
    c.set(1, r.mean);
    c.set(2, r.var);
    c.set(3, r.batch_mean);
    c.set(4, r.batch_var);
  };
}

Kernel batch_norm_train_kernel(const Node& node) {
  const double epsilon = node.attr("epsilon", 1e-5), momentum = node.attr("momentum", 0.9);
  const bool unbiased = node.attr("unbiased", true);
  return [=](Call& c) {
    const Trained r = train(Operands(c), epsilon, momentum, unbiased, false);
    c.set(0, r.y.view(c.in(0).sizes()));
    c.set(1, r.mean);
    c.set(2, r.var);
    c.set(3, r.batch_mean);
    c.set(4, r.batch_invstd);
  };
}

std::vector<int64_t> reduced(const Grad& g) {
  std::vector<int64_t> r{0};
  for (int i = 2; i < g.rank(0); ++i) r.push_back(i);
  return r;
}

/// [C] as [C, 1, ..] against the operand.
Expr per_channel(Expr v, int rank) {
  std::vector<int64_t> axes;
  for (int i = 1; i < rank - 1; ++i) axes.push_back(i);
  return unsqueeze(v, axes);
}

struct Batch {
  Expr mean, invstd;
};

/// Mean and 1 / sqrt(var + epsilon) of a batch, in the type of x or wider.
Batch statistics(const Grad& g, Expr x, double epsilon) {
  const Expr wide_x = cast(x, wide(x.dtype()));
  const std::vector<int64_t> axes = reduced(g);
  const int rank = g.rank(0);
  const Expr mean = reduce_mean(wide_x, axes, rank == 1);  // of [N], the one channel's statistics are [1]
  const Expr var = reduce_mean(square(wide_x - per_channel(mean, rank)), axes, rank == 1);
  return {mean, reciprocal(sqrt(var + epsilon))};
}

Grads batch_norm_train_body(const Grad& g) {
  const double epsilon = g.attr("epsilon", 1e-5), momentum = g.attr("momentum", 0.9);
  const Expr x = g.x(0), old_mean = g.x(3), old_var = g.x(4);
  const Batch s = statistics(g, x, epsilon);
  const DType t = s.mean.dtype();
  const int rank = g.rank(0);
  const Expr factor = s.invstd * cast(g.x(1), t);
  const Expr y =
      (cast(x, t) - per_channel(s.mean, rank)) * per_channel(factor, rank) + per_channel(cast(g.x(2), t), rank);
  Expr var = reduce_mean(square(cast(x, t) - per_channel(s.mean, rank)), reduced(g), rank == 1);
  if (g.attr("unbiased", int64_t{1})) {
    const Expr n = cast(size(x), t) / cast(size(g.x(1)), t);
    var = var * (n / (n - 1.0));
  }
  const auto next = [&](Expr old, Expr batch) { return old * momentum + cast(batch, old.dtype()) * (1 - momentum); };
  return {cast(y, x.dtype()), next(old_mean, s.mean), next(old_var, var), s.mean, s.invstd};
}

/// Gradients that enter by the statistics themselves (second order, or a loss on them).
Expr from_statistics(const Grad& g, Expr mean, Expr invstd, Expr d_mean, Expr d_invstd) {
  if (!d_mean && !d_invstd) return {};
  const Expr x = g.x(0);
  const int rank = g.rank(0);
  const DType t = mean.dtype();
  const Expr n = cast(size(x), t) / cast(size(g.x(1)), t);
  Expr r;
  if (d_mean) r = per_channel(cast(d_mean, t) / n, rank);
  if (d_invstd) {
    // d invstd / dx = -invstd^3 (x - mean) / n
    const Expr scaled = cast(d_invstd, t) * invstd * square(invstd) / n;
    const Expr part = -((cast(x, t) - per_channel(mean, rank)) * per_channel(scaled, rank));
    r = r ? r + part : part;
  }
  return r;
}

Grads training_grad(const Grad& g, Expr mean, Expr invstd, Expr d_mean, Expr d_invstd, double momentum) {
  const Expr x = g.x(0);
  Grads r(5);
  if (g.dy(0)) {
    const std::vector<Expr> d = fused_multi("BatchNormGrad", {g.dy(0), x, g.x(1), mean, invstd}, 3);
    for (size_t i = 0; i < 3; ++i)
      if (g.needs(i)) r[i] = d[i];
  }
  if (g.needs(0)) {
    if (Expr more = from_statistics(g, mean, invstd, d_mean, d_invstd)) {
      more = cast(more, x.dtype());
      r[0] = r[0] ? r[0] + more : more;
    }
  }
  // Running statistics: new = old * momentum + batch * (1 - momentum); their dependence on x is not followed.
  for (size_t i : {1, 2})
    if (g.needs(i + 2) && g.dy(i)) r[i + 2] = g.dy(i) * momentum;
  return r;
}

Grads batch_norm_train_grad(const Grad& g) {
  return training_grad(g, g.y(3), g.y(4), g.dy(3), g.dy(4), g.attr("momentum", 0.9));
}

Grads batch_norm_grad(const Grad& g) {
  const double epsilon = g.attr("epsilon", 1e-5);
  const Expr x = g.x(0), scale = g.x(1);
  if (is_training(g.node())) {
    for (size_t i = 3; i < 5; ++i)
      if (g.dy(i)) g.fail("gradients through saved statistics are not supported");
    const Attrs attrs = copy_attrs(g.node(), {"epsilon", "momentum"});
    const std::vector<Expr> again = fused_multi("BatchNormTrain", {x, scale, g.x(2), g.x(3), g.x(4)}, 5, attrs);
    return training_grad(g, again[3], again[4], {}, {}, g.attr("momentum", 0.9));
  }
  const int rank = g.rank(0);
  const DType t = x.dtype();
  const Expr dy = g.dy(0), mean = cast(g.x(3), t), var = cast(g.x(4), t), s = cast(scale, t);
  const Expr invstd = reciprocal(sqrt(var + epsilon));
  const std::vector<int64_t> axes = reduced(g);
  Grads r(5);
  if (g.needs(0)) r[0] = dy * per_channel(s * invstd, rank);
  if (g.needs(2) || g.needs(3)) r[2] = reduce_sum(dy, axes, rank == 1);
  if (g.needs(1) || g.needs(4)) r[1] = reduce_sum(dy * (x - per_channel(mean, rank)), axes, rank == 1) * invstd;
  if (g.needs(3)) r[3] = -(r[2] * s * invstd);
  if (g.needs(4)) r[4] = r[1] * s * square(invstd) * -0.5;
  return r;
}

// BatchNormGrad(dy, x, scale, mean, invstd) -> dx, dscale, dbias, of statistics that come from x.
void infer_batch_norm_back(Infer& c) {
  c.out(0, c.type(1));
  c.out(1, c.type(2));
  c.out(2, c.type(2));
}

Kernel batch_norm_back_kernel(const Node&) {
  return [](Call& c) {
    at::Tensor dy = c.in(0), x = c.in(1);
    if (x.dim() == 1) {
      x = x.unsqueeze(1);
      dy = dy.unsqueeze(1);
    }
    const at::ScalarType t = c.in(3).scalar_type();
    const auto [dx, dscale, dbias] =
        at::native_batch_norm_backward(dy, x, c.in(2).to(t), c10::nullopt, c10::nullopt, c.in(3), c.in(4), true, 0,
                                       {c.wants(0), c.wants(1), c.wants(2)});
    if (c.wants(0)) c.set(0, dx.view(c.in(1).sizes()));
    if (c.wants(1)) c.set(1, dscale);
    if (c.wants(2)) c.set(2, dbias);
  };
}

Grads batch_norm_back_body(const Grad& g) {
  const Expr mean = g.x(3), invstd = g.x(4);
  const DType t = mean.dtype();
  const Expr dy = cast(g.x(0), t), x = cast(g.x(1), t), scale = cast(g.x(2), t);
  const int rank = g.rank(1);
  std::vector<int64_t> axes{0};
  for (int i = 2; i < rank; ++i) axes.push_back(i);
  const Expr xhat = (x - per_channel(mean, rank)) * per_channel(invstd, rank);
  const Expr n = cast(size(x), t) / cast(size(scale), t);
  const Expr dbias = reduce_sum(dy, axes, rank == 1), dscale = reduce_sum(dy * xhat, axes, rank == 1);
  const Expr inner = dy - per_channel(dbias / n, rank) - xhat * per_channel(dscale / n, rank);
  return {cast(inner * per_channel(scale * invstd, rank), g.type(1).dtype), cast(dscale, g.type(2).dtype),
          cast(dbias, g.type(2).dtype)};
}

}  // namespace

OpTable batch_norm_ops() {
  return {
      {.name = "BatchNormalization",
       .since = 7,
       .infer = infer_batch_norm,
       .kernel = batch_norm_kernel,
       .grad = batch_norm_grad,
       .limits = "statistics per channel (spatial=1)"},
      {.name = "BatchNormTrain",
       .domain = "ortmod",
       .infer = infer_batch_norm_train,
       .kernel = batch_norm_train_kernel,
       .grad = batch_norm_train_grad,
       .body = batch_norm_train_body},
      {.name = "BatchNormGrad",
       .domain = "ortmod",
       .infer = infer_batch_norm_back,
       .kernel = batch_norm_back_kernel,
       .body = batch_norm_back_body},
  };
}

}  // namespace ortmod
