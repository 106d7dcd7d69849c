// Operators: pooling by the maximum, its gradient and its inverse; global pooling.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "ops/attrs.h"
#include "ops/bind_pool.h"
#include "ops/conv.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/old_form.h"
#include "ops/pool.h"
#include "ops/registry.h"

namespace ortmod {

Window pool_window(const Node& node, int spatial) {
  Window w = Window::read(node);
  w.fit(node, spatial);
  if (!w.kernel[0]) fail(ErrorKind::kModel, "infer", "the attribute kernel_shape is missing", node);
  return w;
}

void infer_pool(Infer& c) {
  const DType t = c.dtype(0);
  if (!c.ranked(0)) {
    c.out_unranked(0, t);
    return c.out_unranked(1, DType::kInt64);
  }
  const Dims& x = c.dims(0);
  const Window w = pool_window(c.node, static_cast<int>(x.size()) - 2);
  Dims r{x[0], x[1]};
  for (int i = 0; i < w.n; ++i) r.push_back(w.out(c, i, x[static_cast<size_t>(i) + 2], w.kernel[i]));
  if (c.wants(1)) c.out(1, DType::kInt64, r);
  c.out(0, t, std::move(r));
}

Attrs pool_attrs(const Grad& g) {
  return copy_attrs(g.node(),
                    {"kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode", "count_include_pad"});
}

Sizes pool_sizes(const Node& node, const Window& w, at::IntArrayRef x) {
  Sizes r{x[0], x[1]};
  for (int i = 0; i < w.n; ++i) r.push_back(w.out(node, i, x[static_cast<size_t>(i) + 2]));
  return r;
}

bool aten_pads(const Window& w) {
  if (!w.symmetric()) return false;
  for (int i = 0; i < w.n; ++i)
    if (w.begin[i] * 2 > w.kernel[i]) return false;
  return true;
}

namespace {

/// Strides by which coordinates make a flat index: row-major, or column-major (storage_order 1).
Sizes index_strides(at::IntArrayRef in, bool column_major) {
  Sizes r(in.size(), 1);
  for (size_t i = 1; i < in.size(); ++i) {
    if (column_major)
      r[i] = r[i - 1] * in[i - 1];
    else
      r[in.size() - 1 - i] = r[in.size() - i] * in[in.size() - i];
  }
  return r;
}

/// ATen's indices within a padded plane become ONNX's indices into the whole tensor.
at::Tensor whole_indices(const at::Tensor& local, at::IntArrayRef x, at::IntArrayRef padded, const Sizes& before,
                         bool column_major) {
  const at::IntArrayRef in = x.slice(2), full = padded.slice(2);
  const Sizes stride = index_strides(in, column_major);
  const int64_t plane = c10::multiply_integers(in);
  Sizes lead(x.size(), 1);
  lead[0] = x[0];
  lead[1] = x[1];
  at::Tensor r = at::arange(x[0] * x[1], local.options()).mul_(plane).view(lead);
  if (!column_major && in == full) return r + local;
  at::Tensor rest = local;
  for (size_t i = in.size(); i-- > 0;) {
    const at::Tensor at = rest.remainder(full[i]).sub_(before[i]).clamp_(0, in[i] - 1);
    rest = at::div(rest, full[i], "floor");
    r = r + at.mul(stride[i]);
  }
  return r;
}

Kernel max_pool_kernel(const Node& node) {
  const bool column_major = node.attr("storage_order", false);
  return [=](Call& c) {
    at::Tensor x = c.in(0);
    const Window w = pool_window(c.node(), static_cast<int>(x.dim()) - 2);
    if (w.n > 3) c.fail("MaxPool over more than 3 axes: got " + std::to_string(w.n), 0);
    const Sizes sizes = x.sizes().vec(), out = pool_sizes(c.node(), w, sizes);
    Sizes kernel = list(w.kernel, w.n), stride = list(w.stride, w.n), dilation = list(w.dilation, w.n),
          pads(kernel.size(), 0);
    Sizes before(kernel.size(), 0);
    bool ceil = w.ceil;
    const at::ScalarType t = x.scalar_type();
    if (!at::isFloatingType(t)) x = x.to(at::kFloat);
    if (aten_pads(w)) {
      pads = list(w.begin, w.n);
    } else {
      const Pads p(w, sizes, out);
      x = pad_spatial(x, p.before, p.after, -std::numeric_limits<double>::infinity());
      before = p.before;
      ceil = false;
    }
    const Sizes padded = x.sizes().vec();
    if (w.n == 1) {
      x = x.unsqueeze(2);
      for (Sizes* s : {&kernel, &stride, &dilation}) s->insert(s->begin(), 1);
      pads.insert(pads.begin(), 0);
    }
    auto [y, local] = w.n == 3 ? at::max_pool3d_with_indices(x, kernel, stride, pads, dilation, ceil)
                               : at::max_pool2d_with_indices(x, kernel, stride, pads, dilation, ceil);
    y = y.view(out);
    if (!at::isFloatingType(t)) y = y.clamp_min_(t == at::kByte ? 0 : -128).to(t);
    c.set(0, y);
    if (c.wants(1)) c.set(1, whole_indices(local.view(out), sizes, padded, before, column_major));
  };
}

// MaxPoolGrad(dy, indices, shape of x): indices into the whole tensor, row-major.
void infer_max_pool_grad(Infer& c) {
  if (const HostInts* s = c.ints(2)) return c.out(0, c.dtype(0), Dims(s->v.begin(), s->v.end()));
  if (c.ranked(0)) return c.out(0, c.dtype(0), Dims(c.dims(0).size(), kAnyDim));
  c.out_unranked(0, c.dtype(0));
}

Kernel max_pool_grad_kernel(const Node&) {
  return [](Call& c) {
    const at::Tensor &dy = c.in(0), &indices = c.in(1);
    at::Tensor dx = at::zeros(c.ints(2), dy.options());
    if (dx.device().is_cpu() && dy.dim() > 2 && dy.numel()) {
      const int64_t planes = dy.size(0) * dy.size(1), n = dy.numel() / planes;
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dy.scalar_type(), "max_pool_grad", [&] {
        const scalar_t* from = dy.const_data_ptr<scalar_t>();
        const int64_t* at = indices.const_data_ptr<int64_t>();
        scalar_t* to = dx.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, planes, std::max<int64_t>(1, 16384 / n), [&](int64_t b, int64_t e) {
          for (int64_t i = b * n; i < e * n; ++i) to[at[i]] += from[i];
        });
      });
    } else {
      dx.view({-1}).scatter_add_(0, indices.reshape({-1}), dy.reshape({-1}));
    }
    c.set(0, dx);
  };
}

