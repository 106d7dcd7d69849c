// Operators: Gather, GatherElements, GatherND and the operators that scatter their gradients back.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/bind_copy.h"
#include "ops/index_kernels.h"
#include "ops/indexing.h"
#include "ops/old_form.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// ---- Gather

void gather_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims &x = c.dims(0), &i = c.dims(1);
  if (c.rank(0) == 0) c.fail("expected data of rank 1 or more: got a scalar", 0);
  const size_t a = static_cast<size_t>(c.axis(c.node.attr("axis", 0), c.rank(0)));
  Dims to(x.begin(), x.begin() + a);
  to.append(i.begin(), i.end());
  to.append(x.begin() + a + 1, x.end());
  const HostInts *h = c.ints(0), *k = c.ints(1);
  if (k && is_known(x[a]))
    for (Dim e : k->v)
      if (!is_symbolic(e) && (e < -x[a] || e >= x[a]))
        c.fail("index out of range: got " + std::to_string(e) + " for size " + std::to_string(x[a]), 1);
  if (h && k && x.size() == 1 && is_plain(k)) {
    HostInts o{to, {}};
    const Dim n = static_cast<Dim>(h->v.size());
    for (Dim e : k->v) o.v.push_back(h->v[static_cast<size_t>(e < 0 ? e + n : e)]);
    c.out_ints(0, std::move(o));
  }
  c.out(0, t, std::move(to));
}

Kernel gather_kernel(const Node& n) {
  return [axis = n.attr("axis", 0)](Call& c) {
    const at::Tensor& x = c.in(0);
    const auto a = wrap_axis(axis, x.dim());
    if (!a) c.fail("axis out of range: got " + std::to_string(axis) + " for rank " + std::to_string(x.dim()), 0);
    std::vector<int64_t> to(x.sizes().begin(), x.sizes().begin() + *a);
    to.insert(to.end(), c.in(1).sizes().begin(), c.in(1).sizes().end());
    to.insert(to.end(), x.sizes().begin() + *a + 1, x.sizes().end());
    const at::Tensor i = wrapped_indices(c, 1, x.size(*a)).view({-1});
    at::Tensor& y = c.out(0);
    if (y.sizes() != at::IntArrayRef(to)) y.resize_(to);
    std::vector<int64_t> flat(x.sizes().begin(), x.sizes().end());
    flat[static_cast<size_t>(*a)] = i.numel();
    at::Tensor dst = y.view(flat);
    if (dst.numel()) at::index_select_out(dst, x, *a, i);
  };
}

Grads gather_grad(const Grad& g) {
  return only_first(g, fused("GatherGrad", {g.dy(), g.x(1), g.x(0)}, {{"axis", g.attr("axis", 0)}}));
}

// ---- GatherGrad(dy, indices, x): adds slices of dy at the indices; only the shape of x is read

void like_third(Infer& c) { c.out(0, Type(c.type(2))); }

Kernel gather_grad_kernel(const Node& n) {
  return [axis = n.attr("axis", 0)](Call& c) {
    const at::IntArrayRef shape = c.in(2).sizes();
    const int64_t a = axis < 0 ? axis + static_cast<int64_t>(shape.size()) : axis;
    const at::Tensor i = wrapped_indices(c, 1, shape[static_cast<size_t>(a)]).view({-1});
    at::Tensor& y = c.out(0);
    if (y.sizes() != shape) y.resize_(shape);
    y.zero_();
    std::vector<int64_t> flat(shape.begin(), shape.end());
    flat[static_cast<size_t>(a)] = i.numel();
    if (y.numel() && i.numel()) y.index_add_(a, i, c.in(0).view(flat));
  };
}

