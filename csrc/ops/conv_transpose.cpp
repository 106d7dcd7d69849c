// Operators: the transposed convolution.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/attrs.h"
#include "ops/conv.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

struct Transposed {
  Window w;
  int64_t group;
  Sizes extra, shape;  // output_padding, output_shape
  explicit Transposed(const Node& node) : w(Window::read(node)), group(node.attr("group", 1)) {
    const auto e = int_list(node, "output_padding"), s = int_list(node, "output_shape");
    extra.assign(e.begin(), e.end());
    shape.assign(s.begin(), s.end());
  }
  void fit(const Node& node, int spatial) {
    w.fit(node, spatial);
    const size_t n = static_cast<size_t>(spatial);
    if (extra.empty()) extra.assign(n, 0);
    if (extra.size() != n)
      fail(ErrorKind::kShape, "infer", "output_padding has a wrong length: got " + std::to_string(extra.size()), node);
    if (shape.size() == n + 2) shape.erase(shape.begin(), shape.begin() + 2);
    if (!shape.empty() && shape.size() != n)
      fail(ErrorKind::kShape, "infer", "output_shape has a wrong length: got " + std::to_string(shape.size()), node);
  }
  Dim out(int i, Dim in, Dim k) const {
    const size_t j = static_cast<size_t>(i);
    if (!shape.empty()) return shape[j];
    if (!w.fixed()) return dim_mul(in, w.stride[i]);
    const Dim full =
        dim_add(dim_add(dim_mul(dim_sub(in, 1), w.stride[i]), dim_mul(dim_sub(k, 1), w.dilation[i])), 1 + extra[j]);
    return dim_sub(full, w.begin[i] + w.end[i]);
  }
  /// Elements cut off before the first element of the result.
  int64_t before(int i, int64_t in, int64_t o) const {
    if (shape.empty() && w.fixed()) return w.begin[i];
    const int64_t total =
        std::max<int64_t>((in - 1) * w.stride[i] + w.extent(i) + extra[static_cast<size_t>(i)] - o, 0);
    return w.mode == Window::Auto::kUpper ? total / 2 : total - total / 2;
  }
};

void infer_conv_transpose(Infer& c) {
  const DType t = c.dtype(0);
  if (c.dtype(1) != t)
    c.fail("element types differ: got " + std::string(dtype_name(t)) + " and " + std::string(dtype_name(c.dtype(1))),
           1);
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims &x = c.dims(0), &k = c.dims(1);
  if (x.size() != k.size())
    c.fail("operand and weight differ in rank: got " + to_string(x) + " and " + to_string(k), 1);
  Transposed p(c.node);
  p.fit(c.node, static_cast<int>(x.size()) - 2);
  if (p.w.n > 3)
    fail(ErrorKind::kUnsupportedOp, "infer", "convolution over more than 3 axes: got " + std::to_string(p.w.n), c.node);
  check_kernel(c, p.w, k);
  if (differ(x[1], k[0])) c.fail("channels do not fit the weight: got " + to_string(x) + " and " + to_string(k), 0);
  if (p.group < 1 || (is_known(x[1]) && x[1] % p.group))
    c.fail("channels are no multiple of group: got " + to_string(x), 0);
  Dims r{x[0], dim_mul(k[1], p.group)};
  if (c.has(2) && c.ranked(2) && (c.rank(2) != 1 || differ(c.dims(2)[0], r[1])))
    c.fail("the bias does not fit the weight: got " + to_string(c.dims(2)) + ", expected " + to_string(Dims{r[1]}), 2);
  for (int i = 0; i < p.w.n; ++i) {
    const Dim o = p.out(i, x[static_cast<size_t>(i) + 2], k[static_cast<size_t>(i) + 2]);
    if (!is_symbolic(o) && o < 0) c.fail("pads are larger than the result: got size " + std::to_string(o));
    r.push_back(o);
  }
  c.out(0, t, std::move(r));
}