Grads max_pool_grad_grad(const Grad& g) {
  Grads r(3);
  if (g.needs(0)) r[0] = gather(flatten_all(g.dy()), g.x(1), 0);
  return r;
}

/// Before opset 16 nothing adds at indices: each window's gradient is spread over the elements of the window by a mask,
/// then a transposed convolution with the identity puts them in place.
Grads max_pool_grad_body(const Grad& g) {
  Builder& b = g.builder();
  const Expr dy = g.x(0), indices = g.x(1), x_shape = g.x(2);
  const int rank = g.rank(0);
  if (b.opset() < 8) g.fail("the positions of the maxima came with opset 8", "use opset=\"upgrade\"");
  if (b.opset() >= 16) {
    const auto known = known_ints(x_shape);
    Expr zeros;
    if (known) {
      int64_t n = 1;
      for (int64_t d : *known) n *= d;
      zeros = b.op("ConstantOfShape", {b.ints({n})}, {{"value", Literal::scalar(dy.dtype(), 0, Dims{1})}});
    } else {
      zeros = b.op("ConstantOfShape", {reduce("ReduceProd", x_shape, {0}, true)},
                   {{"value", Literal::scalar(dy.dtype(), 0, Dims{1})}});
    }
    const Expr sum = b.op("ScatterElements", {zeros, flatten_all(indices), flatten_all(dy)},
                          {{"axis", int64_t{0}}, {"reduction", std::string("add")}});
    return {reshape_exactly(sum, x_shape)};
  }
  cheaper_from(16, "masks and a transposed convolution in place of additions by index");
  const Window w = pool_window(g.node(), rank - 2);
  const Expr in = spatial(x_shape, rank), out = spatial(shape(dy), rank), before = before_of(b, w, in, out);
  const size_t n = static_cast<size_t>(w.n);
  const auto pick = [&](Expr v, size_t i) {
    if (const auto k = known_ints(v)) return b.ints({(*k)[i]});
    return gather(v, b.ints({static_cast<int64_t>(i)}), 0);
  };
  // position[k.., o..] = sum over axes of (o stride + k dilation - before) times the axis's stride in the plane.
  Expr position, stride = b.ints({1});
  int64_t elements = 1;
  for (size_t i = n; i-- > 0;) {
    Sizes taps, tap_shape(2 * n, 1), out_shape(2 * n, 1);
    for (int64_t k = 0; k < w.kernel[i]; ++k) taps.push_back(k * w.dilation[i]);
    elements *= w.kernel[i];
    tap_shape[i] = w.kernel[i];
    out_shape[n + i] = -1;
    Expr steps;
    if (const auto o = known_ints(out)) {
      Sizes v;
      for (int64_t k = 0; k < (*o)[i]; ++k) v.push_back(k * w.stride[i]);
      steps = b.ints(v);
    } else {
      if (b.opset() < 11)
        g.fail("sizes that are known at run time only need opset 11",
               "declare the sizes of the inputs or use opset=\"upgrade\"");
      steps = b.op("Range", {b.int_scalar(0), squeeze(pick(out, i), {0}), b.int_scalar(1)}) * b.int_scalar(w.stride[i]);
    }
    const Expr at = (reshape(b.ints(taps), tap_shape) + reshape(steps, out_shape) - pick(before, i)) * stride;
    position = position ? position + at : at;
    stride = stride * pick(in, i);
  }
  Sizes after_channels;
  for (size_t i = 0; i < n; ++i) after_channels.push_back(static_cast<int64_t>(i) + 2);
  const Expr local = indices - indices / stride * stride;
  const Expr hit = cast(equal(unsqueeze(local, after_channels), position), dy.dtype());
  std::vector<Expr> parts{b.ints({-1, elements})};
  for (int i = 2; i < rank; ++i) parts.push_back(dim(dy, i));
  const Expr spread = reshape_parts(unsqueeze(dy, after_channels) * hit, parts);
  Sizes eye_shape{elements, 1};
  for (size_t i = 0; i < n; ++i) eye_shape.push_back(w.kernel[i]);
  std::vector<float> eye(static_cast<size_t>(elements * elements), 0);
  for (int64_t i = 0; i < elements; ++i) eye[static_cast<size_t>(i * elements + i)] = 1;
  const Expr identity = cast(
      b.literal(Literal::copy(DType::kFloat, Dims(eye_shape), eye.data(), eye.size() * sizeof(float))), dy.dtype());
  return {reshape_exactly(conv_input_body(w, 1, spread, identity, in), x_shape)};
}

