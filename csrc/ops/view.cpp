// Operators: new shapes and orders of the same elements (Identity, Reshape, Flatten, Squeeze, Unsqueeze, Transpose).
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/bind_copy.h"
#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

at::IntArrayRef sizes(const Dims& d) { return {d.data(), d.size()}; }

Grads reshape_grad(const Grad& g) { return only_first(g, reshape_like(g.dy(), g.x())); }

// ---- Identity

void identity_infer(Infer& c) {
  c.out(0, c.type(0));
  if (const HostInts* h = c.ints(0)) c.out_ints(0, *h);
}

Kernel identity_kernel(const Node&) {
  return [](Call& c) { c.set(0, c.in()); };
}

Grads identity_grad(const Grad& g) { return {g.dy()}; }

// ---- Reshape

/// Resolves a target shape; `from` null: the input's shape is not known. Returns what is wrong, or null.
const char* resolve(const Dims* from, const Dim* target, size_t n, bool allow_zero, Dims& to) {
  int open = -1, unknown = 0;
  Dims top, bottom;  // without the dimensions that are copied
  if (from) top = *from;
  SmallVec<int64_t, 6> copied;
  for (size_t i = 0; i < n; ++i) {
    const Dim d = target[i];
    Dim r = d;
    if (d == 0 && !allow_zero) {
      if (from && i >= from->size()) return "a zero copies a dimension that the input does not have";
      r = from ? (*from)[i] : kAnyDim;
      if (from) copied.push_back(static_cast<int64_t>(i));
    } else if (d == -1) {
      if (open >= 0 && target[open] == -1) return "the target has more than one -1";
      open = static_cast<int>(i);
      r = kAnyDim;
      ++unknown;
    } else if (d < -1 && !is_symbolic(d)) {
      return "the target has a negative size";
    } else if (d == kAnyDim) {
      if (open < 0) open = static_cast<int>(i);
      ++unknown;
    }
    to.push_back(r);
  }
  if (!from) return nullptr;
  for (size_t i = 0; i < n; ++i) {
    const bool copy = std::find(copied.begin(), copied.end(), static_cast<int64_t>(i)) != copied.end();
    if (copy) {
      top[i] = 1;
    } else if (static_cast<int>(i) != open || unknown != 1) {
      bottom.push_back(to[i]);
    }
  }
  const Dim a = numel(top), b = numel(bottom);
  if (unknown == 1) {
    Dim& r = to[static_cast<size_t>(open)];
    if (!is_known(a) || !is_known(b)) {
      r = dims_quotient(top, bottom);
      return nullptr;
    }
    if (b == 0) {  // an empty tensor: what remains when equal sizes are cancelled
      if (a != 0) return "the number of elements differs";
      for (Dim& d : bottom)
        if (Dim* t = std::find(top.begin(), top.end(), d); t != top.end()) *t = d = 1;
      const Dim rest = numel(bottom);
      r = rest == 0 ? 0 : numel(top) / rest;
      return nullptr;
    }
    if (a % b != 0) return "the number of elements is not a multiple";
    r = a / b;
    return nullptr;
  }
  if (const Dim x = numel(*from), y = numel(to); unknown == 0 && is_known(x) && is_known(y) && x != y)
    return "the number of elements differs";
  return nullptr;
}

std::string both(const Dims& from, const Dim* target, size_t n) {
  std::string s = ": got " + to_string(from) + ", target [";
  for (size_t i = 0; i < n; ++i)
    s += (i ? ", " : "") + (is_symbolic(target[i]) ? dim_text(target[i]) : std::to_string(target[i]));
  return s + "]";
}

void reshape_infer(Infer& c) {
  const DType t = c.dtype();
  const HostInts* s = c.ints(1);
  if (!s) {
    if (c.ranked(1) && c.rank(1) != 1)
      c.fail("the target shape has rank " + std::to_string(c.rank(1)) + ", expected 1", 1);
    if (!c.ranked(1) || !is_known(c.dims(1)[0])) return c.out_unranked(0, t);
    return c.out(0, t, Dims(static_cast<size_t>(c.dims(1)[0]), kAnyDim));
  }
  Dims to;
  const bool zero = c.version() >= 14 && c.node.attr("allowzero", 0) != 0;
  const char* wrong = resolve(c.ranked() ? &c.dims() : nullptr, s->v.data(), s->v.size(), zero, to);
  if (wrong) c.fail(wrong + both(c.ranked() ? c.dims() : Dims{}, s->v.data(), s->v.size()), 1);
  pass_ints(c, to);
  c.out(0, t, std::move(to));
}

