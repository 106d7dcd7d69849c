// Operators: Dropout and random numbers, drawn from torch's generators unless the node has a seed of its own.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::Tensor;

/// Where a node's numbers come from: torch's generator of the call's device, or one that starts from the node's seed.
struct Source {
  std::optional<at::Generator> generator;
  explicit Source(const Node& n) {
    if (n.has("seed"))
      generator = at::detail::createCPUGenerator(static_cast<uint64_t>(static_cast<int64_t>(n.attr("seed", 0.0))));
  }
  at::TensorOptions options(const Call& c, at::ScalarType t) const {
    return at::TensorOptions().dtype(t).device(generator ? at::Device(at::kCPU) : c.device());
  }
};

DType output_dtype(const Node& n, DType fallback) {
  const int64_t t = n.attr("dtype", 0);
  if (t == 0) return fallback;
  if (!is_known_dtype(static_cast<int>(t)))
    fail(ErrorKind::kType, "infer", "unknown element type in attribute dtype: got " + std::to_string(t), n);
  return static_cast<DType>(t);
}

// Dropout draws when its input training_mode says so; before opset 12 it has none and copies (mode.h rewrites it for
// training).
void infer_dropout(Infer& i) {
  i.same_as(0);
  Type mask = i.type(0);
  if (i.version() >= 10) mask.dtype = DType::kBool;
  i.out(1, std::move(mask));
  for (size_t k = 1; k < i.num_in(); ++k)
    if (i.ranked(k) && is_known(numel(i.dims(k))) && numel(i.dims(k)) != 1)
      i.fail("expected one number: got shape " + to_string(i.dims(k)), static_cast<int>(k));
  const Literal* ratio = i.literal(1);
  const double r = ratio ? ratio->at(0) : i.node.attr("ratio", 0.5);
  if (!(r >= 0 && r <= 1)) i.fail("ratio out of range: got " + std::to_string(r) + ", expected 0 to 1", ratio ? 1 : -1);
}

Kernel dropout_kernel(const Node& n) {
  const double fallback = n.attr("ratio", 0.5);
  const Source source(n);
  return [=](Call& c) {
    const Tensor& x = c.in(0);
    const double ratio = c.has(1) ? c.number(1) : fallback;
    if (!c.has(2) || c.number(2) == 0 || ratio == 0) {
      c.set(0, x);
      if (c.wants(1)) c.set(1, at::ones(x.sizes(), x.options().dtype(at::kBool)));
      return;
    }
    Tensor mask = at::empty(x.sizes(), source.options(c, at::kBool));
    mask.bernoulli_(1 - ratio, source.generator);
    if (mask.device() != x.device()) mask = mask.to(x.device());
    at::mul_out(c.out(0), x, mask);
    c.out(0).mul_(ratio == 1 ? 0 : 1 / (1 - ratio));
    if (c.wants(1)) c.set(1, mask);
  };
}

/// What the elements that stay are multiplied by, 0 for the others; nothing where Dropout only copies.
Expr dropout_factor(const Grad& g) {
  const Literal* training = constant_input(g.node(), 2);
  const bool at_run_time = g.has_x(2) && !training;
  if (!at_run_time && (!training || training->at(0) == 0)) return {};
  const DType t = g.type().dtype;
  const Literal* given = constant_input(g.node(), 1);
  const Expr kept = cast(g.y(1), t);
  Expr scale;
  if (g.has_x(1) && !given) {
    scale = 1.0 / (1.0 - cast(g.x(1), t));
  } else {
    const double ratio = given ? given->at(0) : g.attr("ratio", 0.5);
    scale = like(g.x(), ratio == 1 ? 0 : 1 / (1 - ratio));
  }
  if (at_run_time) scale = where(g.x(2), scale, like(g.x(), 1));
  return kept * scale;
}
Grads dropout_grad(const Grad& g) {
  const Expr factor = dropout_factor(g);
  return {factor ? g.dy() * factor : g.dy()};
}
Grads dropout_replay(const Grad& g) {
  const Expr factor = dropout_factor(g);
  return {factor ? g.x() * factor : g.x()};
}

