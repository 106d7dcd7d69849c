// Operators: Slice (attributes before opset 10, inputs since; negative steps; run-time starts) and its gradient.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/bind_copy.h"
#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/old_form.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

/// The slice parameters follow the data input, or the data-sized gradient and the original (SliceGrad).
constexpr size_t kForward = 1, kBackward = 2;

constexpr int64_t kFar = INT32_MAX;  // exporters write INT32_MAX or INT64_MAX for "to the end"

/// Size of a slice of a symbolic dimension; an ordinary slice is assumed to lie inside.
Dim symbolic_count(Dim start, Dim end, Dim step, Dim d) {
  if (start == kAnyDim || end == kAnyDim || is_symbolic(step)) return kAnyDim;
  const bool to_end = (!is_symbolic(end) && end >= kFar) || end == d;
  if (step < 0) {
    if (step == -1 && !is_symbolic(start) && (start == -1 || start >= kFar) && !is_symbolic(end) && end <= -kFar)
      return d;
    return kAnyDim;
  }
  auto from_end = [](Dim v) { return !is_symbolic(v) && v < 0; };
  Dim n = kAnyDim;
  if (from_end(start)) {
    if (is_known(d)) return kAnyDim;
    if (to_end) {
      n = start == -1 ? 1 : dim_min(-start, d);
    } else if (from_end(end) && end <= start) {
      n = 0;
    }
  } else if (to_end) {
    n = dim_sub(d, start);
  } else if (from_end(end)) {
    n = dim_sub(d, dim_add(start, -end));
  } else if (!is_symbolic(start) && !is_symbolic(end)) {
    n = end <= start ? 0 : start == 0 && end == 1 ? 1 : dim_min(end - start, dim_sub(d, start));
  } else if (d != 1) {
    n = dim_sub(end, start);
  }
  if (step == 1 || n == kAnyDim) return n;
  return dim_div(dim_add(n, step - 1), step);
}

/// Start, end, axis and step of each sliced axis, from attributes or inputs at inference.
struct Spec {
  size_t count = 0;
  const Dim *start = nullptr, *end = nullptr, *axis = nullptr, *step = nullptr;
  bool unknown = false;
};

Spec spec_of(const Infer& c, size_t at) {
  Spec s;
  if (const std::vector<int64_t>* v = list_attr(c.node, "starts")) {
    const std::vector<int64_t>*e = list_attr(c.node, "ends"), *a = list_attr(c.node, "axes");
    s.count = v->size();
    if (!e || e->size() != s.count || (a && a->size() != s.count)) c.fail("starts, ends and axes differ in length");
    s.start = v->data();
    s.end = e->data();
    s.axis = a ? a->data() : nullptr;
    return s;
  }
  const HostInts* h[4];
  bool have_count = false;
  for (size_t i = 0; i < 4; ++i) {
    h[i] = c.ints(at + i);
    if (i < 2 && !c.has(at + i)) c.fail("a required input is missing", static_cast<int>(at + i));
    if (h[i] && h[i]->v.size() != (have_count ? s.count : h[i]->v.size()))
      c.fail("starts, ends, axes and steps differ in length", static_cast<int>(at + i));
    if (h[i] && !have_count) {
      have_count = true;
      s.count = h[i]->v.size();
    }
  }
  s.start = h[0] ? h[0]->v.data() : nullptr;
  s.end = h[1] ? h[1]->v.data() : nullptr;
  s.axis = h[2] ? h[2]->v.data() : nullptr;
  s.step = h[3] ? h[3]->v.data() : nullptr;
  s.unknown = !have_count || (c.has(at + 2) && !is_plain(h[2])) || (c.has(at + 3) && !is_plain(h[3]));
  return s;
}