Kernel reshape_kernel(const Node& n) {
  const bool zero = n.version >= 14 && n.attr("allowzero", 0) != 0;
  return [zero](Call& c) {
    const std::vector<int64_t> target = c.ints(1);
    const Dims from(c.in().sizes().begin(), c.in().sizes().end());
    Dims to;
    if (const char* wrong = resolve(&from, target.data(), target.size(), zero, to))
      c.fail(wrong + both(from, target.data(), target.size()), 1);
    c.set(0, c.in().reshape(sizes(to)));
  };
}

// ---- Flatten

int64_t flatten_axis(const Node& n) { return n.attr("axis", 1); }

void flatten_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out(0, t, {kAnyDim, kAnyDim});
  const Dims& d = c.dims();
  const int64_t r = c.rank();
  int64_t a = flatten_axis(c.node);
  if (a < (c.version() < 11 ? 0 : -r) || a > r)
    c.fail("axis out of range: got " + std::to_string(a) + " for rank " + std::to_string(r));
  if (a < 0) a += r;
  Dims to{1, 1};
  for (int64_t i = 0; i < r; ++i) to[i < a ? 0 : 1] = dim_mul(to[i < a ? 0 : 1], d[static_cast<size_t>(i)]);
  pass_ints(c, to);
  c.out(0, t, std::move(to));
}

Kernel flatten_kernel(const Node& n) {
  return [axis = flatten_axis(n)](Call& c) {
    const at::IntArrayRef s = c.in().sizes();
    const int64_t r = static_cast<int64_t>(s.size()), a = axis < 0 ? axis + r : axis;
    if (a < 0 || a > r) c.fail("axis out of range: got " + std::to_string(axis) + " for rank " + std::to_string(r));
    int64_t left = 1, right = 1;
    for (int64_t i = 0; i < r; ++i) (i < a ? left : right) *= s[static_cast<size_t>(i)];
    c.set(0, c.in().reshape({left, right}));
  };
}

// ---- Squeeze, Unsqueeze

void squeeze_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out_unranked(0, t);
  const Dims& d = c.dims();
  const auto axes = c.axes(1, c.rank());
  if (!axes) {
    if (!c.ranked(1) || c.rank(1) != 1 || !is_known(c.dims(1)[0]) || c.dims(1)[0] > c.rank())
      return c.out_unranked(0, t);
    return c.out(0, t, Dims(d.size() - static_cast<size_t>(c.dims(1)[0]), kAnyDim));
  }
  Dims to;
  if (axes->empty()) {
    for (Dim e : d) {
      if (!is_known(e)) return c.out_unranked(0, t);
      if (e != 1) to.push_back(e);
    }
  } else {
    for (size_t i = 0; i < d.size(); ++i) {
      if (std::find(axes->begin(), axes->end(), static_cast<int64_t>(i)) == axes->end()) {
        to.push_back(d[i]);
      } else if (is_known(d[i]) && d[i] != 1) {
        c.fail(
            "only axes of size 1 can be squeezed: got size " + std::to_string(d[i]) + " on axis " + std::to_string(i),
            0);
      }
    }
  }
  pass_ints(c, to);
  c.out(0, t, std::move(to));
}

Kernel squeeze_kernel(const Node&) {
  return [](Call& c) {
    const std::vector<int64_t> axes = c.axes(1, c.in().dim());
    Dims to;
    for (int64_t i = 0; i < c.in().dim(); ++i) {
      const bool named = std::find(axes.begin(), axes.end(), i) != axes.end();
      const int64_t d = c.in().size(i);
      if (named && d != 1)
        c.fail("only axes of size 1 can be squeezed: got size " + std::to_string(d) + " on axis " + std::to_string(i),
               0);
      if (!(named || (axes.empty() && d == 1))) to.push_back(d);
    }
    c.set(0, c.in().view(sizes(to)));
  };
}

