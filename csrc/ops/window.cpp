// Windows of convolution and pooling.
#include "ops/window.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/attrs.h"
#include "ops/old_form.h"

namespace ortmod {
namespace {

[[noreturn]] void wrong(const Node& n, const std::string& what) { fail(ErrorKind::kShape, "infer", what, n); }

void fill(const Node& node, std::string_view key, int64_t least, int64_t fallback, Window& w, Window::Sizes& into) {
  into.fill(fallback);
  const auto v = int_list(node, key);
  if (v.empty()) return;
  if (v.size() > Window::kMax)
    wrong(node, std::string(key) + " has too many elements: got " + std::to_string(v.size()) + ", expected at most " +
                    std::to_string(Window::kMax));
  if (w.n && static_cast<int>(v.size()) != w.n)
    wrong(node, std::string(key) + " has a wrong length: got " + std::to_string(v.size()) + ", expected " +
                    std::to_string(w.n));
  w.n = static_cast<int>(v.size());
  for (size_t i = 0; i < v.size(); ++i) {
    if (v[i] < least)
      wrong(node, std::string(key) + " out of range: got " + std::to_string(v[i]) + ", expected at least " +
                      std::to_string(least));
    into[i] = v[i];
  }
}

}  // namespace

Window Window::read(const Node& node) {
  Window w;
  fill(node, "kernel_shape", 1, 0, w, w.kernel);
  fill(node, "strides", 1, 1, w, w.stride);
  fill(node, "dilations", 1, 1, w, w.dilation);
  w.begin.fill(0);
  w.end.fill(0);
  if (const Attr* a = node.find("auto_pad")) {
    const auto* s = std::get_if<std::string>(a);
    if (!s || s->empty() || *s == "NOTSET")
      w.mode = Auto::kNone;
    else if (*s == "VALID")
      w.mode = Auto::kValid;
    else if (*s == "SAME_UPPER")
      w.mode = Auto::kUpper;
    else if (*s == "SAME_LOWER")
      w.mode = Auto::kLower;
    else
      wrong(node, "auto_pad is unknown: got \"" + *s + "\", expected NOTSET, VALID, SAME_UPPER or SAME_LOWER");
  }
  const auto p = int_list(node, "pads");
  if (!p.empty() && w.mode == Auto::kNone) {
    const size_t n = p.size() / 2;
    if (p.size() % 2 || n > kMax || (w.n && static_cast<int>(n) != w.n))
      wrong(node, "pads has a wrong length: got " + std::to_string(p.size()) + ", expected two per spatial axis");
    w.n = static_cast<int>(n);
    for (size_t i = 0; i < n; ++i) {
      if (p[i] < 0 || p[n + i] < 0) wrong(node, "pads must not be negative");
      w.begin[i] = p[i];
      w.end[i] = p[n + i];
    }
  }
  w.ceil = node.attr("ceil_mode", false);
  return w;
}

void Window::fit(const Node& node, int spatial) {
  if (spatial < 1 || spatial > kMax)
    wrong(node, "the operand needs spatial axes: got rank " + std::to_string(spatial + 2) + ", expected 3 to " +
                    std::to_string(kMax + 2));
  if (n && n != spatial)
    wrong(node, "attributes for " + std::to_string(n) + " spatial axes do not fit an operand of rank " +
                    std::to_string(spatial + 2));
  n = spatial;
}

namespace {

Dim size_of(const Window& w, int i, Dim in, Dim k) {
  const int64_t s = w.stride[i];
  if (w.mode == Window::Auto::kUpper || w.mode == Window::Auto::kLower) return dim_div(dim_add(in, s - 1), s);
  const Dim extent = dim_add(dim_mul(dim_sub(k, 1), w.dilation[i]), 1);
  const Dim padded = dim_add(in, w.begin[i] + w.end[i]);
  if (!is_symbolic(padded) && !is_symbolic(extent) && padded < extent) return -1;
  const Dim room = dim_sub(padded, extent);
  if (!w.ceil || w.mode == Window::Auto::kValid) return dim_add(dim_div(room, s), 1);
  // A window that would start in the padding at the end is dropped.
  return dim_min(dim_add(dim_div(dim_add(room, s - 1), s), 1), dim_div(dim_add(in, w.begin[i] + s - 1), s));
}

}  // namespace

Dim Window::out(const Infer& c, int i, Dim in, Dim k) const {
  if (is_known(in) && is_known(k)) return out(c.node, i, in);
  return size_of(*this, i, in, k);
}

int64_t Window::out(const Node& node, int i, int64_t in) const {
  const int64_t r = size_of(*this, i, in, kernel[i]);
  if (r < 0)
    wrong(node, "the window is larger than the padded operand along spatial axis " + std::to_string(i) + ": got " +
                    std::to_string(extent(i)) + " and " + std::to_string(in + begin[i] + end[i]));
  return r;
}

int64_t Window::before(int i, int64_t in, int64_t out) const {
  if (fixed()) return begin[i];
  const int64_t total = std::max<int64_t>((out - 1) * stride[i] + extent(i) - in, 0);
  return mode == Auto::kUpper ? total / 2 : total - total / 2;
}

bool Window::symmetric() const {
  if (!fixed()) return false;
  return std::equal(begin.begin(), begin.begin() + n, end.begin());
}

at::Tensor pad_spatial(const at::Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
                       double value) {
  std::vector<int64_t> pads;
  for (size_t i = before.size(); i-- > 0;) {
    pads.push_back(before[i]);
    pads.push_back(after[i]);
  }
  if (std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p == 0; })) return x;
  return at::constant_pad_nd(x, pads, value);
}