Grads max_pool_grad(const Grad& g) {
  Grads r(1);
  if (!g.needs(0) || !g.dy(0)) return r;
  Expr indices;
  if (g.attr("storage_order", int64_t{0}) == 1)
    indices = g.builder().multi("", "MaxPool", {g.x(0)}, 2, pool_attrs(g))[1];
  else
    indices = g.y(1);
  r[0] = fused("MaxPoolGrad", {g.dy(0), indices, shape(g.x(0))}, pool_attrs(g));
  return r;
}

// Global pooling: all spatial axes become one element.
void infer_global(Infer& c) {
  if (!c.ranked(0)) return c.out_unranked(0, c.dtype(0));
  const Dims& x = c.dims(0);
  if (x.size() < 2) c.fail("the operand needs a batch and a channel axis: got " + to_string(x), 0);
  Dims r(x.size(), 1);
  r[0] = x[0];
  r[1] = x[1];
  c.out(0, c.dtype(0), std::move(r));
}

Sizes spatial_axes(int64_t rank) {
  Sizes r;
  for (int64_t i = 2; i < rank; ++i) r.push_back(i);
  return r;
}

Kernel global_average_kernel(const Node&) {
  return [](Call& c) {
    if (c.in(0).dim() == 2) return c.set(0, c.in(0));
    at::mean_out(c.out(0), c.in(0), spatial_axes(c.in(0).dim()), true);
  };
}

Grads global_average_grad(const Grad& g) {
  const Expr x = g.x(0), dy = g.dy();
  int64_t n = 1;
  bool known = true;
  for (int i = 2; i < g.rank(0); ++i) {
    const Dim d = g.dims(0)[static_cast<size_t>(i)];
    known = known && is_known(d);
    n *= known ? d : 1;
  }
  const Expr each = known ? dy / static_cast<double>(n) : dy / cast(size(x) / size(dy), dy.dtype());
  return {expand_like(each, x)};
}

Kernel global_max_kernel(const Node&) {
  return [](Call& c) {
    if (c.in(0).dim() == 2) return c.set(0, c.in(0));
    at::amax_out(c.out(0), c.in(0), spatial_axes(c.in(0).dim()), true);
  };
}