Grads squeeze_grad(const Grad& g) {
  const bool named = g.node().has("axes") || g.has_x(1);
  const auto axes = named && g.x().rank() >= 0 ? g.axes(1) : std::nullopt;
  return only_first(g, axes && !axes->empty() ? unsqueeze(g.dy(), *axes) : reshape_like(g.dy(), g.x()));
}

void unsqueeze_infer(Infer& c) {
  const DType t = c.dtype();
  if (!c.ranked()) return c.out_unranked(0, t);
  const std::vector<int64_t>* given = list_attr(c.node, "axes");
  const HostInts* h = given ? nullptr : c.ints(1);
  if (!given && !is_plain(h)) {
    if (!c.has(1)) c.fail("the axes are missing", 1);
    if (!c.ranked(1) || c.rank(1) != 1 || !is_known(c.dims(1)[0])) return c.out_unranked(0, t);
    return c.out(0, t, Dims(c.dims().size() + static_cast<size_t>(c.dims(1)[0]), kAnyDim));
  }
  const int64_t* v = given ? given->data() : h->v.data();
  const size_t n = given ? given->size() : h->v.size(), r = c.dims().size() + n;
  Dims to(r, 0);
  for (size_t i = 0; i < n; ++i) {
    Dim& d = to[static_cast<size_t>(c.axis(v[i], static_cast<int64_t>(r)))];
    if (d == 1) c.fail("an axis is given twice: got " + std::to_string(v[i]), 1);
    d = 1;
  }
  size_t k = 0;
  for (Dim& d : to)
    if (d == 0) d = c.dims()[k++];
  pass_ints(c, to);
  c.out(0, t, std::move(to));
}

Kernel unsqueeze_kernel(const Node& n) {
  return [given = n.has("axes"), list = n.ints("axes")](Call& c) {
    const std::vector<int64_t> axes = given ? list : c.ints(1);
    const int64_t r = c.in().dim() + static_cast<int64_t>(axes.size());
    Dims to(static_cast<size_t>(r), 0);
    for (int64_t a : axes) {
      const auto w = wrap_axis(a, r);
      if (!w) c.fail("axis out of range: got " + std::to_string(a) + " for rank " + std::to_string(r), 1);
      if (to[static_cast<size_t>(*w)]) c.fail("an axis is given twice: got " + std::to_string(a), 1);
      to[static_cast<size_t>(*w)] = 1;
    }
    SmallVec<bool, 8> fresh(to.size());
    for (size_t i = 0; i < to.size(); ++i) fresh[i] = to[i] == 1;
    int64_t k = 0;
    for (size_t i = 0; i < to.size(); ++i)
      if (!fresh[i]) to[i] = c.in().size(k++);
    c.set(0, c.in().view(sizes(to)));
  };
}

Grads unsqueeze_grad(const Grad& g) {
  const bool attr = g.node().has("axes");
  auto axes = attr ? std::optional(g.ints("axes")) : g.const_ints(1);
  if (!axes || g.x().rank() < 0) return reshape_grad(g);
  for (int64_t& a : *axes)
    if (a < 0) a += g.x().rank() + static_cast<int64_t>(axes->size());
  return only_first(g, squeeze(g.dy(), *axes));
}

// ---- Transpose