Grads gather_grad_body(const Grad& g) {
  const Expr dy = g.x(0), i = g.x(1), x = g.x(2);
  const int64_t r = g.rank(2), q = g.rank(1);
  int64_t a = g.attr("axis", 0);
  if (a < 0) a += r;
  std::vector<int64_t> front = {a}, move,
                       back;  // x with the axis first; dy with the index axes first; the first undone
  for (int64_t k = 0; k < r; ++k)
    if (k != a) front.push_back(k);
  for (int64_t k = 0; k < q; ++k) move.push_back(a + k);
  for (int64_t k = 0; k < r - 1 + q; ++k)
    if (k < a || k >= a + q) move.push_back(k);
  for (int64_t k = 1; k <= a; ++k) back.push_back(k);
  back.push_back(0);
  for (int64_t k = a + 1; k < r; ++k) back.push_back(k);
  return {transpose(scatter_rows(i, transpose(dy, move), dims_of(x, front)), back)};
}

Grads gather_grad_grad(const Grad& g) { return only_first(g, gather(g.dy(), g.x(1), g.attr("axis", 0))); }

// ---- GatherElements

void gather_elements_infer(Infer& c) {
  const DType t = c.dtype();
  if (c.ranked(0)) {
    c.axis(c.node.attr("axis", 0), c.rank(0));
    if (c.ranked(1) && c.rank(0) != c.rank(1))
      c.fail("data and indices have different ranks: got " + std::to_string(c.rank(1)) + ", expected " +
                 std::to_string(c.rank(0)),
             1);
  }
  if (!c.ranked(1)) return c.out_unranked(0, t);
  c.out(0, t, c.dims(1));
}

Kernel gather_elements_kernel(const Node& n) {
  return [axis = n.attr("axis", 0)](Call& c) {
    const at::Tensor& x = c.in(0);
    const int64_t a = axis < 0 ? axis + x.dim() : axis;
    const at::Tensor i = wrapped_indices(c, 1, x.size(a));
    at::gather_out(c.out(0), x, a, i);
  };
}

Grads gather_elements_grad(const Grad& g) {
  return only_first(g, fused("GatherElementsGrad", {g.dy(), g.x(1), g.x(0)}, {{"axis", g.attr("axis", 0)}}));
}

// ---- GatherElementsGrad(dy, indices, x): only the shape of x is read; `unique`: no element is picked twice

Kernel gather_elements_grad_kernel(const Node& n) {
  return [axis = n.attr("axis", 0)](Call& c) {
    const at::IntArrayRef shape = c.in(2).sizes();
    const int64_t a = axis < 0 ? axis + static_cast<int64_t>(shape.size()) : axis;
    const at::Tensor i = wrapped_indices(c, 1, shape[static_cast<size_t>(a)]);
    at::Tensor& y = c.out(0);
    if (y.sizes() != shape) y.resize_(shape);
    y.zero_();
    if (i.numel()) y.scatter_add_(a, i, c.in(0));
  };
}

Grads gather_elements_grad_body(const Grad& g) {
  const Expr dy = g.x(0), x = g.x(2);
  Builder& b = g.builder();
  const int64_t axis = g.attr("axis", 0), r = g.rank(2), a = axis < 0 ? axis + r : axis;
  const bool unique = g.attr("unique", 0) != 0;
  if (b.opset() >= 16 && !unique)
    return {b.op("ScatterElements", {zeros_like(x), g.x(1), dy}, {{"axis", a}, {"reduction", std::string("add")}})};
  if (b.opset() >= 9 && unique)
    return {b.op(b.opset() >= 11 ? "ScatterElements" : "Scatter", {zeros_like(x), g.x(1), dy}, {{"axis", a}})};
  cheaper_from(unique ? 9 : 16, "a sum over one-hot masks in place of additions by index");
  // sum over the picks m of [index_m = j] dy_m; the other axes of the indices may be shorter than those of x
  const Expr hot = one_hot(g.x(1), dim(x, a), a, dy.dtype());
  const Expr y = reduce_sum(hot * unsqueeze(dy, {a}), {a + 1}, false);
  const Dims &from = dy.type().dims, &to = x.type().dims;
  bool equal = dy.type().has_rank;
  for (int64_t i = 0; equal && i < r; ++i)
    equal =
        i == a || (from[static_cast<size_t>(i)] == to[static_cast<size_t>(i)] && to[static_cast<size_t>(i)] != kAnyDim);
  if (equal) return {y};
  if (b.opset() < 11) g.fail("indices shorter than the data need opset 11", "use opset=\"upgrade\"");
  std::vector<int64_t> none(static_cast<size_t>(r), 0);
  return {b.op("Pad", {y, concat({b.ints(none), shape(x) - shape(y)}, 0)})};
}

