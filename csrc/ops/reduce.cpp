// Operators: reductions over axes.
#include <ATen/ATen.h>

#include <limits>

#include "ops/bind_rows.h"
#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::IntArrayRef;
using at::Tensor;

void infer_reduce(Infer& i) {
  const DType t = i.dtype(0);
  if (!i.ranked(0)) return i.out_unranked(0, t);
  const bool keep = i.node.attr("keepdims", true), noop = i.node.attr("noop_with_empty_axes", false);
  const Dims& x = i.dims(0);
  const auto rank = static_cast<int64_t>(x.size());
  const auto axes = i.axes(1, rank);
  if (!axes) {
    const Dim n = i.ranked(1) ? numel(i.dims(1)) : kAnyDim;
    if (keep) return i.out(0, t, Dims(x.size(), kAnyDim));
    if (!is_known(n) || n == 0) return i.out_unranked(0, t);
    if (n > rank)
      i.fail("more axes than dimensions: got " + std::to_string(n) + " for rank " + std::to_string(rank), 1);
    return i.out(0, t, Dims(x.size() - static_cast<size_t>(n), kAnyDim));
  }
  if (axes->empty() && noop) return i.out(0, t, x);
  uint64_t reduced = axes->empty() ? ~uint64_t{0} : 0;
  for (int64_t a : *axes) {
    if (reduced >> a & 1) i.fail("an axis is named twice: got " + std::to_string(a));
    reduced |= uint64_t{1} << a;
  }
  Dims d;
  for (size_t k = 0; k < x.size(); ++k) {
    if (!(reduced >> k & 1))
      d.push_back(x[k]);
    else if (keep)
      d.push_back(1);
  }
  i.out(0, t, std::move(d));
}

template <HostFn2 F>
void infer_reduce_host(Infer& i) {
  infer_reduce(i);
  const HostInts* x = i.ints(0);
  if (!x || !is_host_type(i.dtype(0)) || x->dims.size() != 1 || x->v.empty()) return;
  const auto axes = i.axes(1, 1);
  if (!axes || (axes->empty() && i.node.attr("noop_with_empty_axes", false))) return;
  HostInts r;
  if (i.node.attr("keepdims", true)) r.dims.push_back(1);
  Dim acc = x->v[0];
  for (size_t k = 1; k < x->v.size(); ++k) acc = F(acc, x->v[k]);
  r.v.push_back(acc);
  i.out_ints(0, std::move(r));
}

void infer_arg(Infer& i) {
  if (!i.ranked(0)) return i.out_unranked(0, DType::kInt64);
  const auto axis = static_cast<size_t>(i.axis(i.node.attr("axis", 0), std::max(i.rank(0), 1)));
  Dims d = i.dims(0);
  if (!d.empty()) {
    if (i.node.attr("keepdims", true))
      d[axis] = 1;
    else
      d.erase(d.begin() + axis);
  }
  i.out(0, DType::kInt64, std::move(d));
}

/// A reduction over axes that are given, at least one unless the tensor is a scalar.
using Reduce = Tensor (*)(const Tensor& x, IntArrayRef axes, bool keep);
using ReduceOut = Tensor& (*)(Tensor& y, const Tensor& x, IntArrayRef axes, bool keep);

std::vector<int64_t> all_axes(int64_t rank) {
  std::vector<int64_t> r;
  for (int64_t a = 0; a < rank; ++a) r.push_back(a);
  return r;
}

void run_reduce(Call& c, bool keep, bool noop, Reduce f, ReduceOut out) {
  Tensor x = widened(c.in(0));
  std::vector<int64_t> axes = c.axes(1, x.dim());
  if (axes.empty() && noop) {
    axes = {x.dim()};
    x = x.unsqueeze(-1);
    keep = false;
  } else if (axes.empty()) {
    axes = all_axes(x.dim());
  }
  if (out && !is_wide_unsigned(c.in(0))) {
    out(c.out(0), x, axes, keep);
  } else {
    c.set(0, f(x, axes, keep));
  }
}