void transpose_infer(Infer& c) {
  const DType t = c.dtype();
  const std::vector<int64_t>* perm = list_attr(c.node, "perm");
  if (!c.ranked()) return perm ? c.out(0, t, Dims(perm->size(), kAnyDim)) : c.out_unranked(0, t);
  const Dims& d = c.dims();
  const size_t r = d.size();
  Dims to(r);
  if (perm) {
    uint64_t seen = 0;
    if (perm->size() != r)
      c.fail("perm has " + std::to_string(perm->size()) + " entries, expected the rank " + std::to_string(r), 0);
    for (size_t i = 0; i < r; ++i) {
      const int64_t a = c.axis((*perm)[i], static_cast<int64_t>(r));
      if (seen >> a & 1) c.fail("perm is not a permutation: axis " + std::to_string(a) + " appears twice", 0);
      seen |= uint64_t{1} << a;
      to[i] = d[static_cast<size_t>(a)];
    }
  } else {
    for (size_t i = 0; i < r; ++i) to[i] = d[r - 1 - i];
  }
  if (const HostInts* h = c.ints(0)) {
    if (r <= 1 || (perm && std::is_sorted(perm->begin(), perm->end()))) {
      c.out_ints(0, *h);
    } else if (r == 2) {
      HostInts o{to, {}};
      for (Dim j = 0; j < d[1]; ++j)
        for (Dim i = 0; i < d[0]; ++i) o.v.push_back(h->v[static_cast<size_t>(i * d[1] + j)]);
      c.out_ints(0, std::move(o));
    }
  }
  c.out(0, t, std::move(to));
}

std::vector<int64_t> perm_of(const Node& n, int64_t rank) {
  std::vector<int64_t> p = n.ints("perm");
  if (!n.has("perm"))
    for (int64_t i = rank - 1; i >= 0; --i) p.push_back(i);
  for (int64_t& a : p)
    if (a < 0) a += rank;
  return p;
}

Kernel transpose_kernel(const Node& n) {
  return [given = n.has("perm"), perm = n.ints("perm")](Call& c) {
    if (given) return c.set(0, c.in().permute(perm));
    std::vector<int64_t> p;
    for (int64_t i = c.in().dim() - 1; i >= 0; --i) p.push_back(i);
    c.set(0, c.in().permute(p));
  };
}

Grads transpose_grad(const Grad& g) {
  const std::vector<int64_t> p =
      perm_of(g.node(), g.node().has("perm") ? static_cast<int64_t>(g.ints("perm").size()) : g.rank());
  std::vector<int64_t> inverse(p.size());
  for (size_t i = 0; i < p.size(); ++i) inverse[static_cast<size_t>(p[i])] = static_cast<int64_t>(i);
  return {transpose(g.dy(), inverse)};
}

// ---- WithGradient: outputs that are inputs, as they were inlined; see mark_function

size_t inlined(const Node& n, size_t o) { return static_cast<size_t>(n.attr("function_inputs", 0)) + o; }

void infer_with_gradient(Infer& c) {
  for (size_t o = 0; o < c.num_out(); ++o)
    if (const size_t i = inlined(c.node, o); c.has(i)) c.out(o, c.type(i));
}

Grads with_gradient_body(const Grad& g) {
  Grads r;
  for (size_t o = 0; o < g.num_outputs(); ++o)
    r.push_back(g.has_x(inlined(g.node(), o)) ? g.x(inlined(g.node(), o)) : Expr());
  return r;
}

}  // namespace

OpTable view_ops() {
  return {
      {.name = "WithGradient",
       .domain = "ortmod",
       .infer = infer_with_gradient,
       .body = with_gradient_body,
       .limits = "the boundary of a local function that has a registered gradient"},
      {.name = "Identity",
       .infer = identity_infer,
       .kernel = identity_kernel,
       .bind = bind_same,
       .grad = identity_grad,
       .alias = 0,
       .exact = true},
      {.name = "Reshape",
       .infer = reshape_infer,
       .kernel = reshape_kernel,
       .bind = bind_same,
       .grad = reshape_grad,
       .alias = 0,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "Flatten",
       .infer = flatten_infer,
       .kernel = flatten_kernel,
       .bind = bind_same,
       .grad = reshape_grad,
       .alias = 0,
       .exact = true},
      {.name = "Squeeze",
       .infer = squeeze_infer,
       .kernel = squeeze_kernel,
       .bind = bind_same,
       .grad = squeeze_grad,
       .alias = 0,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "Unsqueeze",
       .infer = unsqueeze_infer,
       .kernel = unsqueeze_kernel,
       .bind = bind_same,
       .grad = unsqueeze_grad,
       .alias = 0,
       .exact = true,
       .host_inputs = 0b10},
      {.name = "Transpose",
       .infer = transpose_infer,
       .kernel = transpose_kernel,
       .bind = bind_transpose,
       .grad = transpose_grad,
       .exact = true},
  };
}

}  // namespace ortmod