Grads gather_elements_grad_grad(const Grad& g) {
  return only_first(g, g.builder().op("GatherElements", {g.dy(), g.x(1)}, {{"axis", g.attr("axis", 0)}}));
}

// ---- GatherND

void gather_nd_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims &x = c.dims(0), &i = c.dims(1);
  const int64_t b = c.node.attr("batch_dims", 0), q = c.rank(1), r = c.rank(0);
  if (q < 1 || r < 1) c.fail("expected ranks of 1 or more: got " + to_string(x) + " and " + to_string(i), 1);
  if (b < 0 || b >= std::min(q, r))
    c.fail("batch_dims out of range: got " + std::to_string(b) + " for ranks " + std::to_string(r) + " and " +
           std::to_string(q));
  const Dim k = i.back();
  if (!is_known(k)) return c.out_unranked(0, t);
  if (k < 1 || b + k > r)
    c.fail("an index has " + std::to_string(k) + " entries, expected 1 to " + std::to_string(r - b), 1);
  Dims to(i.begin(), i.end() - 1);
  for (int64_t n = 0; n < b; ++n) {
    const auto e = equal_dim(x[static_cast<size_t>(n)], i[static_cast<size_t>(n)]);
    if (!e) c.fail("batch dimensions differ: got " + to_string(i) + ", data " + to_string(x), 1);
    to[static_cast<size_t>(n)] = *e;
  }
  to.append(x.begin() + b + k, x.end());
  c.out(0, t, std::move(to));
}

Kernel gather_nd_kernel(const Node& n) {
  return [b = n.attr("batch_dims", 0)](Call& c) {
    const at::Tensor& x = c.in(0);
    const Rows rows = rows_of(c, x.sizes(), 1, b);
    std::vector<int64_t> to(c.in(1).sizes().begin(), c.in(1).sizes().end() - 1);
    to.insert(to.end(), x.sizes().begin() + b + rows.depth, x.sizes().end());
    at::Tensor& y = c.out(0);
    if (y.sizes() != at::IntArrayRef(to)) y.resize_(to);
    at::Tensor dst = y.view({rows.index.numel(), rows.width});
    if (dst.numel()) at::index_select_out(dst, x.view({rows.count, rows.width}), 0, rows.index);
  };
}

Grads gather_nd_grad(const Grad& g) {
  return only_first(g, fused("GatherNDGrad", {g.dy(), g.x(1), g.x(0)}, {{"batch_dims", g.attr("batch_dims", 0)}}));
}

// ---- GatherNDGrad(dy, indices, x): only the shape of x is read

Kernel gather_nd_grad_kernel(const Node& n) {
  return [b = n.attr("batch_dims", 0)](Call& c) {
    const at::IntArrayRef shape = c.in(2).sizes();
    const Rows rows = rows_of(c, shape, 1, b);
    at::Tensor& y = c.out(0);
    if (y.sizes() != shape) y.resize_(shape);
    y.zero_();
    if (c.in(0).numel())
      y.view({rows.count, rows.width}).index_add_(0, rows.index, c.in(0).view({rows.index.numel(), rows.width}));
  };
}

