// Operators: joining, cutting and rearranging blocks (Concat, Split, DepthToSpace, SpaceToDepth, CenterCropPad).
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/bind_copy.h"
#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// ---- Concat

void concat_infer(Infer& c) {
  const DType t = c.dtype();
  const int64_t given = c.node.attr("axis", 1);
  size_t first = 0;
  while (first < c.num_in() && !c.ranked(first)) ++first;
  if (first == c.num_in()) return c.out_unranked(0, t);
  const int64_t axis = c.axis(given, c.rank(first));
  Dims to = c.dims(first);
  Dim total = 0;
  bool ints = to.size() == 1;
  for (size_t i = 0; i < c.num_in(); ++i) {
    if (!c.ranked(i)) {
      total = kAnyDim;
      continue;
    }
    const Dims& d = c.dims(i);
    if (d.size() != to.size())
      c.fail("ranks differ: got " + std::to_string(d.size()) + ", expected " + std::to_string(to.size()),
             static_cast<int>(i));
    if (c.dtype(i) != t)
      c.fail("element types differ: got " + std::string(dtype_name(c.dtype(i))) + ", expected " +
                 std::string(dtype_name(t)),
             static_cast<int>(i));
    for (size_t k = 0; k < to.size(); ++k) {
      if (static_cast<int64_t>(k) == axis) continue;
      const auto e = equal_dim(to[k], d[k]);
      if (!e)
        c.fail("sizes differ outside the axis: got " + to_string(d) + ", expected " + to_string(to),
               static_cast<int>(i));
      to[k] = *e;
    }
    total = dim_add(total, d[static_cast<size_t>(axis)]);
  }
  to[static_cast<size_t>(axis)] = total;
  if (ints && is_small(total)) {
    HostInts o{to, {}};
    bool any = false;
    for (size_t i = 0; i < c.num_in(); ++i) {
      const HostInts* h = c.ints(i);
      any = any || (h && !h->v.empty());
      for (Dim k = 0; k < c.dims(i)[0]; ++k) o.v.push_back(h ? h->v[static_cast<size_t>(k)] : kAnyDim);
    }
    if (any || total == 0) c.out_ints(0, std::move(o));
  }
  c.out(0, t, std::move(to));
}

Kernel concat_kernel(const Node& n) {
  return [axis = n.attr("axis", 1)](Call& c) {
    std::vector<at::Tensor> x;
    for (size_t i = 0; i < c.num_in(); ++i) x.push_back(c.in(i));
    if (x.size() == 1) return c.set(0, x[0]);
    at::cat_out(c.out(0), x, axis);
  };
}

/// The gradient of piece i is the part of dy that it became; offsets are counted from whichever end is known.
Grads concat_grad(const Grad& g) {
  const Expr dy = g.dy();
  const size_t n = g.num_inputs();
  Grads r(n);
  if (n == 1) return {dy};
  int64_t axis = g.attr("axis", 1);
  if (axis < 0) axis += g.rank();
  Builder& b = g.builder();
  std::vector<Dim> sizes;
  bool all_known = true, all_needed = true;
  for (size_t i = 0; i < n; ++i) {
    sizes.push_back(g.dims(i)[static_cast<size_t>(axis)]);
    all_known = all_known && is_known(sizes[i]);
    all_needed = all_needed && g.needs(i);
  }
  if (all_known && all_needed) {
    const std::vector<int64_t> lengths(sizes.begin(), sizes.end());
    return b.opset() >= 13 ? b.multi("", "Split", {dy, b.ints(lengths)}, static_cast<int>(n), {{"axis", axis}})
                           : b.multi("", "Split", {dy}, static_cast<int>(n), {{"axis", axis}, {"split", lengths}});
  }
  for (size_t i = 0; i < n; ++i) {
    if (!g.needs(i)) continue;
    Dim before = 0, after = 0;
    for (size_t k = 0; k < n; ++k) {
      Dim& side = k < i ? before : after;
      if (k != i) side = is_known(side) && is_known(sizes[k]) ? side + sizes[k] : kAnyDim;
    }
    std::optional<int64_t> start, end;
    if (is_known(before)) start = before;
    if (is_known(before) && is_known(sizes[i])) {
      end = before + sizes[i];
    } else if (is_known(after)) {
      end = after == 0 ? INT64_MAX : -after;
    }
    if (!start && is_known(after) && is_known(sizes[i]) && after + sizes[i] > 0) start = -(after + sizes[i]);
    if (start && end) {
      r[i] = slice(dy, {*start}, {*end}, {axis});
      continue;
    }
    Expr offset;
    for (size_t k = 0; k < i; ++k) offset = offset ? offset + dim(g.x(k), axis) : dim(g.x(k), axis);
    r[i] = cut(dy, offset, dim(g.x(i), axis), axis);
  }
  return r;
}

