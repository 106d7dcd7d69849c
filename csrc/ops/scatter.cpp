// Operators: Scatter, ScatterElements, ScatterND (none, add, mul, max, min), OneHot, TensorScatter.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/index_kernels.h"
#include "ops/indexing.h"
#include "ops/old_form.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

enum class Reduction : uint8_t { kNone, kAdd, kMul, kMax, kMin };

Reduction reduction_of(const Node& n) {
  const std::string r = n.attr("reduction", "none");
  if (r == "add") return Reduction::kAdd;
  if (r == "mul") return Reduction::kMul;
  if (r == "max") return Reduction::kMax;
  if (r == "min") return Reduction::kMin;
  if (r != "none") fail(ErrorKind::kModel, "infer", "unknown reduction: got \"" + r + "\"", n);
  return Reduction::kNone;
}

c10::string_view name_of(Reduction r) {
  switch (r) {
    case Reduction::kMul:
      return "prod";
    case Reduction::kMax:
      return "amax";
    case Reduction::kMin:
      return "amin";
    default:
      return "sum";
  }
}

void scatter_elements_infer(Infer& c) {
  if (c.ranked(0)) {
    c.axis(c.node.attr("axis", 0), c.rank(0));
    for (size_t i : {1, 2})
      if (c.ranked(i) && c.rank(i) != c.rank(0))
        c.fail("ranks differ: got " + std::to_string(c.rank(i)) + ", expected " + std::to_string(c.rank(0)),
               static_cast<int>(i));
  }
  if (c.ranked(1) && c.ranked(2))
    for (size_t i = 0; i < c.dims(1).size(); ++i)
      if (!equal_dim(c.dims(1)[i], c.dims(2)[i]))
        c.fail(
            "indices and updates differ in shape: got " + to_string(c.dims(2)) + ", expected " + to_string(c.dims(1)),
            2);
  c.same_as(0);
}

Kernel scatter_elements_kernel(const Node& n) {
  return [axis = n.attr("axis", 0), reduction = reduction_of(n)](Call& c) {
    const at::Tensor& x = c.in(0);
    const int64_t a = axis < 0 ? axis + x.dim() : axis;
    const at::Tensor i = wrapped_indices(c, 1, x.size(a));
    at::Tensor& y = c.out(0);
    if (y.sizes() != x.sizes()) y.resize_(x.sizes());
    y.copy_(x);
    if (i.numel() == 0) return;
    if (reduction == Reduction::kNone)
      y.scatter_(a, i, c.in(2));
    else if (reduction == Reduction::kAdd)
      y.scatter_add_(a, i, c.in(2));
    else
      y.scatter_reduce_(a, i, c.in(2), name_of(reduction), true);
  };
}

void scatter_nd_infer(Infer& c) {
  if (c.ranked(0) && c.ranked(1)) {
    if (c.rank(1) < 1 || c.rank(0) < 1)
      c.fail("expected ranks of 1 or more: got " + to_string(c.dims(0)) + " and " + to_string(c.dims(1)), 1);
    const Dim k = c.dims(1).back();
    if (is_known(k) && (k < 1 || k > c.rank(0)))
      c.fail("an index has " + std::to_string(k) + " entries, expected 1 to " + std::to_string(c.rank(0)), 1);
    if (is_known(k) && c.ranked(2)) {
      Dims want(c.dims(1).begin(), c.dims(1).end() - 1);
      want.append(c.dims(0).begin() + k, c.dims(0).end());
      bool same = want.size() == c.dims(2).size();
      for (size_t i = 0; same && i < want.size(); ++i) same = equal_dim(want[i], c.dims(2)[i]).has_value();
      if (!same)
        c.fail("updates have the wrong shape: got " + to_string(c.dims(2)) + ", expected " + to_string(want), 2);
    }
  }
  c.same_as(0);
}