Kernel conv_transpose_kernel(const Node& node) {
  return [made = Transposed(node)](Call& c) {
    Transposed p = made;
    const at::Tensor &x = c.in(0), &k = c.in(1);
    p.fit(c.node(), static_cast<int>(x.dim()) - 2);
    const Window& w = p.w;
    Sizes pads, extra, before, after;
    bool direct = true;
    for (int i = 0; i < w.n; ++i) {
      const size_t j = static_cast<size_t>(i) + 2;
      p.w.kernel[i] = k.size(j);
      const int64_t in = x.size(j), o = p.out(i, in, k.size(j)), cut = p.before(i, in, o);
      const int64_t full = (in - 1) * w.stride[i] + w.extent(i), rest = o - (full - 2 * cut);
      pads.push_back(cut);
      extra.push_back(rest);
      before.push_back(-cut);
      after.push_back(o - full + cut);
      direct = direct && cut >= 0 && rest >= 0 && rest < std::max(w.stride[i], w.dilation[i]);
    }
    const c10::optional<at::Tensor> bias = c.has(2) ? c10::optional<at::Tensor>(c.in(2)) : c10::nullopt;
    if (direct) {
      c.set(0, at::convolution(x, k, bias, list(w.stride, w.n), pads, list(w.dilation, w.n), true, extra, p.group));
      return;
    }
    const Sizes zero(pads.size(), 0);
    at::Tensor y =
        at::convolution(x, k, c10::nullopt, list(w.stride, w.n), zero, list(w.dilation, w.n), true, zero, p.group);
    y = pad_spatial(y, before, after, 0);
    if (bias) {
      Sizes column(static_cast<size_t>(x.dim()), 1);
      column[1] = -1;
      y = y + bias->view(column);
    }
    c.set(0, y);
  };
}

Grads conv_transpose_grad(const Grad& g) {
  Builder& b = g.builder();
  const Expr x = g.x(0), k = g.x(1);
  Expr dy = g.dy();
  const int rank = g.rank(1);
  Transposed p(g.node());
  p.fit(g.node(), rank - 2);
  Window w = body_window(g, shape(k), rank - 2);
  Grads r(g.num_inputs());
  if (g.needs(2)) {
    std::vector<int64_t> axes{0};
    for (int i = 2; i < rank; ++i) axes.push_back(i);
    r[2] = reduce_sum(dy, axes, false);
  }
  // y = full[before .. before + out), full of size (in - 1) stride + extent, zeros beyond: Conv(dy) padded the same way
  // gives x's gradient.
  p.w.kernel = w.kernel;
  Sizes cut(static_cast<size_t>(w.n), 0);
  for (int i = 0; i < w.n; ++i) {
    const size_t j = static_cast<size_t>(i);
    const Dim in = g.dims(0)[j + 2];
    if (!p.shape.empty() && !is_known(in))
      g.fail("ConvTranspose with output_shape needs known sizes", "declare the sizes of its input");
    // Without output_shape the padding does not depend on the size: take 1.
    const int64_t size = is_known(in) ? in : 1;
    const int64_t o = p.out(i, size, w.kernel[i]);
    w.begin[i] = p.before(i, size, o);
    const int64_t end = (size - 1) * w.stride[i] + w.extent(i) - o - w.begin[i];
    w.end[i] = std::max<int64_t>(end, 0);
    cut[j] = std::min<int64_t>(end, 0);
  }
  w.mode = Window::Auto::kNone;
  dy = pad_by(dy, b.ints(Sizes(cut.size(), 0)), b.ints(cut));
  Attrs attrs = window_attrs(w, true);
  attrs.emplace_back("group", p.group);
  attrs.emplace_back("kernel_shape", list(w.kernel, w.n));
  if (g.needs(0)) r[0] = b.op("Conv", {dy, k}, attrs);
  if (g.needs(1)) r[1] = fused("ConvGradWeight", {dy, x, shape(k)}, attrs);
  return r;
}

}  // namespace

OpTable conv_transpose_ops() {
  return {
      {.name = "ConvTranspose",
       .infer = infer_conv_transpose,
       .kernel = conv_transpose_kernel,
       .grad = conv_transpose_grad,
       .limits = "1 to 3 spatial axes"},
  };
}

}  // namespace ortmod