// ---- Split

void split_infer(Infer& c) {
  const DType t = c.dtype();
  const size_t n = c.node.outputs.size();
  if (!c.ranked()) {
    for (size_t i = 0; i < n; ++i) c.out_unranked(i, t);
    return;
  }
  const int64_t axis = c.axis(c.node.attr("axis", 0), c.rank());
  const Dim d = c.dims()[static_cast<size_t>(axis)];
  const HostInts* h = c.ints(0);
  if (h && c.rank() != 1) h = nullptr;
  size_t at = 0;
  auto emit = [&](size_t i, Dim size) {
    Dims to = c.dims();
    to[static_cast<size_t>(axis)] = size;
    if (h && is_known(size) && at + static_cast<size_t>(size) <= h->v.size()) {
      c.out_ints(i, {to, {h->v.begin() + at, h->v.begin() + at + size}});
      at += static_cast<size_t>(size);
    } else {
      h = nullptr;
    }
    c.out(i, t, std::move(to));
  };
  const std::vector<int64_t>* attr = c.version() < 13 ? list_attr(c.node, "split") : nullptr;
  if (attr || c.has(1)) {
    const HostInts* sizes = attr ? nullptr : c.ints(1);
    const size_t count = attr ? attr->size() : sizes ? sizes->v.size() : n;
    if (count != n)
      c.fail("split has " + std::to_string(count) + " sizes, expected one for each of the " + std::to_string(n) +
                 " outputs",
             1);
    Dim total = 0;
    for (size_t i = 0; i < n; ++i) {
      const Dim s = attr ? (*attr)[i] : sizes ? sizes->v[i] : kAnyDim;
      if (s < 0 && !is_symbolic(s)) c.fail("split has a negative size: got " + std::to_string(s), 1);
      total = dim_add(total, s);
      emit(i, s);
    }
    if (is_known(total) && is_known(d) && total != d)
      c.fail("the sizes of split do not add up: got " + std::to_string(total) + ", expected " + std::to_string(d),
             attr ? 0 : 1);
    return;
  }
  const Dim count = static_cast<Dim>(n);
  if (is_known(d) && c.version() < 18 && d % count != 0)
    c.fail("the axis cannot be split into equal parts: got size " + std::to_string(d) + " for " + std::to_string(n) +
               " outputs",
           0);
  const Dim exact = dims_quotient(Dims{d}, Dims{count});
  const Dim chunk = exact != kAnyDim ? exact : dim_div(c.version() < 18 ? d : dim_add(d, count - 1), count);
  for (size_t i = 0; i + 1 < n; ++i) {
    if (is_known(d) && chunk * static_cast<Dim>(i + 1) > d)
      c.fail("too many outputs: got " + std::to_string(n) + " for an axis of size " + std::to_string(d), 0);
    emit(i, chunk);
  }
  emit(n - 1, exact != kAnyDim ? exact : dim_sub(d, dim_mul(chunk, count - 1)));
}

Kernel split_kernel(const Node& n) {
  return [axis = n.attr("axis", 0), attr = n.version < 13 ? n.ints("split") : std::vector<int64_t>{},
          count = static_cast<int64_t>(n.outputs.size())](Call& c) {
    const at::Tensor& x = c.in();
    const auto a = wrap_axis(axis, x.dim());
    if (!a) c.fail("axis out of range: got " + std::to_string(axis) + " for rank " + std::to_string(x.dim()), 0);
    const int64_t d = x.size(*a);
    std::vector<int64_t> sizes = attr;
    if (sizes.empty() && c.has(1)) sizes = c.ints(1);
    if (sizes.empty()) {
      const int64_t chunk = (d + count - 1) / count;
      sizes.assign(static_cast<size_t>(count), chunk);
      sizes.back() = d - chunk * (count - 1);
    }
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] < 0 || at + sizes[i] > d) c.fail("the sizes of split do not add up to " + std::to_string(d), 1);
      if (c.wants(i)) c.set(i, x.narrow(*a, at, sizes[i]));
      at += sizes[i];
    }
    if (at != d)
      c.fail("the sizes of split do not add up: got " + std::to_string(at) + ", expected " + std::to_string(d), 1);
  };
}

