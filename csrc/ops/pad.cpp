// Operators: Pad (constant, reflect, edge, wrap; attributes before opset 11, inputs since) and the gradient of its
// borders.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/old_form.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

enum class Mode : uint8_t { kConstant, kReflect, kEdge, kWrap };

Mode mode_of(const Node& n) {
  const std::string m = n.attr("mode", "constant");
  if (m == "reflect") return Mode::kReflect;
  if (m == "edge") return Mode::kEdge;
  if (m == "wrap") return Mode::kWrap;
  if (m != "constant") fail(ErrorKind::kModel, "infer", "unknown mode: got \"" + m + "\"", n);
  return Mode::kConstant;
}

/// Where position i of a padded axis reads an axis of size d.
int64_t source(Mode mode, int64_t i, int64_t d) {
  if (i >= 0 && i < d) return i;
  if (mode == Mode::kEdge) return i < 0 ? 0 : d - 1;
  if (mode == Mode::kWrap) return ((i % d) + d) % d;
  if (d == 1) return 0;
  const int64_t period = 2 * (d - 1), k = ((i % period) + period) % period;
  return k < d ? k : period - k;
}

void pad_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out_unranked(0, t);
  Dims to = c.dims();
  const int64_t r = c.rank();
  const std::vector<int64_t>* attr = c.version() < 11 ? list_attr(c.node, "pads") : nullptr;
  const HostInts *h = attr ? nullptr : c.ints(1), *axes = c.version() >= 18 ? c.ints(3) : nullptr;
  const bool some = c.version() >= 18 && c.has(3);
  if (!attr && !c.has(1)) c.fail("the pads are missing", 1);
  if ((!attr && !h) || (some && !is_plain(axes))) return c.out(0, t, Dims(to.size(), kAnyDim));
  const size_t n = some ? axes->v.size() : to.size(), count = attr ? attr->size() : h->v.size();
  if (count != 2 * n)
    c.fail("pads has " + std::to_string(count) + " entries, expected " + std::to_string(2 * n), attr ? 0 : 1);
  const Dim* p = attr ? attr->data() : h->v.data();
  for (size_t i = 0; i < n; ++i) {
    Dim& d = to[some ? static_cast<size_t>(c.axis(axes->v[i], r)) : i];
    auto add = [&](Dim v) { d = !is_symbolic(v) && v < 0 ? dim_sub(d, -v) : dim_add(d, v); };
    const bool known = is_known(d) && !is_symbolic(p[i]) && !is_symbolic(p[n + i]);
    if (known && d + p[i] + p[n + i] < 0)
      c.fail("pads remove more than there is: got " + std::to_string(p[i]) + " and " + std::to_string(p[n + i]) +
                 " for size " + std::to_string(d),
             0);
    if (known && d == 0 && p[i] + p[n + i] > 0 && mode_of(c.node) != Mode::kConstant)
      c.fail("an empty axis has no elements to pad with", 0);
    if (known) {
      d += p[i] + p[n + i];
    } else {
      add(p[i]);
      add(p[n + i]);
    }
  }
  c.out(0, t, std::move(to));
}

/// Pads of every axis at run time: before and after.
struct Pads {
  explicit Pads(const Node& n) : mode(mode_of(n)), attrs(n.version < 11 && n.has("pads")), list(n.ints("pads")) {}
  Mode mode;
  bool attrs;
  std::vector<int64_t> list;

