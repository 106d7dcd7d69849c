// Operators: convolutions, their transposes and the two gradients that both share.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/attrs.h"
#include "ops/conv.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"
#include "ops/window.h"

namespace ortmod {

Sizes list(const Window::Sizes& s, int n) { return {s.begin(), s.begin() + n}; }

Window conv_window(const Node& node, int spatial) {
  Window w = Window::read(node);
  w.fit(node, spatial);
  if (w.n > 3)
    fail(ErrorKind::kUnsupportedOp, "infer", "convolution over more than 3 axes: got " + std::to_string(w.n), node);
  return w;
}

void check_kernel(const Infer& c, Window& w, const Dims& weight) {
  for (int i = 0; i < w.n; ++i) {
    const Dim k = weight[static_cast<size_t>(i) + 2];
    if (w.kernel[i] && differ(w.kernel[i], k))
      c.fail("kernel_shape does not fit the weight: got " + std::to_string(w.kernel[i]) + " and " + to_string(weight),
             1);
    if (is_known(k)) w.kernel[i] = k;
  }
}

Window body_window(const Grad& g, Expr weight_shape, int spatial) {
  Window w = Window::read(g.node());
  w.fit(g.node(), spatial);
  const auto k = known_ints(weight_shape);
  for (int i = 0; i < w.n; ++i) {
    if (k) w.kernel[i] = (*k)[static_cast<size_t>(i) + 2];
    if (!w.kernel[i]) g.fail("the size of the kernel is not known", "declare the shape of the weight");
  }
  return w;
}

Pads::Pads(const Window& w, at::IntArrayRef in, at::IntArrayRef out) {
  for (int i = 0; i < w.n; ++i) {
    const size_t j = static_cast<size_t>(i) + 2;
    before.push_back(w.before(i, in[j], out[j]));
    after.push_back(w.after(i, in[j], out[j]));
  }
}

namespace {

void infer_conv(Infer& c) {
  const DType t = c.dtype(0);
  if (c.dtype(1) != t)
    c.fail("element types differ: got " + std::string(dtype_name(t)) + " and " + std::string(dtype_name(c.dtype(1))),
           1);
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims &x = c.dims(0), &k = c.dims(1);
  if (x.size() != k.size())
    c.fail("operand and weight differ in rank: got " + to_string(x) + " and " + to_string(k), 1);
  Window w = conv_window(c.node, static_cast<int>(x.size()) - 2);
  check_kernel(c, w, k);
  const int64_t group = c.node.attr("group", 1);
  if (group < 1) c.fail("group must be positive: got " + std::to_string(group));
  if (differ(x[1], dim_mul(k[1], group)))
    c.fail("channels do not fit the weight: got " + to_string(x) + " and " + to_string(k) + " with group " +
               std::to_string(group),
           0);
  if (is_known(k[0]) && k[0] % group) c.fail("output channels are no multiple of group: got " + to_string(k), 1);
  if (c.has(2) && c.ranked(2) && (c.rank(2) != 1 || differ(c.dims(2)[0], k[0])))
    c.fail("the bias does not fit the weight: got " + to_string(c.dims(2)) + ", expected " + to_string(Dims{k[0]}), 2);
  Dims r{x[0], k[0]};
  for (int i = 0; i < w.n; ++i) r.push_back(w.out(c, i, x[static_cast<size_t>(i) + 2], k[static_cast<size_t>(i) + 2]));
  c.out(0, t, std::move(r));
}

/// What the kernels of one node know; sizes of the weight are filled at the call.
struct Conv {
  Window w;
  int64_t group;
  explicit Conv(const Node& node) : w(Window::read(node)), group(node.attr("group", 1)) {}
  Window at(const Node& node, at::IntArrayRef weight) const {
    Window r = w;
    r.fit(node, static_cast<int>(weight.size()) - 2);
    for (int i = 0; i < r.n; ++i) r.kernel[i] = weight[static_cast<size_t>(i) + 2];
    return r;
  }
};

Sizes conv_sizes(const Node& node, const Window& w, at::IntArrayRef x, int64_t channels) {
  Sizes r{x[0], channels};
  for (int i = 0; i < w.n; ++i) r.push_back(w.out(node, i, x[static_cast<size_t>(i) + 2]));
  return r;
}

/// Do symmetric pads give exactly these sizes?
bool plain(const Window& w, at::IntArrayRef in, at::IntArrayRef out) {
  if (!w.symmetric()) return false;
  for (int i = 0; i < w.n; ++i) {
    const int64_t room = in[static_cast<size_t>(i) + 2] + 2 * w.begin[i] - w.extent(i);
    if (room < 0 || room / w.stride[i] + 1 != out[static_cast<size_t>(i) + 2]) return false;
  }
  return true;
}

Kernel conv_kernel(const Node& node) {
  return [conv = Conv(node)](Call& c) {
    const at::Tensor &x = c.in(0), &k = c.in(1);
    const Window w = conv.at(c.node(), k.sizes());
    const Sizes out = conv_sizes(c.node(), w, x.sizes(), k.size(0));
    const c10::optional<at::Tensor> bias = c.has(2) ? c10::optional<at::Tensor>(c.in(2)) : c10::nullopt;
    const Sizes zero(static_cast<size_t>(w.n), 0);
    if (x.numel() == 0 || k.numel() == 0) {
      Sizes column(out.size(), 1);
      column[1] = -1;
      const at::Tensor y = at::zeros(out, x.options());
      return c.set(0, bias ? y + bias->view(column) : y);
    }
    if (plain(w, x.sizes(), out)) {
      c.set(0, at::convolution(x, k, bias, list(w.stride, w.n), list(w.begin, w.n), list(w.dilation, w.n), false, zero,
                               conv.group));
      return;
    }
    const Pads p(w, x.sizes(), out);
    c.set(0, at::convolution(pad_spatial(x, p.before, p.after, 0), k, bias, list(w.stride, w.n), zero,
                             list(w.dilation, w.n), false, zero, conv.group));
  };
}

}  // namespace

at::Tensor sizes_only(const at::Tensor& like, at::IntArrayRef sizes) { return like.new_empty({1}).expand(sizes); }

at::Tensor conv_input_grad(const Window& w, int64_t group, const at::Tensor& dy, const at::Tensor& k,
                           at::IntArrayRef x) {
  const Sizes zero(static_cast<size_t>(w.n), 0);
  const auto run = [&](at::IntArrayRef sizes, const Sizes& pads) {
    return std::get<0>(at::convolution_backward(dy, sizes_only(dy, sizes), k, c10::nullopt, list(w.stride, w.n), pads,
                                                list(w.dilation, w.n), false, zero, group, {true, false, false}));
  };
  if (plain(w, x, dy.sizes())) return run(x, list(w.begin, w.n));
  const Pads p(w, x, dy.sizes());
  Sizes padded(x.begin(), x.end()), before, after;
  for (size_t i = 0; i < zero.size(); ++i) {
    padded[i + 2] += p.before[i] + p.after[i];
    before.push_back(-p.before[i]);
    after.push_back(-p.after[i]);
  }
  return pad_spatial(run(padded, zero), before, after, 0);
}

namespace {

/// w's gradient for y = conv(x, w).
at::Tensor conv_weight_grad(const Window& w, int64_t group, const at::Tensor& x, const at::Tensor& dy,
                            at::IntArrayRef k) {
  const Sizes zero(static_cast<size_t>(w.n), 0);
  const auto run = [&](const at::Tensor& t, const Sizes& pads) {
    return std::get<1>(at::convolution_backward(dy, t, sizes_only(dy, k), c10::nullopt, list(w.stride, w.n), pads,
                                                list(w.dilation, w.n), false, zero, group, {false, true, false}));
  };
  if (plain(w, x.sizes(), dy.sizes())) return run(x, list(w.begin, w.n));
  const Pads p(w, x.sizes(), dy.sizes());
  return run(pad_spatial(x, p.before, p.after, 0), zero);
}

// ConvGradInput(dy, w, shape of x), ConvGradWeight(x, dy, shape of w): attributes as Conv.
void infer_by_shape(Infer& c) {
  const DType t = c.dtype(0);
  const HostInts* s = c.ints(2);
  if (s) return c.out(0, t, Dims(s->v.begin(), s->v.end()));
  if (c.ranked(0)) return c.out(0, t, Dims(c.dims(0).size(), kAnyDim));
  c.out_unranked(0, t);
}

Kernel conv_grad_input_kernel(const Node& node) {
  return [conv = Conv(node)](Call& c) {
    c.set(0, conv_input_grad(conv.at(c.node(), c.in(1).sizes()), conv.group, c.in(0), c.in(1), c.ints(2)));
  };
}

Kernel conv_grad_weight_kernel(const Node& node) {
  return [conv = Conv(node)](Call& c) {
    const Sizes k = c.ints(2);
    c.set(0, conv_weight_grad(conv.at(c.node(), k), conv.group, c.in(0), c.in(1), k));
  };
}

Attrs conv_attrs(const Grad& g) {
  return copy_attrs(g.node(), {"strides", "dilations", "pads", "auto_pad", "group", "kernel_shape"});
}

Grads conv_grad(const Grad& g) {
  const Expr x = g.x(0), k = g.x(1), dy = g.dy();
  const int rank = g.rank(1);
  const Attrs attrs = conv_attrs(g);
  Grads r(g.num_inputs());
  if (g.needs(0)) r[0] = fused("ConvGradInput", {dy, k, shape(x)}, attrs);
  if (g.needs(1)) r[1] = fused("ConvGradWeight", {x, dy, shape(k)}, attrs);
  if (g.needs(2)) {
    std::vector<int64_t> axes{0};
    for (int i = 2; i < rank; ++i) axes.push_back(i);
    r[2] = reduce_sum(dy, axes, false);
  }
  return r;
}

Grads conv_grad_input_grad(const Grad& g) {
  const Attrs attrs = conv_attrs(g);
  Grads r(3);
  if (g.needs(0)) r[0] = g.builder().op("Conv", {g.dy(), g.x(1)}, attrs);
  if (g.needs(1)) r[1] = fused("ConvGradWeight", {g.dy(), g.x(0), shape(g.x(1))}, attrs);
  return r;
}

Grads conv_grad_weight_grad(const Grad& g) {
  const Attrs attrs = conv_attrs(g);
  Grads r(3);
  if (g.needs(0)) r[0] = fused("ConvGradInput", {g.x(1), g.dy(), shape(g.x(0))}, attrs);
  if (g.needs(1)) r[1] = g.builder().op("Conv", {g.x(0), g.dy()}, attrs);
  return r;
}

Expr minus(Builder& b, Expr v) {
  if (const auto k = known_ints(v)) {
    Sizes r;
    for (int64_t e : *k) r.push_back(-e);
    return b.ints(r);
  }
  return -v;
}

/// a + b over int64 vectors, computed now when known.
Expr plus(Builder& b, Expr x, Expr y) {
  const auto p = known_ints(x), q = known_ints(y);
  if (!p || !q) return x + y;
  Sizes r;
  for (size_t i = 0; i < p->size(); ++i) r.push_back((*p)[i] + (*q)[i]);
  return b.ints(r);
}

/// Size of the operand, padded such that the windows end with it: (out - 1) stride + extent.
Expr covered(Builder& b, const Window& w, Expr out) {
  if (const auto o = known_ints(out)) {
    Sizes r;
    for (int i = 0; i < w.n; ++i) r.push_back(((*o)[static_cast<size_t>(i)] - 1) * w.stride[i] + w.extent(i));
    return b.ints(r);
  }
  Sizes rest;
  for (int i = 0; i < w.n; ++i) rest.push_back(w.extent(i) - w.stride[i]);
  return out * b.ints(list(w.stride, w.n)) + b.ints(rest);
}

}  // namespace

Expr conv_input_body(const Window& w, int64_t group, Expr dy, Expr k, Expr in) {
  Builder& b = dy.builder();
  const Expr out = spatial(shape(dy), w.n + 2);
  Attrs attrs = window_attrs(w, false);
  attrs.emplace_back("group", group);
  attrs.emplace_back("kernel_shape", list(w.kernel, w.n));
  const auto known_in = known_ints(in), known_out = known_ints(out);
  bool direct = w.fixed();
  Sizes extra(static_cast<size_t>(w.n), 0);
  for (int i = 0; i < w.n && direct; ++i) {
    const size_t j = static_cast<size_t>(i);
    if (known_in && known_out)
      extra[j] = (*known_in)[j] + w.begin[i] + w.end[i] - ((*known_out)[j] - 1) * w.stride[i] - w.extent(i);
    else
      direct = w.stride[i] == 1;
    direct = direct && extra[j] >= 0 && extra[j] < w.stride[i];
  }
  if (direct) {
    Sizes pads = list(w.begin, w.n);
    pads.insert(pads.end(), w.end.begin(), w.end.begin() + w.n);
    attrs.emplace_back("pads", pads);
    attrs.emplace_back("output_padding", extra);
    return b.op("ConvTranspose", {dy, k}, attrs);
  }
  const Expr before = before_of(b, w, in, out);
  const Expr full = b.op("ConvTranspose", {dy, k}, attrs);
  const Expr after = plus(b, plus(b, in, before), minus(b, covered(b, w, out)));
  return pad_by(full, minus(b, before), after);
}

namespace {

Grads conv_grad_input_body(const Grad& g) {
  const Window w = body_window(g, shape(g.x(1)), g.rank(1) - 2);
  return {conv_input_body(w, g.attr("group", int64_t{1}), g.x(0), g.x(1), spatial(g.x(2), g.rank(1)))};
}

Grads conv_grad_weight_body(const Grad& g) {
  Builder& b = g.builder();
  Expr x = g.x(0), dy = g.x(1);
  const Expr k_shape = g.x(2);
  const int rank = g.rank(0);
  const int64_t group = g.attr("group", int64_t{1});
  const Window w = body_window(g, k_shape, rank - 2);
  const Expr in = spatial(shape(x), rank), out = spatial(shape(dy), rank);
  const Expr before = before_of(b, w, in, out);
  const Expr after = plus(b, covered(b, w, out), minus(b, plus(b, in, before)));
  Window swapped = w;
  swapped.mode = Window::Auto::kNone;
  std::swap(swapped.stride, swapped.dilation);
  swapped.begin.fill(0);
  swapped.end.fill(0);
  const auto p = known_ints(before), q = known_ints(after);
  bool crop = false;
  if (p && q) {
    Sizes cut(p->size(), 0);
    for (size_t i = 0; i < p->size(); ++i) {
      swapped.begin[i] = (*p)[i];
      swapped.end[i] = std::max<int64_t>((*q)[i], 0);
      cut[i] = std::min<int64_t>((*q)[i], 0);
    }
    x = pad_by(x, b.ints(Sizes(p->size(), 0)), b.ints(cut));
  } else if (w.fixed() && std::all_of(w.stride.begin(), w.stride.begin() + w.n, [](int64_t s) { return s == 1; })) {
    swapped.begin = w.begin;
    swapped.end = w.end;
  } else {
    x = pad_by(x, before, after);
  }
  std::vector<int64_t> swap{1, 0};
  for (int i = 2; i < rank; ++i) swap.push_back(i);
  Expr a, c;
  if (group == 1) {
    a = transpose(x, swap);
    c = transpose(dy, swap);
  } else {
    // [N, G C, ..] -> [C, G N, ..] and [N, G M, ..] -> [G M, N, ..]
    std::vector<int64_t> perm{2, 1, 0};
    std::vector<Expr> split{dim(x, 0), b.ints({group}), b.ints({-1})}, join{dim(k_shape, 0), b.ints({-1})};
    const auto ks = known_ints(k_shape);
    const Expr per = ks ? b.ints({(*ks)[1]}) : slice(k_shape, {1}, {2}, {0});
    split[2] = join[0] = per;
    for (int i = 2; i < rank; ++i) {
      perm.push_back(i + 1);
      split.push_back(dim(x, i));
      join.push_back(dim(x, i));
    }
    a = reshape_parts(transpose(reshape_parts(x, split), perm), join);
    c = transpose(dy, swap);
  }
  Attrs attrs = window_attrs(swapped, true);
  attrs.emplace_back("group", group);
  Expr d = b.op("Conv", {a, c}, attrs);
  for (int i = 0; i < w.n; ++i)
    crop = crop || !(is_known(d.type().dims[static_cast<size_t>(i) + 2]) &&
                     d.type().dims[static_cast<size_t>(i) + 2] == w.kernel[i]);
  if (crop) {
    Sizes axes;
    for (int i = 0; i < w.n; ++i) axes.push_back(i + 2);
    d = slice(d, Sizes(axes.size(), 0), list(w.kernel, w.n), axes);
  }
  return {transpose(d, swap)};
}

void infer_conv_integer(Infer& c) {
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, DType::kInt32);
  const Dims &x = c.dims(0), &k = c.dims(1);
  if (x.size() != k.size())
    c.fail("operand and weight differ in rank: got " + to_string(x) + " and " + to_string(k), 1);
  Window w = conv_window(c.node, static_cast<int>(x.size()) - 2);
  check_kernel(c, w, k);
  Dims r{x[0], k[0]};
  for (int i = 0; i < w.n; ++i) r.push_back(w.out(c, i, x[static_cast<size_t>(i) + 2], k[static_cast<size_t>(i) + 2]));
  c.out(0, DType::kInt32, std::move(r));
}

/// Integers of float64 are exact up to 2^53: sums of products of 8-bit numbers never reach it.
Kernel conv_integer_kernel(const Node& node) {
  return [conv = Conv(node)](Call& c) {
    at::Tensor x = c.in(0).to(at::kDouble), k = c.in(1).to(at::kDouble);
    if (c.has(2)) x = x - c.in(2).to(at::kDouble);
    if (c.has(3)) {
      Sizes first(static_cast<size_t>(k.dim()), 1);
      first[0] = -1;
      k = k - c.in(3).to(at::kDouble).view(first);
    }
    const Window w = conv.at(c.node(), k.sizes());
    const Pads p(w, x.sizes(), conv_sizes(c.node(), w, x.sizes(), k.size(0)));
    const Sizes zero(static_cast<size_t>(w.n), 0);
    c.set(0, at::convolution(pad_spatial(x, p.before, p.after, 0), k, c10::nullopt, list(w.stride, w.n), zero,
                             list(w.dilation, w.n), false, zero, conv.group)
                 .to(at::kInt));
  };
}

}  // namespace

OpTable conv_ops() {
  return {
      {.name = "Conv", .infer = infer_conv, .kernel = conv_kernel, .grad = conv_grad, .limits = "1 to 3 spatial axes"},
      {.name = "ConvInteger", .infer = infer_conv_integer, .kernel = conv_integer_kernel, .grad = no_grad},
      {.name = "ConvGradInput",
       .domain = "ortmod",
       .infer = infer_by_shape,
       .kernel = conv_grad_input_kernel,
       .grad = conv_grad_input_grad,
       .body = conv_grad_input_body,
       .host_inputs = 4},
      {.name = "ConvGradWeight",
       .domain = "ortmod",
       .infer = infer_by_shape,
       .kernel = conv_grad_weight_kernel,
       .grad = conv_grad_weight_grad,
       .body = conv_grad_weight_body,
       .host_inputs = 4},
  };
}

}  // namespace ortmod