template <Reduce F, ReduceOut Out = nullptr>
Kernel reduction(const Node& n) {
  const bool keep = n.attr("keepdims", true), noop = n.attr("noop_with_empty_axes", false);
  return [keep, noop](Call& c) { run_reduce(c, keep, noop, F, Out); };
}

bool any_empty(const Tensor& x, IntArrayRef axes) {
  for (int64_t a : axes)
    if (x.size(a) == 0) return true;
  return false;
}

/// What a maximum (sign -1) or minimum (+1) of nothing is.
Tensor extreme_of_nothing(const Tensor& x, IntArrayRef axes, bool keep, int sign) {
  const Tensor shape = at::sum(at::empty_like(x, x.options().dtype(at::kFloat)), axes, keep);
  if (x.is_floating_point())
    return at::full(shape.sizes(), sign * std::numeric_limits<double>::infinity(), x.options());
  if (x.scalar_type() == at::kBool) return at::full(shape.sizes(), sign > 0, x.options());
  const int bits = static_cast<int>(x.element_size()) * 8;
  const bool is_signed = at::isSignedType(x.scalar_type());
  const int64_t top = is_signed ? static_cast<int64_t>(~uint64_t{0} >> (65 - bits)) : (int64_t{1} << bits) - 1;
  return at::full(shape.sizes(), sign > 0 ? top : is_signed ? -top - 1 : 0, x.options());
}

Tensor& sum_out(Tensor& y, const Tensor& x, IntArrayRef axes, bool keep) {
  return at::sum_out(y, x, axes, keep, x.scalar_type());
}
Tensor sum(const Tensor& x, IntArrayRef axes, bool keep) { return at::sum(x, axes, keep, x.scalar_type()); }
Tensor mean(const Tensor& x, IntArrayRef axes, bool keep) {
  if (x.is_floating_point()) return at::mean(x, axes, keep);
  int64_t n = 1;
  for (int64_t a : axes) n *= x.size(a);
  return at::div(sum(x, axes, keep), n, "trunc");
}
Tensor max(const Tensor& x, IntArrayRef axes, bool keep) {
  return any_empty(x, axes) ? extreme_of_nothing(x, axes, keep, -1) : at::amax(x, axes, keep);
}
Tensor min(const Tensor& x, IntArrayRef axes, bool keep) {
  return any_empty(x, axes) ? extreme_of_nothing(x, axes, keep, 1) : at::amin(x, axes, keep);
}
Tensor prod(const Tensor& x, IntArrayRef axes, bool keep) {
  std::vector<int64_t> order, shape, kept;
  int64_t n = 1;
  for (int64_t a = 0; a < x.dim(); ++a) {
    const bool reduced = std::find(axes.begin(), axes.end(), a) != axes.end();
    if (!reduced) {
      order.push_back(a);
      shape.push_back(x.size(a));
    }
    if (!reduced || keep) kept.push_back(reduced ? 1 : x.size(a));
  }
  for (int64_t a : axes) {
    order.push_back(a);
    n *= x.size(a);
  }
  shape.push_back(n);
  return at::prod(x.permute(order).reshape(shape), -1, false, x.scalar_type()).reshape(kept);
}
Tensor l1(const Tensor& x, IntArrayRef axes, bool keep) { return sum(at::abs(x), axes, keep); }
Tensor sum_square(const Tensor& x, IntArrayRef axes, bool keep) { return sum(x * x, axes, keep); }
/// Integers are computed in double, small floats in float; the caller converts back.
Tensor floats(const Tensor& x) {
  if (!x.is_floating_point()) return x.to(at::kDouble);
  return x.element_size() < 4 ? x.to(at::kFloat) : x;
}
Tensor l2(const Tensor& x, IntArrayRef axes, bool keep) { return at::linalg_vector_norm(floats(x), 2, axes, keep); }
Tensor log_sum(const Tensor& x, IntArrayRef axes, bool keep) { return at::log(sum(floats(x), axes, keep)); }
Tensor log_sum_exp(const Tensor& x, IntArrayRef axes, bool keep) { return at::logsumexp(floats(x), axes, keep); }

