// Operators that repeat elements: Expand, Tile.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/bind_copy.h"
#include "ops/indexing.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// ---- Expand

void expand_infer(Infer& c) {
  const DType t = c.dtype();
  const HostInts* s = c.ints(1);
  if (c.ranked(1) && c.rank(1) != 1)
    c.fail("the target shape has rank " + std::to_string(c.rank(1)) + ", expected 1", 1);
  if (!c.ranked()) return c.out_unranked(0, t);
  if (!s) {
    if (!c.ranked(1) || !is_known(c.dims(1)[0])) return c.out_unranked(0, t);
    const size_t n = static_cast<size_t>(c.dims(1)[0]), r = c.dims().size();
    Dims to(std::max(n, r), kAnyDim);
    for (size_t i = 0; i < r; ++i)
      if ((is_known(c.dims()[i]) && c.dims()[i] != 1) || r - i > n) to[to.size() - r + i] = c.dims()[i];
    return c.out(0, t, std::move(to));
  }
  Dims target(s->v.begin(), s->v.end());
  for (Dim d : target)
    if (d < 0 && !is_symbolic(d)) c.fail("the target has a negative size: got " + std::to_string(d), 1);
  Dims to = c.broadcast(c.dims(), target);
  if (const HostInts* h = c.ints(0); h && is_small(numel(to))) {
    if (h->v.size() == 1) {
      c.out_ints(0, {to, SmallVec<Dim, 8>(static_cast<size_t>(numel(to)), h->v[0])});
    } else {
      pass_ints(c, to);
    }
  }
  c.out(0, t, std::move(to));
}

Kernel expand_kernel(const Node&) {
  return [](Call& c) {
    const std::vector<int64_t> target = c.ints(1);
    const at::IntArrayRef s = c.in().sizes();
    std::vector<int64_t> to(std::max(s.size(), target.size()), 1);
    std::copy(target.begin(), target.end(), to.end() - static_cast<int64_t>(target.size()));
    for (size_t i = 0; i < s.size(); ++i) {
      int64_t& d = to[to.size() - s.size() + i];
      if (d == 1) d = s[i];
      if (s[i] != 1 && s[i] != d)
        c.fail("shapes cannot be broadcast: got size " + std::to_string(s[i]) + ", target " + std::to_string(d), 0);
    }
    c.set(0, c.in().expand(to));
  };
}

Grads expand_grad(const Grad& g) { return only_first(g, g.dy()); }

// ---- Tile

void tile_infer(Infer& c) {
  const DType t = c.dtype();
  const HostInts* h = c.ints(1);
  if (!c.ranked()) {
    if (!h) return c.out_unranked(0, t);
    return c.out(0, t, Dims(h->v.size(), kAnyDim));
  }
  Dims to = c.dims();
  if (!h) return c.out(0, t, Dims(to.size(), kAnyDim));
  if (h->v.size() != to.size())
    c.fail("repeats has " + std::to_string(h->v.size()) + " entries, expected the rank " + std::to_string(to.size()),
           1);
  for (size_t i = 0; i < to.size(); ++i) {
    if (h->v[i] < 0 && !is_symbolic(h->v[i])) c.fail("repeats is negative: got " + std::to_string(h->v[i]), 1);
    to[i] = dim_mul(to[i], h->v[i]);
  }
  if (const HostInts* x = c.ints(0); x && to.size() == 1 && is_small(to[0])) {
    HostInts o{to, {}};
    for (Dim i = 0; i < to[0]; ++i) o.v.push_back(x->v[static_cast<size_t>(i) % x->v.size()]);
    c.out_ints(0, std::move(o));
  }
  c.out(0, t, std::move(to));
}

Kernel tile_kernel(const Node&) {
  return [](Call& c) {
    const std::vector<int64_t> r = c.ints(1);
    const at::Tensor& x = c.in();
    if (static_cast<int64_t>(r.size()) != x.dim())
      c.fail("repeats has " + std::to_string(r.size()) + " entries, expected the rank " + std::to_string(x.dim()), 1);
    std::vector<int64_t> from, wide, to;
    for (size_t i = 0; i < r.size(); ++i) {
      const int64_t d = x.size(static_cast<int64_t>(i));
      from.insert(from.end(), {1, d});
      wide.insert(wide.end(), {r[i], d});
      to.push_back(r[i] * d);
    }
    c.set(0, x.view(from).expand(wide).reshape(to));
  };
}

Grads tile_grad(const Grad& g) {
  const Expr dy = g.dy(), x = g.x();
  const auto repeats = g.const_ints(1);
  const int64_t r = g.rank();
  std::vector<Expr> pieces;
  std::vector<int64_t> sum, run;
  Builder& b = g.builder();
  auto flush = [&] {
    if (!run.empty()) pieces.push_back(b.ints(run));
    run.clear();
  };
  int64_t at = 0;
  for (int64_t i = 0; i < r; ++i) {
    if (!repeats || repeats->at(static_cast<size_t>(i)) != 1) {
      sum.push_back(at++);
      if (repeats) {
        run.push_back(repeats->at(static_cast<size_t>(i)));
      } else {
        flush();
        pieces.push_back(gather(g.x(1), b.ints({i}), 0));
      }
    }
    ++at;
    if (const Dim d = x.type().dims[static_cast<size_t>(i)]; is_known(d)) {
      run.push_back(d);
    } else {
      flush();
      pieces.push_back(dim(x, i));
    }
  }
  flush();
  if (sum.empty()) return only_first(g, dy);
  return only_first(g, reduce_sum(reshape_exactly(dy, concat(pieces, 0)), sum, false));
}

}  // namespace

OpTable repeat_ops() {
  return {
      {.name = "Expand",
       .infer = expand_infer,
       .kernel = expand_kernel,
       .bind = bind_expand,
       .grad = expand_grad,
       .host_inputs = 0b10},
      {.name = "Tile",
       .infer = tile_infer,
       .kernel = tile_kernel,
       .bind = bind_tile,
       .grad = tile_grad,
       .exact = true,
       .host_inputs = 0b10},
  };
}

}  // namespace ortmod