void slice_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out_unranked(0, t);
  const Spec s = spec_of(c, kForward);
  Dims to = c.dims();
  if (s.unknown) {
    if (c.has(kForward + 2) && !is_plain(c.ints(kForward + 2))) {
      to.assign(to.size(), kAnyDim);
    } else {
      for (size_t i = 0; i < (s.count ? s.count : to.size()); ++i)
        if (const auto a = wrap_axis(s.axis ? s.axis[i] : static_cast<int64_t>(i), c.rank()))
          to[static_cast<size_t>(*a)] = kAnyDim;
    }
    return c.out(0, t, std::move(to));
  }
  SlicePart only{0, 1, 0};
  bool plain = true;
  for (size_t i = 0; i < s.count; ++i) {
    const size_t a = static_cast<size_t>(c.axis(s.axis ? s.axis[i] : static_cast<int64_t>(i), c.rank()));
    const Dim start = s.start ? s.start[i] : kAnyDim, end = s.end ? s.end[i] : kAnyDim, step = s.step ? s.step[i] : 1,
              d = c.dims()[a];
    if (step == 0) c.fail("a step is zero", 4);
    if (is_known(d) && !is_symbolic(start) && !is_symbolic(end)) {
      only = slice_part(start, end, step, d);
      to[a] = only.count;
    } else {
      plain = false;
      to[a] = symbolic_count(start, end, step, d);
    }
  }
  if (const HostInts* h = c.ints(0); h && plain && to.size() == 1 && s.count == 1) {
    HostInts o{to, {}};
    for (int64_t k = 0; k < only.count; ++k) o.v.push_back(h->v[static_cast<size_t>(only.start + k * only.step)]);
    c.out_ints(0, std::move(o));
  }
  c.out(0, t, std::move(to));
}

/// The part of x that a node's parameters select, as a view where no step is negative.
struct Selection {
  explicit Selection(const Node& n)
      : attrs(n.has("starts")), starts(n.ints("starts")), ends(n.ints("ends")), axes(n.ints("axes")) {}
  bool attrs;
  std::vector<int64_t> starts, ends, axes;

  /// Narrows `x`; axes that run backwards are listed in `flips` (the view runs forwards).
  at::Tensor view(const Call& c, size_t at, at::Tensor x, std::vector<int64_t>& flips) const {
    const std::vector<int64_t> s = attrs ? starts : c.ints(at), e = attrs ? ends : c.ints(at + 1);
    std::vector<int64_t> a = attrs ? axes : c.has(at + 2) ? c.ints(at + 2) : std::vector<int64_t>{};
    const std::vector<int64_t> p = !attrs && c.has(at + 3) ? c.ints(at + 3) : std::vector<int64_t>(s.size(), 1);
    if (a.empty())
      for (size_t i = 0; i < s.size(); ++i) a.push_back(static_cast<int64_t>(i));
    if (e.size() != s.size() || a.size() != s.size() || p.size() != s.size())
      c.fail("starts, ends, axes and steps differ in length");
    for (size_t i = 0; i < s.size(); ++i) {
      const auto axis = wrap_axis(a[i], x.dim());
      if (!axis) c.fail("axis out of range: got " + std::to_string(a[i]) + " for rank " + std::to_string(x.dim()));
      if (p[i] == 0) c.fail("a step is zero");
      const SlicePart r = slice_part(s[i], e[i], p[i], x.size(*axis));
      if (r.count == 0) {
        x = x.narrow(*axis, 0, 0);
      } else if (r.step > 0) {
        x = x.slice(*axis, r.start, r.start + (r.count - 1) * r.step + 1, r.count == 1 ? 1 : r.step);
      } else {
        x = x.slice(*axis, r.start + (r.count - 1) * r.step, r.start + 1, r.count == 1 ? 1 : -r.step);
        flips.push_back(*axis);
      }
    }
    return x;
  }
};

Kernel slice_kernel(const Node& n) {
  return [s = Selection(n)](Call& c) {
    std::vector<int64_t> flips;
    const at::Tensor v = s.view(c, kForward, c.in(), flips);
    c.set(0, flips.empty() ? v : v.flip(flips));
  };
}

Grads slice_grad(const Grad& g) {
  std::vector<Expr> in = {g.dy(), g.x()};
  for (size_t i = 1; i < g.num_inputs(); ++i) in.push_back(g.x(i));
  return only_first(g, fused("SliceGrad", in, copy_attrs(g.node(), {"starts", "ends", "axes"})));
}