Grads split_grad(const Grad& g) {
  std::vector<Expr> pieces;
  for (size_t i = 0; i < g.num_outputs(); ++i) pieces.push_back(g.dy(i) ? g.dy(i) : zeros_like(g.y(i)));
  return only_first(g, concat(pieces, g.attr("axis", 0)));
}

// ---- DepthToSpace, SpaceToDepth

struct Blocks {
  int64_t size;
  bool column_first;  // mode CRD
  explicit Blocks(const Node& n) : size(n.attr("blocksize", 0)), column_first(n.attr("mode", "DCR") == "CRD") {}
};

void blocks_infer(Infer& c, bool to_space) {
  const DType t = c.dtype();
  const int64_t s = c.node.attr("blocksize", 0);
  if (s < 1) c.fail("blocksize must be positive: got " + std::to_string(s));
  if (!c.ranked()) return c.out(0, t, Dims(4, kAnyDim));
  if (c.rank() != 4) c.fail("expected an input of rank 4: got " + to_string(c.dims()), 0);
  const Dims& d = c.dims();
  auto divide = [&](Dim n, Dim by) {
    if (is_known(n) && n % by != 0)
      c.fail("the size is not a multiple of the block: got " + std::to_string(n) + ", block " + std::to_string(by), 0);
    return dim_div(n, by);
  };
  if (to_space) return c.out(0, t, {d[0], divide(d[1], s * s), dim_mul(d[2], s), dim_mul(d[3], s)});
  c.out(0, t, {d[0], dim_mul(d[1], s * s), divide(d[2], s), divide(d[3], s)});
}

at::Tensor depth_to_space(const at::Tensor& x, const Blocks& k) {
  const int64_t b = x.size(0), c = x.size(1) / (k.size * k.size), h = x.size(2), w = x.size(3), s = k.size;
  const at::Tensor y = k.column_first ? x.reshape({b, c, s, s, h, w}).permute({0, 1, 4, 2, 5, 3})
                                      : x.reshape({b, s, s, c, h, w}).permute({0, 3, 4, 1, 5, 2});
  return y.reshape({b, c, h * s, w * s});
}

at::Tensor space_to_depth(const at::Tensor& x, const Blocks& k) {
  const int64_t b = x.size(0), c = x.size(1), s = k.size, h = x.size(2) / s, w = x.size(3) / s;
  const at::Tensor y =
      x.reshape({b, c, h, s, w, s})
          .permute(k.column_first ? at::IntArrayRef{0, 1, 3, 5, 2, 4} : at::IntArrayRef{0, 3, 5, 1, 2, 4});
  return y.reshape({b, c * s * s, h, w});
}

template <bool kToSpace>
Kernel blocks_kernel(const Node& n) {
  return [k = Blocks(n)](Call& c) {
    const at::Tensor& x = c.in();
    const int64_t s = k.size;
    if (x.dim() != 4 || (kToSpace ? x.size(1) % (s * s) : x.size(2) % s || x.size(3) % s))
      c.fail("the sizes are not multiples of the block", 0);
    c.set(0, kToSpace ? depth_to_space(x, k) : space_to_depth(x, k));
  };
}

/// The inverse rearrangement; before opset 28 SpaceToDepth knows no mode CRD and is written with Reshape and Transpose.
Grads depth_to_space_grad(const Grad& g) {
  const Blocks k(g.node());
  Builder& b = g.builder();
  const int64_t s = k.size;
  if (!k.column_first) return {b.op("SpaceToDepth", {g.dy()}, {{"blocksize", s}})};
  if (b.opset() >= 28) return {b.op("SpaceToDepth", {g.dy()}, {{"blocksize", s}, {"mode", std::string("CRD")}})};
  const Expr x = g.x(), sq = b.ints({s * s}), one = b.ints({s});
  const Expr cut = concat({dim(x, 0), dim(x, 1) / sq, dim(x, 2), one, dim(x, 3), one}, 0);
  return {reshape_like(transpose(reshape(g.dy(), cut), {0, 1, 3, 5, 2, 4}), x)};
}