void infer_shape_attribute(Infer& i) {
  Dims d;
  for (int64_t e : i.node.ints("shape")) {
    if (e < 0) i.fail("negative size in attribute shape: got " + std::to_string(e));
    d.push_back(e);
  }
  i.out(0, output_dtype(i.node, DType::kFloat), std::move(d));
}
void infer_like(Infer& i) {
  Type t = i.type(0);
  t.dtype = output_dtype(i.node, t.dtype);
  i.out(0, std::move(t));
}
void infer_multinomial(Infer& i) {
  const int64_t n = i.node.attr("sample_size", 1);
  if (i.ranked(0) && i.rank(0) != 2) i.fail("expected rank 2 (batch, classes): got " + to_string(i.dims(0)), 0);
  i.out(0, output_dtype(i.node, DType::kInt32), Dims{i.ranked(0) ? i.dims(0)[0] : kAnyDim, n});
}

at::ScalarType sampled_type(at::ScalarType t) { return at::isFloatingType(t) ? t : at::kDouble; }

template <bool kLike>
Kernel normal_kernel(const Node& n) {
  const double mean = n.attr("mean", 0.0), scale = n.attr("scale", 1.0);
  const std::vector<int64_t> shape = n.ints("shape");
  const Source source(n);
  return [=](Call& c) {
    const at::IntArrayRef size = kLike ? c.in(0).sizes() : at::IntArrayRef(shape);
    c.set(0, at::empty(size, source.options(c, sampled_type(c.out(0).scalar_type())))
                 .normal_(mean, scale, source.generator));
  };
}
template <bool kLike>
Kernel uniform_kernel(const Node& n) {
  const double low = n.attr("low", 0.0), high = n.attr("high", 1.0);
  const std::vector<int64_t> shape = n.ints("shape");
  const Source source(n);
  return [=](Call& c) {
    const at::IntArrayRef size = kLike ? c.in(0).sizes() : at::IntArrayRef(shape);
    c.set(
        0,
        at::empty(size, source.options(c, sampled_type(c.out(0).scalar_type()))).uniform_(low, high, source.generator));
  };
}
Kernel bernoulli_kernel(const Node& n) {
  const Source source(n);
  return [source](Call& c) {
    const Tensor p = source.generator ? c.in(0).to(at::kCPU) : c.in(0);
    c.set(0, at::bernoulli(p, source.generator));
  };
}
Kernel multinomial_kernel(const Node& n) {
  const int64_t samples = n.attr("sample_size", 1);
  const Source source(n);
  return [=](Call& c) {
    const Tensor p = at::softmax(source.generator ? c.in(0).to(at::kCPU) : c.in(0), -1, at::kDouble);
    c.set(0,
          p.size(0) == 0 ? at::empty({0, samples}, p.options()) : at::multinomial(p, samples, true, source.generator));
  };
}

}  // namespace

OpTable random_ops() {
  return {
      {.name = "Dropout",
       .infer = infer_dropout,
       .kernel = dropout_kernel,
       .grad = dropout_grad,
       .exact = true,
       .replay = dropout_replay,
       .random = true,
       .host_inputs = 6},
      {.name = "RandomNormal",
       .infer = infer_shape_attribute,
       .kernel = normal_kernel<false>,
       .grad = no_grad,
       .random = true},
      {.name = "RandomUniform",
       .infer = infer_shape_attribute,
       .kernel = uniform_kernel<false>,
       .grad = no_grad,
       .random = true},
      {.name = "RandomNormalLike",
       .infer = infer_like,
       .kernel = normal_kernel<true>,
       .grad = no_grad,
       .random = true,
       .shape_inputs = 1},
      {.name = "RandomUniformLike",
       .infer = infer_like,
       .kernel = uniform_kernel<true>,
       .grad = no_grad,
       .random = true,
       .shape_inputs = 1},
      {.name = "Bernoulli", .infer = infer_like, .kernel = bernoulli_kernel, .grad = no_grad, .random = true},
      {.name = "Multinomial",
       .infer = infer_multinomial,
       .kernel = multinomial_kernel,
       .grad = no_grad,
       .random = true},
  };
}

}  // namespace ortmod
