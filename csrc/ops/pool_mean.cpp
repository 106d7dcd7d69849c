// Operators: pooling by sums (AveragePool, LpPool) and the gradient that they share.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/pool.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

/// How many elements each window divides by, along axis i.
Sizes counts(const Window& w, int i, int64_t in, int64_t out, bool include_pad) {
  const int64_t before = w.before(i, in, out);
  const int64_t least = include_pad ? -before : 0;
  const int64_t end = include_pad ? (w.fixed() ? in + w.end[i] : in + w.after(i, in, out)) : in;
  Sizes r;
  for (int64_t o = 0; o < out; ++o) {
    int64_t n = 0;
    for (int64_t k = 0; k < w.kernel[i]; ++k) {
      const int64_t at = o * w.stride[i] - before + k * w.dilation[i];
      n += at >= least && at < end;
    }
    r.push_back(n);
  }
  return r;
}

/// 1 / counts over the spatial axes of the result (0 for an empty window).
std::vector<double> weights(const Window& w, at::IntArrayRef in, at::IntArrayRef out, bool include_pad) {
  std::vector<double> r{1};
  for (int i = 0; i < w.n; ++i) {
    std::vector<double> next;
    const Sizes n = counts(w, i, in[static_cast<size_t>(i)], out[static_cast<size_t>(i)], include_pad);
    for (double v : r)
      for (int64_t c : n) next.push_back(c ? v / static_cast<double>(c) : 0);
    r = std::move(next);
  }
  return r;
}

at::Tensor weight_tensor(const Window& w, at::IntArrayRef in, at::IntArrayRef out, bool include_pad,
                         const at::Tensor& like) {
  return at::tensor(weights(w, in, out, include_pad), at::kDouble).view(out).to(like.options());
}

at::Tensor ones_kernel(const Window& w, const at::Tensor& like) {
  Sizes k = list(w.kernel, w.n);
  k.insert(k.begin(), {1, 1});
  return at::ones(k, like.options());
}

at::Tensor as_planes(const at::Tensor& x) {
  Sizes s = x.sizes().vec();
  s[0] *= s[1];
  s[1] = 1;
  return x.reshape(s);
}

/// Sums over the windows, of any dilation and padding.
at::Tensor window_sums(const Window& w, const at::Tensor& x, at::IntArrayRef out) {
  const Pads p(w, x.sizes(), out);
  const at::Tensor k = ones_kernel(w, x);
  const Sizes zero(static_cast<size_t>(w.n), 0);
  return at::convolution(pad_spatial(as_planes(x), p.before, p.after, 0), k, c10::nullopt, list(w.stride, w.n), zero,
                         list(w.dilation, w.n), false, zero, 1)
      .view(out);
}

bool aten_average(const Window& w) {
  if (!aten_pads(w)) return false;
  return std::all_of(w.dilation.begin(), w.dilation.begin() + w.n, [](int64_t d) { return d == 1; });
}

struct Plane2 {
  Sizes kernel, stride, pads;
  explicit Plane2(const Window& w)
      : kernel(list(w.kernel, w.n)), stride(list(w.stride, w.n)), pads(list(w.begin, w.n)) {
    if (w.n == 1) {
      kernel.insert(kernel.begin(), 1);
      stride.insert(stride.begin(), 1);
      pads.insert(pads.begin(), 0);
    }
  }
};

Window mean_window(const Call& c, int64_t rank) {
  const Window w = pool_window(c.node(), static_cast<int>(rank) - 2);
  if (w.n > 3) c.fail("pooling over more than 3 axes: got " + std::to_string(w.n), 0);
  return w;
}

Kernel average_pool_kernel(const Node& node) {
  const bool include_pad = node.attr("count_include_pad", false);
  return [=](Call& c) {
    const at::Tensor& x = c.in(0);
    const Window w = mean_window(c, x.dim());
    const Sizes out = pool_sizes(c.node(), w, x.sizes());
    if (aten_average(w)) {
      const Plane2 p(w);
      c.set(0, w.n == 3 ? at::avg_pool3d(x, p.kernel, p.stride, p.pads, w.ceil, include_pad)
                        : at::avg_pool2d(w.n == 1 ? x.unsqueeze(2) : x, p.kernel, p.stride, p.pads, w.ceil, include_pad)
                              .view(out));
      return;
    }
    c.set(0,
          window_sums(w, x, out) * weight_tensor(w, x.sizes().slice(2), at::IntArrayRef(out).slice(2), include_pad, x));
  };
}