Grads gather_nd_grad_body(const Grad& g) {
  const Expr dy = g.x(0), i = g.x(1), x = g.x(2);
  Builder& b = g.builder();
  const int64_t batch = g.attr("batch_dims", 0), r = g.rank(2);
  const Dim depth = g.dims(1).back();
  if (b.opset() >= 16 && batch == 0)
    return {b.op("ScatterND", {zeros_like(x), i, dy}, {{"reduction", std::string("add")}})};
  if (!is_known(depth)) g.fail("the last dimension of the indices is not known", "declare it in the model");
  std::vector<int64_t> lead, rest;
  for (int64_t k = 0; k < r; ++k) (k < batch + depth ? lead : rest).push_back(k);
  const Expr counted = index_image(dims_of(x, lead));
  const Expr rows = batch ? b.op("GatherND", {counted, i}, {{"batch_dims", batch}}) : b.op("GatherND", {counted, i});
  const Expr n = reshape(size(counted), std::vector<int64_t>{1});
  const Expr flat = concat({n, dims_of(x, rest)}, 0);
  return {reshape_like(scatter_rows(rows, dy, rest.empty() ? n : flat), x)};
}

Grads gather_nd_grad_grad(const Grad& g) {
  const int64_t batch = g.attr("batch_dims", 0);
  return only_first(g, g.builder().op("GatherND", {g.dy(), g.x(1)}, batch ? Attrs{{"batch_dims", batch}} : Attrs{}));
}

// ---- ArrayFeatureExtractor: columns of the last axis

void extractor_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked(0)) return c.out_unranked(0, t);
  Dims to = c.dims(0);
  if (to.empty()) c.fail("expected data of rank 1 or more: got a scalar", 0);
  to.back() = c.ranked(1) ? [&] {
    Dim n = 1;
    for (Dim d : c.dims(1)) n = dim_mul(n, d);
    return n;
  }() : kAnyDim;
  if (to.size() == 1) to = {1, to.back()};
  c.out(0, t, std::move(to));
}

Kernel extractor_kernel(const Node&) {
  return [](Call& c) {
    const at::Tensor& x = c.in(0);
    const at::Tensor i = wrapped_indices(c, 1, x.size(-1)).view({-1}), y = x.index_select(-1, i);
    c.set(0, x.dim() == 1 ? y.unsqueeze(0) : y);
  };
}

Grads extractor_grad(const Grad& g) {
  const Expr dy = g.rank() == 1 ? squeeze(g.dy(), {0}) : g.dy();
  return only_first(
      g, fused("GatherGrad", {dy, flatten_all(g.x(1)), g.x(0)}, {{"axis", static_cast<int64_t>(g.rank() - 1)}}));
}

}  // namespace

OpTable gather_ops() {
  return {
      {.name = "Gather",
       .infer = gather_infer,
       .kernel = gather_kernel,
       .bind = bind_gather,
       .grad = gather_grad,
       .exact = true},
      {.name = "GatherGrad",
       .domain = "ortmod",
       .infer = like_third,
       .kernel = gather_grad_kernel,
       .bind = bind_gather_grad,
       .grad = gather_grad_grad,
       .body = gather_grad_body,
       .exact = true,
       .shape_inputs = 0b100},
      {.name = "GatherElements",
       .infer = gather_elements_infer,
       .kernel = gather_elements_kernel,
       .grad = gather_elements_grad,
       .exact = true},
      {.name = "GatherElementsGrad",
       .domain = "ortmod",
       .infer = like_third,
       .kernel = gather_elements_grad_kernel,
       .grad = gather_elements_grad_grad,
       .body = gather_elements_grad_body,
       .exact = true,
       .shape_inputs = 0b100},
      {.name = "GatherND", .infer = gather_nd_infer, .kernel = gather_nd_kernel, .grad = gather_nd_grad, .exact = true},
      {.name = "GatherNDGrad",
       .domain = "ortmod",
       .infer = like_third,
       .kernel = gather_nd_grad_kernel,
       .grad = gather_nd_grad_grad,
       .body = gather_nd_grad_body,
       .exact = true,
       .shape_inputs = 0b100},
      {.name = "ArrayFeatureExtractor",
       .domain = "ai.onnx.ml",
       .infer = extractor_infer,
       .kernel = extractor_kernel,
       .grad = extractor_grad,
       .exact = true},
  };
}

}  // namespace ortmod