Attrs window_attrs(const Window& w, bool pads) {
  const auto list = [&](const Window::Sizes& s) { return std::vector<int64_t>(s.begin(), s.begin() + w.n); };
  Attrs r{{"strides", list(w.stride)}, {"dilations", list(w.dilation)}};
  if (pads) {
    std::vector<int64_t> p = list(w.begin);
    p.insert(p.end(), w.end.begin(), w.end.begin() + w.n);
    r.emplace_back("pads", std::move(p));
  }
  return r;
}

std::optional<std::vector<int64_t>> known_ints(Expr v) {
  std::vector<int64_t> r;
  if (v.value()->is_constant()) return v.value()->literal->to_ints();
  if (!v.value()->host) return std::nullopt;
  for (Dim d : v.value()->host->v) {
    if (is_symbolic(d)) return std::nullopt;
    r.push_back(d);
  }
  return r;
}

Expr make_shape(Builder& b, const std::vector<Expr>& parts) {
  std::vector<int64_t> all;
  std::vector<Expr> pieces;
  for (const Expr& p : parts) {
    const auto v = known_ints(p);
    if (v) {
      all.insert(all.end(), v->begin(), v->end());
      continue;
    }
    if (!all.empty()) pieces.push_back(b.ints(all));
    all.clear();
    pieces.push_back(p);
  }
  if (!all.empty()) pieces.push_back(b.ints(all));
  return concat(pieces, 0);
}

Expr reshape_parts(Expr x, const std::vector<Expr>& parts) { return reshape(x, make_shape(x.builder(), parts)); }

Expr spatial(Expr shape, int rank) {
  if (const auto v = known_ints(shape)) return shape.builder().ints({v->begin() + 2, v->end()});
  return slice(shape, {2}, {rank}, {0});
}

Expr pad_by(Expr x, Expr before, Expr after) {
  Builder& b = x.builder();
  const auto known_before = known_ints(before), known_after = known_ints(after);
  if (known_before && known_after) {
    std::vector<int64_t> p{0, 0};
    p.insert(p.end(), known_before->begin(), known_before->end());
    p.insert(p.end(), {0, 0});
    p.insert(p.end(), known_after->begin(), known_after->end());
    if (std::all_of(p.begin(), p.end(), [](int64_t v) { return v == 0; })) return x;
    if (b.opset() < 11) return b.op("Pad", {x}, {{"pads", p}});
    return b.op("Pad", {x, b.ints(p)});
  }
  if (b.opset() < 11) {
    cheaper_from(11, "no padding by sizes that are known at run time only");
    fail(ErrorKind::kGradient, "build",
         "padding by sizes that are known at run time only needs opset 11: got " + std::to_string(b.opset()) +
             "; declare the sizes of the inputs or use opset=\"upgrade\"");
  }
  const Expr none = b.ints({0, 0});
  return b.op("Pad", {x, concat({none, before, none, after}, 0)});
}

Expr before_of(Builder& b, const Window& w, Expr in, Expr out) {
  std::vector<int64_t> fixed(w.begin.begin(), w.begin.begin() + w.n);
  if (w.fixed()) return b.ints(fixed);
  const auto i = known_ints(in), o = known_ints(out);
  if (i && o) {
    for (int k = 0; k < w.n; ++k)
      fixed[static_cast<size_t>(k)] = w.before(k, (*i)[static_cast<size_t>(k)], (*o)[static_cast<size_t>(k)]);
    return b.ints(fixed);
  }
  std::vector<int64_t> stride, extent;
  for (int k = 0; k < w.n; ++k) {
    stride.push_back(w.stride[k]);
    extent.push_back(w.extent(k) - w.stride[k]);
  }
  // total = max((out - 1) stride + extent - in, 0), a half of it before; division of what is >= 0 is exact in both
  // roundings.
  const Expr zero = b.ints(std::vector<int64_t>(static_cast<size_t>(w.n), 0)),
             two = b.ints(std::vector<int64_t>(static_cast<size_t>(w.n), 2));
  const Expr raw = out * b.ints(stride) + b.ints(extent) - in;
  const Expr total = where(greater(raw, zero), raw, zero);
  return w.mode == Window::Auto::kUpper ? total / two : total - total / two;
}

}  // namespace ortmod