  std::vector<std::pair<int64_t, int64_t>> of(const Call& c, int64_t rank, size_t at, size_t axes_at) const {
    const std::vector<int64_t> p = attrs ? list : c.ints(at);
    std::vector<int64_t> axes;
    if (c.has(axes_at)) {
      axes = c.ints(axes_at);
    } else {
      for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
    }
    if (p.size() != 2 * axes.size())
      c.fail("pads has " + std::to_string(p.size()) + " entries, expected " + std::to_string(2 * axes.size()),
             attrs ? 0 : static_cast<int>(at));
    std::vector<std::pair<int64_t, int64_t>> r(static_cast<size_t>(rank), {0, 0});
    for (size_t i = 0; i < axes.size(); ++i) {
      const auto a = wrap_axis(axes[i], rank);
      if (!a)
        c.fail("axis out of range: got " + std::to_string(axes[i]) + " for rank " + std::to_string(rank),
               static_cast<int>(axes_at));
      r[static_cast<size_t>(*a)] = {p[i], p[axes.size() + i]};
    }
    return r;
  }
};

at::Tensor sources(Mode mode, int64_t before, int64_t d, int64_t after, at::Device device) {
  const int64_t n = before + d + after;
  at::Tensor idx = at::empty({std::max<int64_t>(n, 0)}, at::kLong);
  int64_t* p = idx.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) p[i] = source(mode, i - before, d);
  return idx.to(device);
}

Kernel pad_kernel(const Node& n) {
  return [pads = Pads(n), value = n.version < 11 ? n.attr("value", 0.0) : 0.0, new_form = n.version >= 18,
          old = n.version < 11](Call& c) {
    const at::Tensor& x = c.in();
    const auto p = pads.of(c, x.dim(), 1, new_form ? 3 : SIZE_MAX);
    for (int64_t i = 0; i < x.dim(); ++i)
      if (x.size(i) + p[static_cast<size_t>(i)].first + p[static_cast<size_t>(i)].second < 0)
        c.fail("pads remove more than there is", 0);
    if (pads.mode == Mode::kConstant) {
      std::vector<int64_t> flat;
      for (size_t i = p.size(); i-- > 0;) flat.insert(flat.end(), {p[i].first, p[i].second});
      const at::Scalar fill = !old && c.has(2) ? c.in(2).item() : at::Scalar(value);
      return c.set(0, at::constant_pad_nd(x, flat, fill));
    }
    at::Tensor y = x;
    for (int64_t i = 0; i < x.dim(); ++i) {
      const auto [before, after] = p[static_cast<size_t>(i)];
      const int64_t d = x.size(i);
      if (before == 0 && after == 0) continue;
      if (d == 0) c.fail("an empty axis has no elements to pad with", 0);
      y = before <= 0 && after <= 0 ? y.narrow(i, -before, d + before + after)
                                    : y.index_select(i, sources(pads.mode, before, d, after, y.device()));
    }
    c.set(0, y);
  };
}

/// Constant pads per axis (before, after), or nothing when they are computed at run time.
std::optional<std::vector<std::pair<int64_t, int64_t>>> const_pads(const Grad& g, int64_t rank, size_t at,
                                                                   size_t axes_at) {
  const bool attr = g.node().has("pads");
  const auto p = attr ? std::optional(g.ints("pads")) : g.const_ints(at);
  if (!p) return std::nullopt;
  std::vector<int64_t> axes;
  if (!attr && axes_at < g.num_inputs() && g.has_x(axes_at)) {
    const auto a = g.const_ints(axes_at);
    if (!a) return std::nullopt;
    axes = *a;
  } else {
    for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  }
  std::vector<std::pair<int64_t, int64_t>> r(static_cast<size_t>(rank), {0, 0});
  for (size_t i = 0; i < axes.size(); ++i)
    r[static_cast<size_t>(axes[i] < 0 ? axes[i] + rank : axes[i])] = {(*p)[i], (*p)[axes.size() + i]};
  return r;
}