/// Equal maxima share the gradient.
Grads global_max_grad(const Grad& g) {
  const Expr hit = cast(equal(g.x(0), g.y(0)), g.dy().dtype());
  const Sizes axes = spatial_axes(g.rank(0));
  return {axes.empty() ? g.dy() : hit * (g.dy() / reduce_sum(hit, axes, true))};
}

Kernel global_lp_kernel(const Node& node) {
  const double p = static_cast<double>(node.attr("p", int64_t{2}));
  return [p](Call& c) {
    const Sizes axes = spatial_axes(c.in(0).dim());
    if (axes.empty()) return c.set(0, c.in(0).abs());
    c.set(0, at::linalg_vector_norm(c.in(0), p, axes, true));
  };
}

Grads global_lp_grad(const Grad& g) {
  return {lp_slope(g.x(0), static_cast<double>(g.attr("p", int64_t{2}))) *
          lp_scale(g.dy(), g.y(0), static_cast<double>(g.attr("p", int64_t{2})))};
}

void infer_max_unpool(Infer& c) {
  const DType t = c.dtype(0);
  if (!c.ranked(0)) return c.out_unranked(0, t);
  const Dims& x = c.dims(0);
  const Window w = pool_window(c.node, static_cast<int>(x.size()) - 2);
  if (c.has(2)) {
    const HostInts* s = c.ints(2);
    return c.out(0, t, s ? Dims(s->v.begin(), s->v.end()) : Dims(x.size(), kAnyDim));
  }
  Dims r{x[0], x[1]};
  for (int i = 0; i < w.n; ++i) {
    const Dim full = dim_add(dim_mul(dim_sub(x[static_cast<size_t>(i) + 2], 1), w.stride[i]), w.kernel[i]);
    r.push_back(dim_sub(full, w.begin[i] + w.end[i]));
  }
  c.out(0, t, std::move(r));
}

Kernel max_unpool_kernel(const Node&) {
  return [](Call& c) {
    const at::Tensor& x = c.in(0);
    Sizes out;
    if (c.has(2)) {
      out = c.ints(2);
    } else {
      const Window w = pool_window(c.node(), static_cast<int>(x.dim()) - 2);
      out = {x.size(0), x.size(1)};
      for (int i = 0; i < w.n; ++i)
        out.push_back((x.size(i + 2) - 1) * w.stride[i] + w.kernel[i] - w.begin[i] - w.end[i]);
    }
    at::Tensor y = at::zeros(out, x.options());
    y.view({-1}).scatter_(0, c.in(1).reshape({-1}), x.reshape({-1}));
    c.set(0, y);
  };
}

Grads max_unpool_grad(const Grad& g) {
  Grads r(g.num_inputs());
  if (g.needs(0)) r[0] = gather(flatten_all(g.dy()), g.x(1), 0);
  return r;
}

}  // namespace

/// |x|^(p-1) sign(x).
Expr lp_slope(Expr x, double p) {
  if (p == 2) return x;
  if (p == 1) return sign(x);
  return pow(abs(x), like(x, p - 1)) * sign(x);
}

/// dy y^(1-p), 0 where y is 0.
Expr lp_scale(Expr dy, Expr y, double p) {
  if (p == 1) return dy;
  const Expr zero = equal(y, like(y, 0));
  const Expr safe = y + cast(zero, y.dtype());
  const Expr scaled = p == 2 ? dy / safe : dy / pow(safe, like(y, p - 1));
  return scaled * cast(logical_not(zero), y.dtype());
}

OpTable pool_ops() {
  return {
      {.name = "MaxPool",
       .infer = infer_pool,
       .kernel = max_pool_kernel,
       .bind = bind_max_pool,
       .grad = max_pool_grad,
       .limits = "1 to 3 spatial axes"},
      {.name = "MaxPoolGrad",
       .domain = "ortmod",
       .infer = infer_max_pool_grad,
       .kernel = max_pool_grad_kernel,
       .bind = bind_max_pool_grad,
       .grad = max_pool_grad_grad,
       .body = max_pool_grad_body,
       .host_inputs = 4},
      {.name = "MaxUnpool",
       .infer = infer_max_unpool,
       .kernel = max_unpool_kernel,
       .grad = max_unpool_grad,
       .host_inputs = 4},
      {.name = "GlobalAveragePool",
       .infer = infer_global,
       .kernel = global_average_kernel,
       .grad = global_average_grad},
      {.name = "GlobalMaxPool", .infer = infer_global, .kernel = global_max_kernel, .grad = global_max_grad},
      {.name = "GlobalLpPool", .infer = infer_global, .kernel = global_lp_kernel, .grad = global_lp_grad},
  };
}

}  // namespace ortmod
