// Operators: selections whose indices come from values or masks (Trilu, TopK, ReverseSequence, Compress, NonZero,
// Unique).
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/index_kernels.h"
#include "ops/indexing.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// ---- Trilu

void trilu_infer(Infer& c) {
  if (c.ranked() && c.rank() < 2) c.fail("expected an input of rank 2 or more: got " + to_string(c.dims()), 0);
  c.same_as(0);
}

Kernel trilu_kernel(const Node& n) {
  return [upper = n.attr("upper", 1) != 0](Call& c) {
    const int64_t k = c.has(1) ? c.ints(1).at(0) : 0, far = c.in().size(-1) + c.in().size(-2);
    const int64_t diagonal = std::clamp(k, -far, far);
    if (upper)
      at::triu_out(c.out(0), c.in(), diagonal);
    else
      at::tril_out(c.out(0), c.in(), diagonal);
  };
}

Grads trilu_grad(const Grad& g) {
  std::vector<Expr> in = {g.dy()};
  if (g.has_x(1)) in.push_back(g.x(1));
  return only_first(g, g.builder().op("Trilu", in, copy_attrs(g.node(), {"upper"})));
}

// ---- TopK

void top_k_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) {
    c.out_unranked(0, t);
    return c.out_unranked(1, DType::kInt64);
  }
  const size_t a = static_cast<size_t>(c.axis(c.node.attr("axis", -1), c.rank()));
  Dim k = kAnyDim;
  if (c.version() < 10)
    k = c.node.attr("k", 0);
  else if (const HostInts* h = c.ints(1); h && h->v.size() == 1)
    k = h->v[0];
  if (k < 0 && !is_symbolic(k)) c.fail("k is negative: got " + std::to_string(k), 1);
  if (is_known(k) && is_known(c.dims()[a]) && k > c.dims()[a])
    c.fail("k is larger than the axis: got " + std::to_string(k) + " for size " + std::to_string(c.dims()[a]), 0);
  Dims to = c.dims();
  to[a] = k;
  c.out(0, t, to);
  c.out(1, DType::kInt64, std::move(to));
}

/// A stable sort: of equal values the lower index comes first.
Kernel top_k_kernel(const Node& n) {
  return [axis = n.attr("axis", -1), largest = n.attr("largest", 1) != 0, attr = n.version < 10,
          count = n.attr("k", 0)](Call& c) {
    const at::Tensor& x = c.in();
    const auto a = wrap_axis(axis, x.dim());
    if (!a) c.fail("axis out of range: got " + std::to_string(axis) + " for rank " + std::to_string(x.dim()), 0);
    const int64_t k = attr ? count : c.ints(1).at(0);
    if (k < 0 || k > x.size(*a))
      c.fail("k is larger than the axis: got " + std::to_string(k) + " for size " + std::to_string(x.size(*a)), 1);
    const auto [values, indices] = at::sort(x, true, *a, largest);
    c.set(0, values.narrow(*a, 0, k));
    c.set(1, indices.narrow(*a, 0, k));
  };
}

Grads top_k_grad(const Grad& g) {
  if (!g.dy(0)) return Grads(g.num_inputs());
  return only_first(
      g, fused("GatherElementsGrad", {g.dy(0), g.y(1), g.x()}, {{"axis", g.attr("axis", -1)}, {"unique", int64_t{1}}}));
}

// ---- ReverseSequence

void reverse_infer(Infer& c) {
  if (c.ranked()) {
    if (c.rank() < 2) c.fail("expected an input of rank 2 or more: got " + to_string(c.dims()), 0);
    const int64_t b = c.axis(c.node.attr("batch_axis", 1), c.rank()), t = c.axis(c.node.attr("time_axis", 0), c.rank());
    if (b + t != 1)
      c.fail("batch_axis and time_axis must be 0 and 1: got " + std::to_string(b) + " and " + std::to_string(t));
    if (c.ranked(1) && (c.rank(1) != 1 || !equal_dim(c.dims(1)[0], c.dims()[static_cast<size_t>(b)])))
      c.fail(
          "sequence_lens must have one entry per sample: got " + to_string(c.dims(1)) + ", data " + to_string(c.dims()),
          1);
  }
  c.same_as(0);
}

Kernel reverse_kernel(const Node& n) {
  return [batch = n.attr("batch_axis", 1)](Call& c) {
    const at::Tensor x = batch == 0 ? c.in() : c.in().transpose(0, 1);  // batch first
    const at::Tensor len = c.in(1).to(at::kLong).unsqueeze(1);
    const int64_t d = x.size(1);
    if (len.numel() && len.device().is_cpu() && (len.min().item<int64_t>() < 0 || len.max().item<int64_t>() > d))
      c.fail("a sequence is longer than the time axis of size " + std::to_string(d), 1);
    const at::Tensor t = at::arange(d, len.options()).unsqueeze(0), i = at::where(t.lt(len), len - 1 - t, t);
    std::vector<int64_t> column(static_cast<size_t>(x.dim()), 1);
    column[0] = x.size(0);
    column[1] = d;
    const at::Tensor y = x.gather(1, i.view(column).expand(x.sizes()));
    c.set(0, batch == 0 ? y : y.transpose(0, 1));
  };
}