// ---- SliceGrad(dy, x, starts, ends, axes, steps): dy in its place among zeros; only the shape of x is read

void slice_grad_infer(Infer& c) { c.out(0, Type(c.type(1))); }

Kernel slice_grad_kernel(const Node& n) {
  return [s = Selection(n)](Call& c) {
    at::Tensor& y = c.out(0);
    const at::IntArrayRef shape = c.in(1).sizes();
    if (y.sizes() != shape) y.resize_(shape);
    y.zero_();
    std::vector<int64_t> flips;
    at::Tensor v = s.view(c, kBackward, y, flips);
    v.copy_(flips.empty() ? c.in(0) : c.in(0).flip(flips));
  };
}

/// What is known of the parameters when the gradient is built; axes and steps filled in.
struct Known {
  std::vector<int64_t> starts, ends, axes, steps;
  bool bounds = true;  // starts and ends are constants
  bool unit = true;    // all steps are 1
};

std::optional<Known> known_parameters(const Grad& g, size_t at) {
  Known k;
  size_t n;
  if (g.node().has("starts")) {
    k.starts = g.ints("starts");
    k.ends = g.ints("ends");
    k.axes = g.ints("axes");
    n = k.starts.size();
  } else {
    const auto starts = g.const_ints(at), ends = g.const_ints(at + 1), axes = g.const_ints(at + 2),
               steps = g.const_ints(at + 3);
    if ((g.has_x(at + 2) && !axes) || (g.has_x(at + 3) && !steps)) return std::nullopt;
    k.bounds = starts && ends;
    if (k.bounds) {
      k.starts = *starts;
      k.ends = *ends;
    }
    const Type& t = g.type(at);
    if (!k.bounds && !axes && (t.rank() != 1 || !is_known(t.dims[0]))) return std::nullopt;
    n = k.bounds ? k.starts.size() : axes ? axes->size() : static_cast<size_t>(t.dims[0]);
    if (axes) k.axes = *axes;
    if (steps) k.steps = *steps;
  }
  if (k.axes.empty())
    for (size_t i = 0; i < n; ++i) k.axes.push_back(static_cast<int64_t>(i));
  k.steps.resize(n, 1);
  for (int64_t s : k.steps) k.unit = k.unit && s == 1;
  for (int64_t& a : k.axes)
    if (a < 0) a += g.rank(1);
  return k;
}

/// Pad by run-time amounts: before = min(start, size), after = what is left.
Expr pad_zeros(const Grad& g, const Known& k) {
  const Expr dy = g.x(0), x = g.x(1);
  Builder& b = g.builder();
  std::vector<Expr> before(static_cast<size_t>(g.rank(1)), b.ints({0}));
  for (size_t i = 0; i < k.axes.size(); ++i) {
    const Expr d = dim(x, k.axes[i]), zero = b.ints({0});
    Expr& p = before[static_cast<size_t>(k.axes[i])];
    if (k.bounds) {
      if (k.starts[i] != 0) p = k.starts[i] > 0 ? min(b.ints({k.starts[i]}), d) : max(d + b.ints({k.starts[i]}), zero);
    } else {
      const Expr s = cast(gather(g.x(kBackward), b.ints({static_cast<int64_t>(i)}), 0), DType::kInt64);
      p = max(min(where(less(s, zero), s + d, s), d), zero);
    }
  }
  const Expr left = concat(before, 0);
  return b.op("Pad", {dy, concat({left, shape(x) - left - shape(dy)}, 0)});
}