// AveragePoolGrad(dy, shape of x): attributes as AveragePool.
void infer_average_pool_grad(Infer& c) {
  if (const HostInts* s = c.ints(1)) return c.out(0, c.dtype(0), Dims(s->v.begin(), s->v.end()));
  if (c.ranked(0)) return c.out(0, c.dtype(0), Dims(c.dims(0).size(), kAnyDim));
  c.out_unranked(0, c.dtype(0));
}

Kernel average_pool_grad_kernel(const Node& node) {
  const bool include_pad = node.attr("count_include_pad", false);
  return [=](Call& c) {
    const at::Tensor& dy = c.in(0);
    Sizes x = c.ints(1);
    const Window w = mean_window(c, dy.dim());
    if (aten_average(w)) {
      const Plane2 p(w);
      if (w.n == 3) {
        c.set(0, at::avg_pool3d_backward(dy, sizes_only(dy, x), p.kernel, p.stride, p.pads, w.ceil, include_pad,
                                         c10::nullopt));
      } else {
        Sizes four = x;
        if (w.n == 1) four.insert(four.begin() + 2, 1);
        c.set(0, at::avg_pool2d_backward(w.n == 1 ? dy.unsqueeze(2) : dy, sizes_only(dy, four), p.kernel, p.stride,
                                         p.pads, w.ceil, include_pad, c10::nullopt)
                     .view(x));
      }
      return;
    }
    const at::Tensor each = dy * weight_tensor(w, at::IntArrayRef(x).slice(2), dy.sizes().slice(2), include_pad, dy);
    Sizes planes = x;
    planes[0] *= planes[1];
    planes[1] = 1;
    c.set(0, conv_input_grad(w, 1, as_planes(each), ones_kernel(w, dy), planes).view(x));
  };
}

Expr ones_kernel(Builder& b, const Window& w, DType t) {
  Sizes k{1, 1};
  int64_t n = 1;
  for (int i = 0; i < w.n; ++i) {
    k.push_back(w.kernel[i]);
    n *= w.kernel[i];
  }
  const std::vector<float> ones(static_cast<size_t>(n), 1);
  return cast(b.literal(Literal::copy(DType::kFloat, Dims(k), ones.data(), ones.size() * sizeof(float))), t);
}

std::vector<Expr> plane_parts(Expr x, int spatial) {
  std::vector<Expr> r{x.builder().ints({-1, 1})};
  for (int i = 0; i < spatial; ++i) r.push_back(dim(x, i + 2));
  return r;
}

/// dy divided by the number of elements of its window.
Expr divided(const Grad& g, const Window& w, Expr dy, Expr in, bool include_pad) {
  Builder& b = g.builder();
  double all = 1;
  bool padded = !w.fixed();
  for (int i = 0; i < w.n; ++i) {
    all *= static_cast<double>(w.kernel[i]);
    padded = padded || w.begin[i] || w.end[i];
  }
  if (!w.ceil && (include_pad || !padded)) return dy / all;
  const Expr out = spatial(shape(dy), w.n + 2);
  const auto i = known_ints(in), o = known_ints(out);
  if (i && o) {
    const std::vector<double> v = weights(w, *i, *o, include_pad);
    const Expr each = b.literal(Literal::copy(DType::kDouble, Dims(*o), v.data(), v.size() * sizeof(double)));
    return dy * cast(each, dy.dtype());
  }
  // The same sizes filled with ones, summed over the windows.
  Expr ones_in = in, before = before_of(b, w, in, out);
  if (include_pad) {
    Sizes both;
    for (int k = 0; k < w.n; ++k) both.push_back(w.begin[k] + w.end[k]);
    ones_in = in + b.ints(both);
    before = b.ints(Sizes(both.size(), 0));
  }
  Window valid = w;
  valid.mode = Window::Auto::kNone;
  Sizes rest;
  for (int k = 0; k < w.n; ++k) rest.push_back(w.extent(k) - w.stride[k]);
  const Expr covered = out * b.ints(list(w.stride, w.n)) + b.ints(rest);
  const Expr ones =
      pad_by(expand(like(dy, 1), concat({b.ints({1, 1}), ones_in}, 0)), before, covered - ones_in - before);
  const Expr n = b.op("Conv", {ones, ones_kernel(b, w, dy.dtype())}, window_attrs(valid, false));
  return dy / max(n, like(n, 1));
}