using Arg = Tensor (*)(const Tensor& x, int64_t axis);
Kernel arg_kernel(const Node& n, Arg f) {
  const int64_t axis = n.attr("axis", 0);
  const bool keep = n.attr("keepdims", true), last = n.attr("select_last_index", false);
  return [=](Call& c) {
    const Tensor x = widened(c.in(0));
    if (x.dim() == 0) return c.set(0, at::zeros({}, x.options().dtype(at::kLong)));
    Tensor r = last ? x.size(axis) - 1 - f(x.flip(axis), axis) : f(x, axis);
    c.set(0, keep ? r : r.squeeze(axis));
  };
}
Kernel arg_max(const Node& n) {
  return arg_kernel(n, [](const Tensor& x, int64_t axis) { return at::argmax(x, axis, true); });
}
Kernel arg_min(const Node& n) {
  return arg_kernel(n, [](const Tensor& x, int64_t axis) { return at::argmin(x, axis, true); });
}

bool keeps(const Grad& g) { return g.attr("keepdims", true); }
bool noop(const Grad& g) { return g.attr("noop_with_empty_axes", false); }

/// True when the axes, given at run time, are none.
Expr no_axes(const Grad& g) { return equal(size(g.x(1)), g.builder().int_scalar(0)); }
bool may_be_empty(const Grad& g) {
  const Type& t = g.type(1);
  return !t.has_rank || !is_known(numel(t.dims)) || numel(t.dims) == 0;
}

/// A value of the result's shape with the reduced dimensions put back as 1.
Expr spread(const Grad& g, Expr v) {
  if (keeps(g)) return v;
  if (const auto axes = g.axes()) return unsqueeze(v, *axes);
  Builder& b = g.builder();
  const Expr s = shape(g.x());
  Expr kept = b.op("ScatterElements", {s, g.x(1), full_like(g.x(1), 1)});
  if (may_be_empty(g) && !noop(g)) kept = where(no_axes(g), full_like(s, 1), kept);
  Attrs attrs;
  if (b.opset() >= 14) attrs.emplace_back("allowzero", int64_t{1});
  return b.op("Reshape", {v, kept}, std::move(attrs));
}

/// The sum over this node's axes, kept as 1.
Expr sum_again(const Grad& g, Expr e) {
  if (const auto axes = g.axes()) return axes->empty() && noop(g) ? e : reduce_sum(e, *axes, true);
  return g.builder().op("ReduceSum", {e, g.x(1)},
                        {{"keepdims", int64_t{1}}, {"noop_with_empty_axes", static_cast<int64_t>(noop(g))}});
}

/// How many elements a result is made of, in the operand's type; nothing: one.
Expr count(const Grad& g) {
  const Expr x = g.x();
  const auto axes = g.axes();
  if (axes && axes->empty()) return noop(g) ? Expr() : cast(size(x), x.dtype());
  if (axes && x.type().has_rank) {
    int64_t n = 1;
    for (int64_t a : *axes) {
      const Dim d = x.type().dims[static_cast<size_t>(a)];
      n = n < 0 || !is_known(d) ? -1 : n * d;
    }
    if (n >= 0) return like(x, static_cast<double>(n));
  }
  const Expr which = axes ? g.builder().ints(*axes) : g.x(1);
  Expr n = reduce("ReduceProd", gather(shape(x), which, 0), {0}, false);
  if (!axes && may_be_empty(g) && !noop(g)) n = where(no_axes(g), size(x), n);
  return cast(n, x.dtype());
}

Expr to_operand(const Grad& g, Expr v) { return expand_like(spread(g, v), g.x()); }