Kernel scatter_nd_kernel(const Node& n) {
  return [reduction = reduction_of(n)](Call& c) {
    const at::Tensor& x = c.in(0);
    const Rows rows = rows_of(c, x.sizes(), 1, 0);
    at::Tensor& y = c.out(0);
    if (y.sizes() != x.sizes()) y.resize_(x.sizes());
    y.copy_(x);
    if (c.in(2).numel() == 0) return;
    at::Tensor dst = y.view({rows.count, rows.width});
    const at::Tensor u = c.in(2).reshape({rows.index.numel(), rows.width});
    if (reduction == Reduction::kNone)
      dst.index_copy_(0, rows.index, u);
    else if (reduction == Reduction::kAdd)
      dst.index_add_(0, rows.index, u);
    else
      dst.scatter_reduce_(0, rows.index.unsqueeze(1).expand_as(u), u, name_of(reduction), true);
  };
}

/// What the two forms differ in: how values are picked at the indices and put there.
struct Access {
  Builder& b;
  Expr indices;
  std::string_view scatter_op, gather_op;
  Attrs attrs;
  Expr updates;
  /// Values of t at the indices, shaped like the updates.
  Expr pick(Expr t) const {
    const Expr p = b.op(gather_op, {t, indices}, attrs);
    return p.type().has_rank ? p : reshape_like(p, updates);
  }
  Expr put(Expr base, Expr u, std::string_view reduction = "") const {
    Attrs a = attrs;
    if (!reduction.empty()) a.emplace_back("reduction", std::string(reduction));
    return b.op(scatter_op, {base, indices, u}, std::move(a));
  }
};

Grads scatter_gradient(const Grad& g, const Access& at) {
  const Expr dy = g.dy(), x = g.x(0), u = g.x(2);
  Grads r(3);
  switch (reduction_of(g.node())) {
    case Reduction::kNone:
      if (g.needs(0)) r[0] = at.put(dy, zeros_like(u));
      if (g.needs(2)) r[2] = at.pick(dy);
      break;
    case Reduction::kAdd:
      r[0] = dy;
      if (g.needs(2)) r[2] = at.pick(dy);
      break;
    case Reduction::kMul: {
      // products of the other factors, exact when factors are zero: P over the non-zero ones, Z counts the zeros
      const Expr zero = equal(u, like(u, 0)), is_zero = cast(zero, u.dtype());
      const Expr p = at.put(full_like(x, 1), where(zero, like(u, 1), u), "mul"),
                 z = at.put(zeros_like(x), is_zero, "add");
      const Expr none = like(x, 0);
      if (g.needs(0)) r[0] = dy * where(greater(z, none), none, p);
      if (g.needs(2)) {
        const Expr others = where(greater(at.pick(z) - is_zero, none), none, at.pick(p * x * dy));
        r[2] = others / where(zero, like(u, 1), u);
      }
      break;
    }
    default: {
      const Expr y = g.y(), won = cast(equal(x, y), x.dtype()), u_won = cast(equal(u, at.pick(y)), u.dtype());
      const Expr share = dy / at.put(won, u_won, "add");
      if (g.needs(0)) r[0] = won * share;
      if (g.needs(2)) r[2] = u_won * at.pick(share);
    }
  }
  return r;
}

Grads scatter_elements_grad(const Grad& g) {
  Builder& b = g.builder();
  const Attrs axis = {{"axis", g.attr("axis", 0)}};
  if (b.opset() >= 11) return scatter_gradient(g, {b, g.x(1), "ScatterElements", "GatherElements", axis, g.x(2)});
  Grads r(3);
  const int64_t a = g.attr("axis", 0) < 0 ? g.attr("axis", 0) + g.rank() : g.attr("axis", 0);
  if (g.needs(0)) r[0] = b.op("Scatter", {g.dy(), g.x(1), zeros_like(g.x(2))}, axis);
  if (!g.needs(2)) return r;
  cheaper_from(11, "a sum over one-hot masks in place of GatherElements");
  // no GatherElements before opset 11: sum over j of [index = j] dy_j, dy cut to the other axes of the indices
  Expr dy = g.dy();
  for (int64_t i = 0; i < g.rank(); ++i) {
    if (i == a || (g.dims(0)[static_cast<size_t>(i)] == g.dims(2)[static_cast<size_t>(i)] &&
                   g.dims(0)[static_cast<size_t>(i)] != kAnyDim))
      continue;
    dy = cut(dy, Expr(), dim(g.x(2), i), i);
  }
  r[2] = reduce_sum(one_hot(g.x(1), dim(g.x(0), a), a, dy.dtype()) * unsqueeze(dy, {a + 1}), {a}, false);
  return r;
}