/// Each element of dy added to all elements of its window, in the shape x_shape.
Expr spread(const Window& w, Expr dy, Expr x_shape) {
  Builder& b = dy.builder();
  const Expr planes = reshape_parts(dy, plane_parts(dy, w.n));
  return reshape_exactly(conv_input_body(w, 1, planes, ones_kernel(b, w, dy.dtype()), spatial(x_shape, w.n + 2)),
                         x_shape);
}

Grads average_pool_grad_body(const Grad& g) {
  const Window w = pool_window(g.node(), g.rank(0) - 2);
  return {spread(w, divided(g, w, g.x(0), spatial(g.x(1), w.n + 2), g.attr("count_include_pad", false)), g.x(1))};
}

Grads average_pool_grad(const Grad& g) { return {fused("AveragePoolGrad", {g.dy(), shape(g.x(0))}, pool_attrs(g))}; }

Grads average_pool_grad_grad(const Grad& g) {
  Grads r(2);
  if (g.needs(0)) r[0] = g.builder().op("AveragePool", {g.dy()}, pool_attrs(g));
  return r;
}

Kernel lp_pool_kernel(const Node& node) {
  const double p = static_cast<double>(node.attr("p", int64_t{2}));
  return [p](Call& c) {
    const at::Tensor& x = c.in(0);
    const Window w = mean_window(c, x.dim());
    const at::Tensor powers = p == 2 ? x * x : p == 1 ? x.abs() : x.abs().pow(p);
    const at::Tensor sums = window_sums(w, powers, pool_sizes(c.node(), w, x.sizes()));
    c.set(0, p == 2 ? sums.sqrt() : p == 1 ? sums : sums.pow(1 / p));
  };
}

Grads lp_pool_grad(const Grad& g) {
  Builder& b = g.builder();
  const double p = static_cast<double>(g.attr("p", int64_t{2}));
  const Expr x = g.x(0);
  Window w = pool_window(g.node(), g.rank(0) - 2);
  Attrs attrs = copy_attrs(g.node(), {"strides", "dilations", "pads", "auto_pad"});
  if (w.ceil) {
    // Padding that makes the last window end with the operand takes the place of ceil_mode.
    Window whole = w;
    for (int i = 0; i < w.n; ++i) {
      const Dim in = g.dims(0)[static_cast<size_t>(i) + 2];
      if (!is_known(in)) g.fail("LpPool with ceil_mode needs known sizes", "declare the sizes of its input");
      whole.end[i] = std::max<int64_t>(w.after(i, in, w.out(g.node(), i, in)), 0);
    }
    if (w.fixed()) attrs = window_attrs(whole, true);
  }
  const Expr scaled = lp_scale(g.dy(), g.y(0), p);
  const Expr planes = reshape_parts(scaled, plane_parts(scaled, w.n));
  const Expr plane_x = reshape_parts(x, plane_parts(x, w.n));
  const Expr sum = fused("ConvGradInput", {planes, ones_kernel(b, w, x.dtype()), shape(plane_x)}, attrs);
  return {reshape_like(sum, x) * lp_slope(x, p)};
}

}  // namespace

OpTable pool_mean_ops() {
  return {
      {.name = "AveragePool",
       .infer = infer_pool,
       .kernel = average_pool_kernel,
       .grad = average_pool_grad,
       .limits = "1 to 3 spatial axes"},
      {.name = "AveragePoolGrad",
       .domain = "ortmod",
       .infer = infer_average_pool_grad,
       .kernel = average_pool_grad_kernel,
       .grad = average_pool_grad_grad,
       .body = average_pool_grad_body,
       .host_inputs = 2},
      {.name = "LpPool",
       .since = 2,
       .infer = infer_pool,
       .kernel = lp_pool_kernel,
       .grad = lp_pool_grad,
       .limits = "1 to 3 spatial axes"},
  };
}

}  // namespace ortmod