Grads sum_grad(const Grad& g) { return {to_operand(g, g.dy())}; }
Grads mean_grad(const Grad& g) {
  const Expr n = count(g);
  return {to_operand(g, n ? g.dy() / n : g.dy())};
}
// Equal extremes share equally.
Grads extreme_grad(const Grad& g) {
  const Expr hit = cast(equal(g.x(), spread(g, g.y())), g.x().dtype());
  return {hit * (spread(g, g.dy()) / sum_again(g, hit))};
}
// The product of the others: y / x where x != 0; at a zero the product p of what is not zero when it is the only one,
// and p times the other zero when there are two (which is 0, but has a derivative); 0 otherwise.
Grads prod_grad(const Grad& g) {
  const Expr x = g.x(), zero = like(x, 0), one = like(x, 1);
  const Expr is_zero = equal(x, zero);
  const Expr zeros = sum_again(g, cast(is_zero, x.dtype()));
  const Expr others = where(is_zero, one, x);
  const Expr p = spread(g, g.builder().op("ReduceProd", {others, g.x(1)}, g.node().attrs));
  const Expr sum = sum_again(g, where(is_zero, x, zero));
  const Expr at_zero = where(equal(zeros, one), p, where(equal(zeros, like(x, 2)), p * (sum - x), zero));
  return {spread(g, g.dy()) * where(is_zero, at_zero, spread(g, g.y()) / others)};
}
Grads l1_grad(const Grad& g) { return {spread(g, g.dy()) * sign(g.x())}; }
Grads l2_grad(const Grad& g) {
  const Expr y = g.y(), zero = like(y, 0);
  return {g.x() * spread(g, g.dy() / where(equal(y, zero), like(y, 1), y))};
}
Grads sum_square_grad(const Grad& g) { return {2.0 * g.x() * spread(g, g.dy())}; }
Grads log_sum_grad(const Grad& g) { return {to_operand(g, g.dy() / exp(g.y()))}; }
Grads log_sum_exp_grad(const Grad& g) {
  const Expr y = g.y(), nothing = like(y, -std::numeric_limits<double>::infinity());
  const Expr finite = where(equal(y, nothing), like(y, 0), y);
  return {exp(g.x() - spread(g, finite)) * spread(g, g.dy())};
}

OpDef entry(std::string_view name, InferFn infer, KernelFn kernel, GradFn grad, BindFn bind = nullptr) {
  return {.name = name, .infer = infer, .kernel = kernel, .bind = bind, .grad = grad, .exact = true, .host_inputs = 2};
}

}  // namespace

OpTable reduce_ops() {
  return {
      entry("ReduceSum", infer_reduce_host<dim_add>, reduction<sum, sum_out>, sum_grad, bind_reduce<cpu::Reduce::kSum>),
      entry("ReduceMean", infer_reduce, reduction<mean>, mean_grad, bind_reduce<cpu::Reduce::kMean>),
      entry("ReduceMax", infer_reduce_host<dim_max>, reduction<max>, extreme_grad, bind_reduce<cpu::Reduce::kMax>),
      entry("ReduceMin", infer_reduce_host<dim_min>, reduction<min>, extreme_grad, bind_reduce<cpu::Reduce::kMin>),
      entry("ReduceProd", infer_reduce_host<dim_mul>, reduction<prod>, prod_grad, bind_reduce<cpu::Reduce::kProd>),
      entry("ReduceL1", infer_reduce, reduction<l1>, l1_grad, bind_reduce<cpu::Reduce::kL1>),
      entry("ReduceL2", infer_reduce, reduction<l2>, l2_grad, bind_reduce<cpu::Reduce::kL2>),
      entry("ReduceSumSquare", infer_reduce, reduction<sum_square>, sum_square_grad,
            bind_reduce<cpu::Reduce::kSumSquare>),
      entry("ReduceLogSum", infer_reduce, reduction<log_sum>, log_sum_grad),
      entry("ReduceLogSumExp", infer_reduce, reduction<log_sum_exp>, log_sum_exp_grad),
      {.name = "ArgMax", .infer = infer_arg, .kernel = arg_max, .grad = no_grad},
      {.name = "ArgMin", .infer = infer_arg, .kernel = arg_min, .grad = no_grad},
  };
}

}  // namespace ortmod