Grads pad_grad(const Grad& g) {
  const Expr dy = g.dy(), x = g.x();
  Builder& b = g.builder();
  const bool old = g.version() < 11;
  Grads r(g.num_inputs());
  const Mode mode = mode_of(g.node());
  if (mode != Mode::kConstant) {
    std::vector<Expr> in = {dy, x};
    if (!old) in.push_back(g.x(1));
    if (g.version() >= 18 && g.has_x(3)) in.push_back(g.x(3));
    r[0] = fused("PadGrad", in, copy_attrs(g.node(), {"mode", "pads"}));
    return r;
  }
  const auto p = const_pads(g, g.rank(), 1, g.version() >= 18 ? 3 : SIZE_MAX);
  if (g.needs(0)) {
    std::vector<int64_t> starts, ends, axes, negated;
    bool outward = p.has_value();
    if (p) {
      for (size_t i = 0; i < p->size(); ++i) {
        const auto [before, after] = (*p)[i];
        outward = outward && before >= 0 && after >= 0;
        if (before == 0 && after == 0) continue;
        starts.push_back(before);
        ends.push_back(after == 0 ? INT64_MAX : -after);
        axes.push_back(static_cast<int64_t>(i));
      }
      for (const auto& e : *p) negated.push_back(-e.first);
      for (const auto& e : *p) negated.push_back(-e.second);
    }
    if (outward) {
      r[0] = axes.empty() ? dy : slice(dy, starts, ends, axes);
    } else if (old) {
      r[0] = b.op("Pad", {dy}, {{"pads", negated}});
    } else {
      std::vector<Expr> in = {dy, -g.x(1)};
      if (g.version() >= 18 && g.has_x(3)) in.insert(in.end(), {Expr(), g.x(3)});
      r[0] = b.op("Pad", in);
    }
  }
  if (!old && g.has_x(2) && g.needs(2)) {
    std::vector<Expr> in = {full_like(x, 1), g.x(1), Expr()};
    if (g.version() >= 18 && g.has_x(3)) in.push_back(g.x(3));
    const Expr inside = b.op("Pad", in), border = where(greater(inside, like(dy, 0)), like(dy, 0), dy);
    r[2] = reshape_like(reduce_sum(border, {}, false), g.x(2));
  }
  return r;
}

// ---- PadGrad(dy, x, pads, axes): the borders are folded back; only the shape of x is read

void pad_grad_infer(Infer& c) { c.out(0, Type(c.type(1))); }

Kernel pad_grad_kernel(const Node& n) {
  return [pads = Pads(n)](Call& c) {
    at::Tensor t = c.in(0);
    const at::IntArrayRef shape = c.in(1).sizes();
    const auto p = pads.of(c, t.dim(), 2, 3);
    for (int64_t i = t.dim(); i-- > 0;) {
      const auto [before, after] = p[static_cast<size_t>(i)];
      if (before == 0 && after == 0) continue;
      const int64_t d = shape[static_cast<size_t>(i)], n = t.size(i);
      std::vector<int64_t> to(t.sizes().begin(), t.sizes().end());
      to[static_cast<size_t>(i)] = d;
      at::Tensor r = at::zeros(to, t.options());
      const int64_t from = std::max<int64_t>(0, -before), until = std::min(d, n - before);
      if (until > from) r.narrow(i, from, until - from).copy_(t.narrow(i, from + before, until - from));
      auto fold = [&](int64_t k) { r.select(i, source(pads.mode, k - before, d)).add_(t.select(i, k)); };
      for (int64_t k = 0; k < std::min(before, n); ++k) fold(k);
      for (int64_t k = std::max<int64_t>(before + d, 0); k < n; ++k) fold(k);
      t = r;
    }
    c.set(0, t);
  };
}