Grads reverse_grad(const Grad& g) {
  return only_first(
      g, g.builder().op("ReverseSequence", {g.dy(), g.x(1)}, copy_attrs(g.node(), {"batch_axis", "time_axis"})));
}

// ---- Compress

void compress_infer(Infer& c) {
  const DType t = c.dtype();
  if (c.ranked(1) && c.rank(1) != 1) c.fail("expected a condition of rank 1: got " + to_string(c.dims(1)), 1);
  Dim n = kAnyDim;
  if (const HostInts* h = c.ints(1); is_plain(h)) n = std::count(h->v.begin(), h->v.end(), 1);
  if (!c.node.has("axis")) return c.out(0, t, {n});
  if (!c.ranked()) return c.out_unranked(0, t);
  Dims to = c.dims();
  to[static_cast<size_t>(c.axis(c.node.attr("axis", 0), c.rank()))] = n;
  c.out(0, t, std::move(to));
}

Kernel compress_kernel(const Node& n) {
  return [flat = !n.has("axis"), axis = n.attr("axis", 0)](Call& c) {
    const at::Tensor x = flat ? c.in().view({-1}) : c.in();
    const int64_t a = axis < 0 ? axis + x.dim() : axis;
    const at::Tensor i = c.in(1).to(at::kBool).nonzero().view({-1});
    if (c.in(1).size(0) > x.size(a))
      c.fail("the condition is longer than the axis: got " + std::to_string(c.in(1).size(0)) + " for size " +
                 std::to_string(x.size(a)),
             1);
    c.set(0, x.index_select(a, i));
  };
}

Grads compress_grad(const Grad& g) {
  const Expr picked = squeeze(g.builder().op("NonZero", {g.x(1)}), {0});
  if (g.node().has("axis"))
    return only_first(g, fused("GatherGrad", {g.dy(), picked, g.x()}, {{"axis", g.attr("axis", 0)}}));
  return only_first(
      g, reshape_like(fused("GatherGrad", {g.dy(), picked, flatten_all(g.x())}, {{"axis", int64_t{0}}}), g.x()));
}

// ---- NonZero

void nonzero_infer(Infer& c) { c.out(0, DType::kInt64, {c.ranked() ? static_cast<Dim>(c.rank()) : kAnyDim, kAnyDim}); }

Kernel nonzero_kernel(const Node&) {
  return [](Call& c) { c.set(0, c.in().nonzero().t()); };
}

// ---- Unique

void unique_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.node.has("axis")) {
    c.out(0, t, {kAnyDim});
  } else if (c.ranked()) {
    Dims to = c.dims();
    to[static_cast<size_t>(c.axis(c.node.attr("axis", 0), c.rank()))] = kAnyDim;
    c.out(0, t, std::move(to));
  } else {
    c.out_unranked(0, t);
  }
  for (size_t o = 1; o < 4; ++o) c.out(o, DType::kInt64, {kAnyDim});
}

Kernel unique_kernel(const Node& n) {
  return [flat = !n.has("axis"), axis = n.attr("axis", 0), sorted = n.attr("sorted", 1) != 0](Call& c) {
    const at::Tensor x = flat ? c.in().view({-1}) : c.in();
    const int64_t a = axis < 0 ? axis + x.dim() : axis, n = x.size(a);
    auto [y, inverse, counts] = at::unique_dim(x, a, true, true, true);
    const int64_t m = y.size(a);
    at::Tensor first = at::full({m}, n, inverse.options());
    first.scatter_reduce_(0, inverse, at::arange(n, inverse.options()), "amin");
    if (!sorted) {
      const at::Tensor order = first.argsort();
      at::Tensor rank = at::empty_like(order);
      rank.scatter_(0, order, at::arange(m, order.options()));
      y = y.index_select(a, order);
      first = first.index_select(0, order);
      counts = counts.index_select(0, order);
      inverse = rank.index_select(0, inverse);
    }
    c.set(0, y);
    if (c.wants(1)) c.set(1, first);
    if (c.wants(2)) c.set(2, inverse);
    if (c.wants(3)) c.set(3, counts);
  };
}

/// Through the first occurrence of each value.
Grads unique_grad(const Grad& g) {
  if (!g.dy(0)) return Grads(1);
  if (g.node().has("axis")) return {fused("GatherGrad", {g.dy(0), g.y(1), g.x()}, {{"axis", g.attr("axis", 0)}})};
  return {reshape_like(fused("GatherGrad", {g.dy(0), g.y(1), flatten_all(g.x())}, {{"axis", int64_t{0}}}), g.x())};
}

}  // namespace

OpTable index_ops() {
  return {
      {.name = "Trilu",
       .infer = trilu_infer,
       .kernel = trilu_kernel,
       .grad = trilu_grad,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "TopK",
       .infer = top_k_infer,
       .kernel = top_k_kernel,
       .grad = top_k_grad,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "ReverseSequence",
       .infer = reverse_infer,
       .kernel = reverse_kernel,
       .grad = reverse_grad,
       .exact = true},
      {.name = "Compress", .infer = compress_infer, .kernel = compress_kernel, .grad = compress_grad, .exact = true},
      {.name = "NonZero", .infer = nonzero_infer, .kernel = nonzero_kernel, .grad = no_grad},
      {.name = "Unique", .infer = unique_infer, .kernel = unique_kernel, .grad = unique_grad, .exact = true},
  };
}

}  // namespace ortmod