Grads scatter_nd_grad(const Grad& g) {
  return scatter_gradient(g, {g.builder(), g.x(1), "ScatterND", "GatherND", {}, g.x(2)});
}

// ---- OneHot

std::optional<Dim> depth_of(const Infer& c) {
  if (const HostInts* h = c.ints(1); h && h->v.size() == 1) return h->v[0];
  if (const Literal* l = c.literal(1); l && l->numel() == 1) return static_cast<Dim>(l->at(0));
  return std::nullopt;
}

void one_hot_infer(Infer& c) {
  const DType t = c.dtype(2);
  if (c.ranked(2) && (c.rank(2) != 1 || (is_known(c.dims(2)[0]) && c.dims(2)[0] != 2)))
    c.fail("values must be [off, on]: got " + to_string(c.dims(2)), 2);
  if (!c.ranked(0)) return c.out_unranked(0, t);
  const int64_t a = c.axis(c.node.attr("axis", -1), c.rank(0) + 1);
  const auto depth = depth_of(c);
  if (depth && *depth < 0 && !is_symbolic(*depth)) c.fail("depth is negative: got " + std::to_string(*depth), 1);
  Dims to = c.dims(0);
  to.insert(to.begin() + a, depth ? *depth : kAnyDim);
  c.out(0, t, std::move(to));
}

Kernel one_hot_kernel(const Node& n) {
  return [axis = n.attr("axis", -1)](Call& c) {
    const int64_t depth = static_cast<int64_t>(c.number(1)), r = c.in(0).dim() + 1;
    if (depth < 0) c.fail("depth is negative: got " + std::to_string(depth), 1);
    const int64_t a = axis < 0 ? axis + r : axis;
    const at::Tensor idx = c.in(0).to(at::kLong);
    const at::Tensor i = at::where(idx.lt(0), idx + depth, idx).unsqueeze(a);
    std::vector<int64_t> column(static_cast<size_t>(r - a), 1);
    column[0] = depth;
    const at::Tensor hot = i.eq(at::arange(depth, i.options()).view(column));
    c.set(0, at::where(hot, c.in(2).select(0, 1), c.in(2).select(0, 0)));
  };
}

Grads one_hot_grad(const Grad& g) {
  Grads r(3);
  if (!g.needs(2)) return r;
  Builder& b = g.builder();
  const Expr dy = g.dy();
  const Expr pattern = b.literal(Literal::copy(DType::kBool, Dims{2}, "\0\1", 2));
  const Expr hot = b.op("OneHot", {g.x(0), g.x(1), cast(pattern, DType::kFloat)}, {{"axis", g.attr("axis", -1)}});
  const Expr on = greater(hot, like(hot, 0)), none = like(dy, 0);
  auto total = [&](Expr e) { return reshape(reduce_sum(e, {}, false), std::vector<int64_t>{1}); };
  r[2] = concat({total(where(on, none, dy)), total(where(on, dy, none))}, 0);
  return r;
}

// ---- TensorScatter: updates written at an offset of each sample

void tensor_scatter_infer(Infer& c) {
  if (c.ranked(0) && c.ranked(1)) {
    const int64_t a = c.axis(c.node.attr("axis", -2), c.rank(0));
    if (a == 0) c.fail("the axis must not be the batch axis");
    if (c.rank(1) != c.rank(0))
      c.fail("ranks differ: got " + to_string(c.dims(1)) + ", expected " + to_string(c.dims(0)), 1);
    for (size_t i = 0; i < c.dims(0).size(); ++i) {
      const Dim x = c.dims(0)[i], u = c.dims(1)[i];
      if (static_cast<int64_t>(i) == a ? is_known(x) && is_known(u) && u > x : !equal_dim(x, u))
        c.fail("the update does not fit: got " + to_string(c.dims(1)) + ", cache " + to_string(c.dims(0)), 1);
    }
  }
  c.same_as(0);
}

