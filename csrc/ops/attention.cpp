// Operators: rotary embedding and scaled dot-product attention, written in standard operators.
#include <cmath>
#include <limits>

#include "ops/attrs.h"
#include "ops/infer.h"
#include "ops/registry.h"
#include "ops/window.h"

namespace ortmod {
namespace {

constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void infer_rotary(Infer& c) {
  c.same_as(0);
  if (!c.ranked(0)) return;
  const Dims& x = c.dims(0);
  const int64_t heads = c.node.attr("num_heads", 0);
  if (x.size() != 3 && x.size() != 4) c.fail("the operand must have rank 3 or 4: got " + to_string(x), 0);
  if (x.size() == 3 && (heads < 1 || (is_known(x[2]) && x[2] % heads)))
    c.fail("num_heads must divide the hidden size: got " + std::to_string(heads) + " and " + to_string(x), 0);
  for (size_t i : {1, 2})
    if (c.ranked(i) && c.rank(i) != (c.has(3) ? 2 : 3))
      c.fail("a cache has rank 2 with position_ids and 3 without: got " + to_string(c.dims(i)), static_cast<int>(i));
}

Grads rotary_body(const Grad& g) {
  Builder& b = g.builder();
  const Expr x = g.x(0);
  const bool flat = g.rank(0) == 3;  // [B, S, H D], else [B, H, S, D]
  const int64_t part = g.attr("rotary_embedding_dim", int64_t{0});
  const bool interleaved = g.attr("interleaved", int64_t{0});
  Expr cos = g.x(1), sin = g.x(2), v = x;
  if (flat) v = reshape(x, {0, 0, g.attr("num_heads", int64_t{1}), -1});
  if (g.has_x(3)) {
    cos = gather(cos, g.x(3), 0);
    sin = gather(sin, g.x(3), 0);
  }
  cos = unsqueeze(cos, {flat ? 2 : 1});
  sin = unsqueeze(sin, {flat ? 2 : 1});
  Expr turned = v, rest;
  if (part) {
    turned = slice(v, {0}, {part}, {3});
    rest = slice(v, {part}, {kEnd}, {3});
  }
  Expr first, second;
  if (interleaved) {
    first = slice(turned, {0}, {kEnd}, {3}, {2});
    second = slice(turned, {1}, {kEnd}, {3}, {2});
  } else {
    const std::vector<Expr> halves =
        b.multi("", "Split", {turned}, 2, {{"axis", int64_t{3}}, {"num_outputs", int64_t{2}}});
    first = halves[0];
    second = halves[1];
  }
  const Expr real = cos * first - sin * second, imaginary = sin * first + cos * second;
  Expr y = interleaved ? reshape_like(concat({unsqueeze(real, {4}), unsqueeze(imaginary, {4})}, 4), turned)
                       : concat({real, imaginary}, 3);
  if (rest) y = concat({y, rest}, 3);
  return {flat ? reshape_like(y, x) : y};
}

Dim heads_dim(const Infer& c, size_t i, std::string_view key) {
  if (c.rank(i) == 4) return c.dims(i)[1];
  const int64_t n = c.node.attr(key, 0);
  if (n < 1) c.fail("the attribute " + std::string(key) + " is required for operands of rank 3");
  return n;
}

/// Size of one head of a [B, S, H D] or [B, H, S, D] operand.
Dim head_size(const Infer& c, size_t i, Dim heads) {
  if (c.rank(i) == 4) return c.dims(i)[3];
  const Dim hidden = c.dims(i)[2];
  if (is_known(hidden) && is_known(heads) && hidden % heads)
    c.fail("the number of heads must divide the hidden size: got " + dim_text(heads) + " and " + to_string(c.dims(i)),
           static_cast<int>(i));
  return dim_div(hidden, heads);
}

void infer_attention(Infer& c) {
  const DType t = c.dtype(0);
  for (size_t i = 0; i < 3; ++i) {
    if (!c.ranked(i)) {
      for (size_t o = 0; o < 4; ++o) c.out_unranked(o, o == 2 ? c.dtype(2) : t);
      return;
    }
    if (c.rank(i) != 3 && c.rank(i) != 4)
      c.fail("query, key and value must have rank 3 or 4: got " + to_string(c.dims(i)), static_cast<int>(i));
    if (c.rank(i) != c.rank(0))
      c.fail("query, key and value differ in rank: got " + to_string(c.dims(0)) + " and " + to_string(c.dims(i)),
             static_cast<int>(i));
  }
  if (c.has(4) != c.has(5)) c.fail("past_key and past_value must be given together");
  const bool flat = c.rank(0) == 3;
  const Dim hq = heads_dim(c, 0, "q_num_heads"), hk = heads_dim(c, 1, "kv_num_heads");
  const Dim d = head_size(c, 0, hq), dk = head_size(c, 1, hk), dv = head_size(c, 2, hk);
  if (differ(d, dk)) c.fail("heads of query and key differ in size: got " + dim_text(d) + " and " + dim_text(dk), 1);
  if (is_known(hq) && is_known(hk) && (hk == 0 || hq % hk))
    c.fail("query heads must be a multiple of key heads: got " + dim_text(hq) + " and " + dim_text(hk));
  const Dim batch = c.dims(0)[0], s = c.dims(0)[flat ? 1 : 2];
  Dim total = c.dims(1)[flat ? 1 : 2];
  if (c.has(4)) total = c.ranked(4) ? dim_add(total, c.dims(4)[2]) : kAnyDim;
  if (flat)
    c.out(0, t, Dims{batch, s, dim_mul(hq, dv)});
  else
    c.out(0, t, Dims{batch, hq, s, dv});
  if (c.wants(1)) c.out(1, t, Dims{batch, hk, total, dk});
  if (c.wants(2)) c.out(2, c.dtype(2), Dims{batch, hk, total, dv});
  if (c.wants(3)) c.out(3, t, Dims{batch, hq, s, total});
}

/// [B, S, H D] as [B, H, S, D].
Expr to_heads(Expr x, int64_t heads) { return transpose(reshape(x, {0, 0, heads, -1}), {0, 2, 1, 3}); }

/// 0 .. n - 1 of the size along `axis` of x, as int64.
Expr iota(Expr x, int64_t axis) {
  Builder& b = x.builder();
  return b.op("Range", {b.int_scalar(0), squeeze(dim(x, axis), {0}), b.int_scalar(1)});
}

/// Each head of keys or values as often as queries share it.
Expr share_heads(const Grad& g, Expr x, int64_t times, int64_t heads) {
  if (times == 1) return x;
  Builder& b = g.builder();
  const Expr wide = expand(unsqueeze(x, {2}), b.ints({1, 1, times, 1, 1}));
  return reshape_parts(wide, {dim(x, 0), b.ints({heads}), dim(x, 2), dim(x, 3)});
}

/// The additive mask: attn_mask, padded by -inf to the length of the keys, and what position forbids. Empty: no mask.
Expr bias(const Grad& g, Expr q, Expr k) {
  Builder& b = g.builder();
  const DType t = q.dtype();
  const Expr never = b.scalar(-kInfinity, t), zero = b.scalar(0, t);
  Expr sum;
  if (g.has_x(3)) {
    Expr mask = g.x(3);
    mask = mask.dtype() == DType::kBool ? where(mask, zero, never) : cast(mask, t);
    const int rank = g.rank(3);
    const Dim have = mask.type().dims.back(), want = k.type().dims[2];
    const bool same = have == want && have != kAnyDim;
    if (!same && !(is_known(have) && have == 1 && !is_known(want))) {
      const Expr none = b.ints(std::vector<int64_t>(static_cast<size_t>(2 * rank - 1), 0));
      mask = b.op("Pad", {mask, concat({none, dim(k, 2) - dim(mask, rank - 1)}, 0), never});
    }
    sum = mask;
  }
  const bool causal = g.attr("is_causal", int64_t{0});
  const int64_t left = g.attr("left_window_size", int64_t{-1}), right = g.attr("right_window_size", int64_t{-1});
  Expr allowed;
  const auto allow = [&](Expr e) { allowed = allowed ? logical_and(allowed, e) : e; };
  const Expr column = iota(k, 2);
  if (causal || left >= 0 || right >= 0) {
    Expr row = unsqueeze(iota(q, 2), {1});
    if (g.has_x(4))
      row = row + dim(g.x(4), 2);
    else if (g.has_x(6))
      row = row + (reshape(cast(g.x(6), DType::kInt64), {-1, 1, 1, 1}) - dim(q, 2));
    if (causal) allow(less_equal(column, row));
    if (left >= 0) allow(less_equal(row - column, b.int_scalar(left)));
    if (right >= 0) allow(less_equal(column - row, b.int_scalar(right)));
  }
  if (g.has_x(6)) allow(less(column, reshape(cast(g.x(6), DType::kInt64), {-1, 1, 1, 1})));
  if (allowed) {
    const Expr rule = where(allowed, zero, never);
    sum = sum ? sum + rule : rule;
  }
  return sum;
}

Grads attention_body(const Grad& g) {
  Builder& b = g.builder();
  const bool flat = g.rank(0) == 3;
  Expr q = g.x(0), k = g.x(1), v = g.x(2);
  int64_t hq = g.attr("q_num_heads", int64_t{0}), hk = g.attr("kv_num_heads", int64_t{0});
  int64_t times = 1;
  if (flat) {
    q = to_heads(q, hq);
    k = to_heads(k, hk);
    v = to_heads(v, hk);
    times = hq / hk;
  } else if (g.dims(0)[1] != g.dims(1)[1]) {
    hq = g.dims(0)[1];
    hk = g.dims(1)[1];
    if (!is_known(hq) || !is_known(hk))
      g.fail("the number of heads is not known", "declare the shapes of query and key");
    times = hq / hk;
  }
  if (g.has_x(4)) {
    k = concat({g.x(4), k}, 2);
    v = concat({g.x(5), v}, 2);
  }
  const Expr present_key = k, present_value = v;
  const DType t = q.dtype();
  Expr root;
  if (g.node().has("scale")) {
    root = b.scalar(std::sqrt(g.attr("scale", 1.0)), t);
  } else if (const Dim d = q.type().dims[3]; is_known(d)) {
    root = b.scalar(std::pow(static_cast<double>(d), -0.25), t);
  } else {
    root = reciprocal(sqrt(sqrt(cast(dim(q, 3), t))));
  }
  const Expr mask = bias(g, q, k);
  const Expr keys = share_heads(g, k, times, hq), values = share_heads(g, v, times, hq);
  const int64_t mode = g.attr("qk_matmul_output_mode", int64_t{0});
  Expr scores = matmul(q * root, swap_last(keys * root));
  Expr shown = scores;
  if (const double cap = g.attr("softcap", 0.0); cap > 0) scores = tanh(scores / cap) * cap;
  if (mode == 1) shown = scores;
  if (mask) scores = scores + mask;
  if (mode == 2) shown = scores;
  if (const int64_t wide = g.attr("softmax_precision", int64_t{0})) scores = cast(scores, static_cast<DType>(wide));
  Expr p = b.op("Softmax", {scores}, {{"axis", int64_t{-1}}});
  if (mask) p = where(equal(reduce_max(scores, {-1}, true), like(scores, -kInfinity)), like(p, 0), p);
  p = cast(p, t);
  if (mode == 3) shown = p;
  Expr y = matmul(p, values);
  if (flat) y = reshape(transpose(y, {0, 2, 1, 3}), {0, 0, -1});
  return {y, present_key, present_value, shown};
}

}  // namespace

OpTable attention_ops() {
  return {
      {.name = "RotaryEmbedding", .since = 23, .infer = infer_rotary, .body = rotary_body},
      {.name = "Attention", .since = 23, .infer = infer_attention, .body = attention_body},
  };
}

}  // namespace ortmod