Grads space_to_depth_grad(const Grad& g) {
  const Blocks k(g.node());
  Builder& b = g.builder();
  const int64_t s = k.size;
  if (b.opset() >= 11)
    return {b.op("DepthToSpace", {g.dy()}, {{"blocksize", s}, {"mode", std::string(k.column_first ? "CRD" : "DCR")}})};
  return {b.op("DepthToSpace", {g.dy()}, {{"blocksize", s}})};
}

// ---- CenterCropPad

void center_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out_unranked(0, t);
  const std::vector<int64_t>* axes = list_attr(c.node, "axes");
  const HostInts* h = c.ints(1);
  Dims to = c.dims();
  const size_t n = axes ? axes->size() : to.size();
  if (h && h->v.size() != n)
    c.fail("shape has " + std::to_string(h->v.size()) + " sizes, expected " + std::to_string(n), 1);
  for (size_t i = 0; i < n; ++i) {
    const size_t a = axes ? static_cast<size_t>(c.axis((*axes)[i], c.rank())) : i;
    if (h && h->v[i] < 0 && !is_symbolic(h->v[i]))
      c.fail("shape has a negative size: got " + std::to_string(h->v[i]), 1);
    to[a] = h ? h->v[i] : kAnyDim;
  }
  c.out(0, t, std::move(to));
}

Kernel center_kernel(const Node& n) {
  return [given = n.has("axes"), axes = n.ints("axes")](Call& c) {
    const std::vector<int64_t> target = c.ints(1);
    at::Tensor x = c.in();
    std::vector<int64_t> pads(static_cast<size_t>(2 * x.dim()), 0);
    if (target.size() != (given ? axes.size() : static_cast<size_t>(x.dim())))
      c.fail("shape and axes differ in length", 1);
    for (size_t i = 0; i < target.size(); ++i) {
      const auto a = wrap_axis(given ? axes[i] : static_cast<int64_t>(i), x.dim());
      if (!a) c.fail("axis out of range: got " + std::to_string(axes[i]) + " for rank " + std::to_string(x.dim()));
      const int64_t d = x.size(*a), to = target[i];
      if (d > to) {
        x = x.narrow(*a, (d - to) / 2, to);
      } else {
        const size_t p = static_cast<size_t>(2 * (x.dim() - 1 - *a));
        pads[p] = (to - d) / 2;
        pads[p + 1] = to - d - pads[p];
      }
    }
    c.set(0, at::constant_pad_nd(x, pads));
  };
}

/// Cropping and padding around the centre undo each other.
Grads center_grad(const Grad& g) {
  const Expr x = g.x();
  std::vector<int64_t> axes = g.ints("axes");
  if (!g.node().has("axes"))
    for (int64_t i = 0; i < g.rank(); ++i) axes.push_back(i);
  for (int64_t& a : axes)
    if (a < 0) a += g.rank();
  return only_first(g, g.builder().op("CenterCropPad", {g.dy(), dims_of(x, axes)}, {{"axes", axes}}));
}

}  // namespace

OpTable layout_ops() {
  return {
      {.name = "Concat",
       .infer = concat_infer,
       .kernel = concat_kernel,
       .bind = bind_concat,
       .grad = concat_grad,
       .exact = true},
      {.name = "Split",
       .infer = split_infer,
       .kernel = split_kernel,
       .bind = bind_split,
       .grad = split_grad,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "DepthToSpace",
       .infer = [](Infer& c) { blocks_infer(c, true); },
       .kernel = blocks_kernel<true>,
       .grad = depth_to_space_grad,
       .exact = true},
      {.name = "SpaceToDepth",
       .infer = [](Infer& c) { blocks_infer(c, false); },
       .kernel = blocks_kernel<false>,
       .grad = space_to_depth_grad,
       .exact = true},
      {.name = "CenterCropPad",
       .infer = center_infer,
       .kernel = center_kernel,
       .grad = center_grad,
       .exact = true,
       .host_inputs = 0b10},
  };
}

}  // namespace ortmod