/// Positions along the axis, shaped like the update.
at::Tensor write_positions(const Call& c, int64_t a, bool circular) {
  const at::Tensor &x = c.in(0), &u = c.in(1);
  std::vector<int64_t> row(static_cast<size_t>(u.dim()), 1), batch = row;
  row[static_cast<size_t>(a)] = u.size(a);
  batch[0] = u.size(0);
  at::Tensor p = at::arange(u.size(a), u.options().dtype(at::kLong)).view(row);
  if (c.has(2)) p = p + c.in(2).to(at::kLong).view(batch);
  if (circular) {
    p = p.remainder(x.size(a));
  } else if (p.numel() && p.device().is_cpu() &&
             (p.min().item<int64_t>() < 0 || p.max().item<int64_t>() >= x.size(a))) {
    c.fail("a write index leads outside the cache of size " + std::to_string(x.size(a)), 2);
  }
  return p.expand(u.sizes());
}

Kernel tensor_scatter_kernel(const Node& n) {
  return [axis = n.attr("axis", -2), circular = n.attr("mode", "linear") == "circular"](Call& c) {
    const int64_t a = axis < 0 ? axis + c.in(0).dim() : axis;
    const at::Tensor p = write_positions(c, a, circular);
    at::Tensor& y = c.out(0);
    if (y.sizes() != c.in(0).sizes()) y.resize_(c.in(0).sizes());
    y.copy_(c.in(0));
    if (p.numel()) y.scatter_(a, p, c.in(1));
  };
}

Grads tensor_scatter_grad(const Grad& g) {
  Builder& b = g.builder();
  const Expr dy = g.dy(), u = g.x(1);
  const int64_t r = g.rank(), axis = g.attr("axis", -2), a = axis < 0 ? axis + r : axis;
  const bool circular = g.attr("mode", "linear") == "circular";
  Grads out(g.num_inputs());
  if (g.needs(0))
    out[0] = b.op("TensorScatter", {dy, zeros_like(u), g.has_x(2) ? g.x(2) : Expr()},
                  copy_attrs(g.node(), {"axis", "mode"}));
  if (g.needs(1)) {
    std::vector<int64_t> row(static_cast<size_t>(r), 1), batch = row;
    row[static_cast<size_t>(a)] = batch[0] = -1;
    Expr p = reshape(iota(dim(u, a)), row);
    if (g.has_x(2)) p = p + reshape(g.x(2), batch);
    if (circular) p = b.op("Mod", {p, dim(g.x(0), a)});
    out[1] = b.op("GatherElements", {dy, expand(p, shape(u))}, {{"axis", a}});
  }
  return out;
}

}  // namespace

OpTable scatter_ops() {
  return {
      {.name = "Scatter",
       .infer = scatter_elements_infer,
       .kernel = scatter_elements_kernel,
       .grad = scatter_elements_grad,
       .exact = true},
      {.name = "ScatterElements",
       .infer = scatter_elements_infer,
       .kernel = scatter_elements_kernel,
       .grad = scatter_elements_grad,
       .exact = true},
      {.name = "ScatterND",
       .infer = scatter_nd_infer,
       .kernel = scatter_nd_kernel,
       .grad = scatter_nd_grad,
       .exact = true},
      {.name = "OneHot",
       .infer = one_hot_infer,
       .kernel = one_hot_kernel,
       .grad = one_hot_grad,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "TensorScatter",
       .infer = tensor_scatter_infer,
       .kernel = tensor_scatter_kernel,
       .grad = tensor_scatter_grad,
       .exact = true},
  };
}

}  // namespace ortmod