/// One axis folded back with constant amounts, at any opset; a border is at most one period wide.
Expr fold_axis(Expr t, Mode mode, int64_t axis, int64_t before, int64_t after) {
  Builder& b = t.builder();
  const int64_t lead = std::max<int64_t>(before, 0), tail = std::max<int64_t>(after, 0);
  const Expr core = lead || tail ? slice(t, {lead}, {tail ? -tail : INT64_MAX}, {axis}) : t;
  auto reversed = [&](Expr e, int64_t n) {
    std::vector<int64_t> idx;
    for (int64_t i = n - 1; i >= 0; --i) idx.push_back(i);
    return n == 1 ? e : gather(e, b.ints(idx), axis);
  };
  auto blank = [&](int64_t start, int64_t end) { return zeros_like(slice(core, {start}, {end}, {axis})); };
  Expr r = core;
  if (lead) {
    const Expr part = slice(t, {0}, {lead}, {axis});
    if (mode == Mode::kEdge) {
      r = r + concat({reduce_sum(part, {axis}, true), blank(1, INT64_MAX)}, axis);
    } else if (mode == Mode::kReflect) {
      r = r + concat({blank(0, 1), reversed(part, lead), blank(lead + 1, INT64_MAX)}, axis);
    } else {
      r = r + concat({blank(0, -lead), part}, axis);
    }
  }
  if (tail) {
    const Expr part = slice(t, {-tail}, {INT64_MAX}, {axis});
    if (mode == Mode::kEdge) {
      r = r + concat({blank(0, -1), reduce_sum(part, {axis}, true)}, axis);
    } else if (mode == Mode::kReflect) {
      r = r + concat({blank(0, -(tail + 1)), reversed(part, tail), blank(-1, INT64_MAX)}, axis);
    } else {
      r = r + concat({part, blank(tail, INT64_MAX)}, axis);
    }
  }
  return r;
}

Grads pad_grad_body(const Grad& g) {
  const Expr dy = g.x(0), x = g.x(1);
  Builder& b = g.builder();
  const Mode mode = mode_of(g.node());
  const int64_t rank = g.rank(1);
  const auto p = const_pads(g, rank, 2, 3);
  bool simple = p.has_value();
  for (int64_t i = 0; simple && i < rank; ++i) {
    const auto [before, after] = (*p)[static_cast<size_t>(i)];
    const Dim d = g.dims(1)[static_cast<size_t>(i)], widest = is_known(d) && mode == Mode::kReflect ? d - 1 : d;
    simple =
        before >= 0 && after >= 0 && (!is_known(d) || mode == Mode::kEdge || (before <= widest && after <= widest));
  }
  if (simple) {
    Expr r = dy;
    for (int64_t i = rank; i-- > 0;) {
      const auto [before, after] = (*p)[static_cast<size_t>(i)];
      if (before || after) r = fold_axis(r, mode, i, before, after);
    }
    return {r};
  }
  if (b.opset() < 16) {
    cheaper_from(16, "no way to add at pads that are negative, wider than the axis or computed at run time");
    g.fail("pads that are negative, wider than the axis or computed at run time need opset 16",
           "use opset=\"upgrade\"");
  }
  const Expr all = shape(x);
  std::vector<Expr> in = {index_image(all), g.x(2)};
  if (g.has_x(3)) in.insert(in.end(), {Expr(), g.x(3)});
  const Expr at = b.op("Pad", in, copy_attrs(g.node(), {"mode"}));
  const Expr n = reshape(size(x), std::vector<int64_t>{1});
  return {reshape_like(scatter_rows(flatten_all(at), flatten_all(dy), n), x)};
}

Grads pad_grad_grad(const Grad& g) {
  std::vector<Expr> in = {g.dy()};
  if (g.has_x(2)) in.push_back(g.x(2));
  if (g.has_x(3)) in.insert(in.end(), {Expr(), g.x(3)});
  return only_first(g, g.builder().op("Pad", in, copy_attrs(g.node(), {"mode", "pads"})));
}

}  // namespace

OpTable pad_ops() {
  return {
      {.name = "Pad", .infer = pad_infer, .kernel = pad_kernel, .grad = pad_grad, .exact = true, .host_inputs = 0b1010},
      {.name = "PadGrad",
       .domain = "ortmod",
       .infer = pad_grad_infer,
       .kernel = pad_grad_kernel,
       .grad = pad_grad_grad,
       .body = pad_grad_body,
       .exact = true,
       .host_inputs = 0b1100,
       .shape_inputs = 0b10},
  };
}

}  // namespace ortmod