/// Zeros before and after, axis by axis, when sizes are only known at run time: any opset, steps of 1.
Expr join_zeros(Expr dy, Expr x, const Known& k) {
  Expr r = dy;
  for (size_t i = k.axes.size(); i-- > 0;) {
    auto border = [&](int64_t start, int64_t end) {
      std::vector<int64_t> s(k.starts.begin(), k.starts.begin() + static_cast<int64_t>(i)),
          e(k.ends.begin(), k.ends.begin() + static_cast<int64_t>(i)),
          a(k.axes.begin(), k.axes.begin() + static_cast<int64_t>(i) + 1);
      s.push_back(start);
      e.push_back(end);
      return zeros_like(slice(x, s, e, a));
    };
    std::vector<Expr> parts;
    if (k.starts[i] != 0) parts.push_back(border(0, k.starts[i]));
    parts.push_back(r);
    if (k.ends[i] < kFar) parts.push_back(border(k.ends[i], INT64_MAX));
    r = concat(parts, k.axes[i]);
  }
  return r;
}

Grads slice_grad_body(const Grad& g) {
  const Expr dy = g.x(0), x = g.x(1);
  Builder& b = g.builder();
  const auto k = known_parameters(g, kBackward);
  if (k && k->bounds && k->unit) {
    std::vector<int64_t> pads(static_cast<size_t>(2 * g.rank(1)), 0);
    bool sized = true, ordered = true;
    for (size_t i = 0; i < k->axes.size(); ++i) {
      const int64_t start = k->starts[i], end = k->ends[i];
      const Dim d = x.type().dims[static_cast<size_t>(k->axes[i])];
      ordered = ordered && (end >= kFar || start == 0 || ((start < 0) == (end < 0) && start <= end));
      sized = sized && is_known(d);
      if (!is_known(d)) continue;
      const SlicePart r = slice_part(start, end, 1, d);
      pads[static_cast<size_t>(k->axes[i])] = r.count ? r.start : 0;
      pads[static_cast<size_t>(g.rank(1) + k->axes[i])] = r.count ? d - r.start - r.count : d;
    }
    if (sized) {
      if (std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p == 0; })) return {dy};
      return {b.opset() >= 11 ? b.op("Pad", {dy, b.ints(pads)}) : b.op("Pad", {dy}, {{"pads", pads}})};
    }
    if (b.opset() < 9 || (ordered && b.opset() < 12)) {
      cheaper_from(12, "zeros joined axis by axis in place of Pad");
      return {join_zeros(dy, x, *k)};
    }
  }
  if (k && k->unit && b.opset() >= 12) return {pad_zeros(g, *k)};
  if (k && k->unit) cheaper_from(12, "writing by index in place of Pad");
  const Expr all = shape(x), image = index_image(all);
  Expr picked;
  if (g.node().has("starts")) {
    picked = slice(image, k->starts, k->ends, k->axes);
  } else {
    std::vector<Expr> in = {image};
    for (size_t i = kBackward; i < g.num_inputs(); ++i) in.push_back(g.x(i));
    picked = b.op("Slice", in);
  }
  const Expr empty = zeros(reshape(size(x), std::vector<int64_t>{1}), dy.dtype());
  const Expr filled = b.op(b.opset() >= 11 ? "ScatterElements" : "Scatter",
                           {empty, flatten_all(picked), flatten_all(dy)}, {{"axis", int64_t{0}}});
  return {reshape_like(filled, x)};
}

Grads slice_grad_grad(const Grad& g) {
  std::vector<Expr> in = {g.dy()};
  for (size_t i = kBackward; i < g.num_inputs(); ++i) in.push_back(g.x(i));
  return only_first(g, g.builder().op("Slice", in, copy_attrs(g.node(), {"starts", "ends", "axes"})));
}

}  // namespace

OpTable slice_ops() {
  return {
      {.name = "Slice",
       .infer = slice_infer,
       .kernel = slice_kernel,
       .bind = bind_slice,
       .grad = slice_grad,
       .exact = true,
       .host_inputs = 0b11110},
      {.name = "SliceGrad",
       .domain = "ortmod",
       .infer = slice_grad_infer,
       .kernel = slice_grad_kernel,
       .bind = bind_slice_grad,
       .grad = slice_grad_grad,
       .body = slice_grad_body,
       .exact = true,
       .host_inputs = 0b111100,
       .shape_inputs = 0b10},
  };
}

}  // namespace ortmod
