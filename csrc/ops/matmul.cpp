// Operators: matrix products.
#include <ATen/ATen.h>

#include "ops/attrs.h"
#include "ops/bind_matmul.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

/// Sets the product's dims with element type t.
void infer_product(Infer& c, DType t) {
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims &a = c.dims(0), &b = c.dims(1);
  if (a.empty()) c.fail("an operand of rank 0: got shape [], expected rank >= 1", 0);
  if (b.empty()) c.fail("an operand of rank 0: got shape [], expected rank >= 1", 1);
  const Dim k = b.size() == 1 ? b[0] : b[b.size() - 2];
  if (differ(a.back(), k))
    c.fail("inner dimensions differ: got " + to_string(a) + " and " + to_string(b) + ", expected " +
           dim_text(a.back()) + " rows in the second operand");
  Dims r = c.broadcast(a.size() > 2 ? Dims(a.begin(), a.end() - 2) : Dims(),
                       b.size() > 2 ? Dims(b.begin(), b.end() - 2) : Dims());
  if (a.size() > 1) r.push_back(a[a.size() - 2]);
  if (b.size() > 1) r.push_back(b.back());
  c.out(0, t, std::move(r));
}

void infer_matmul(Infer& c) {
  if (c.dtype(0) != c.dtype(1))
    c.fail("element types differ: got " + std::string(dtype_name(c.dtype(0))) + " and " +
           std::string(dtype_name(c.dtype(1))));
  infer_product(c, c.dtype(0));
}

Kernel matmul_kernel(const Node&) {
  return [](Call& c) {
    if (c.in(0).dim() == 1 || c.in(1).dim() == 1 || c.in(0).numel() == 0 || c.in(1).numel() == 0)
      return c.set(0, at::matmul(c.in(0), c.in(1)));
    at::matmul_out(c.out(0), c.in(0), c.in(1));
  };
}

/// All axes but the last made one.
Expr rows(Expr x) {
  return x.rank() == 2 ? x : x.builder().op("Flatten", {x}, {{"axis", static_cast<int64_t>(x.rank() - 1)}});
}

Grads matmul_grad(const Grad& g) {
  const int ra = g.rank(0), rb = g.rank(1);
  const Expr a = g.x(0), b = g.x(1), dy = g.dy();
  Grads r(2);
  if (ra == 1 && rb == 1) {
    if (g.needs(0)) r[0] = dy * b;
    if (g.needs(1)) r[1] = dy * a;
  } else if (ra == 1) {
    const Expr row = unsqueeze(dy, {dy.rank() - 1});  // [.., 1, N]
    if (g.needs(0)) r[0] = squeeze(matmul(row, swap_last(b)), {dy.rank() - 1});
    if (g.needs(1)) r[1] = unsqueeze(a, {1}) * row;
  } else if (rb == 1) {
    const Expr column = unsqueeze(dy, {dy.rank()});  // [.., M, 1]
    if (g.needs(0)) r[0] = column * b;
    if (g.needs(1)) r[1] = matmul(flatten_all(dy), rows(a));
  } else {
    if (g.needs(0)) {
      if (ra == 2 && rb > 2) {
        // [M, B N] x [B N, K]: the sum over the batch is part of the product.
        std::vector<int64_t> perm(static_cast<size_t>(rb));
        for (int i = 0; i < rb; ++i) perm[static_cast<size_t>(i)] = i;
        perm[static_cast<size_t>(rb - 2)] = rb - 1;
        perm[static_cast<size_t>(rb - 1)] = rb - 2;
        r[0] = matmul(transpose(rows(transpose(dy, perm)), {1, 0}), rows(transpose(b, perm)));
      } else {
        r[0] = matmul(dy, swap_last(b));
      }
    }
    if (g.needs(1)) {
      if (rb == 2 && ra > 2) {
        r[1] = matmul(transpose(rows(a), {1, 0}), rows(dy));
      } else {
        r[1] = matmul(swap_last(a), dy);
      }
    }
  }
  return r;
}

void infer_gemm(Infer& c) {
  const DType t = c.dtype(0);
  if (c.dtype(1) != t)
    c.fail("element types differ: got " + std::string(dtype_name(t)) + " and " + std::string(dtype_name(c.dtype(1))),
           1);
  Dim m = kAnyDim, k = kAnyDim, n = kAnyDim;
  if (c.ranked(0)) {
    if (c.rank(0) != 2) c.fail("Gemm takes matrices: got " + to_string(c.dims(0)), 0);
    const bool trans = c.node.attr("transA", false);
    m = c.dims(0)[trans ? 1 : 0];
    k = c.dims(0)[trans ? 0 : 1];
  }
  if (c.ranked(1)) {
    if (c.rank(1) != 2) c.fail("Gemm takes matrices: got " + to_string(c.dims(1)), 1);
    const bool trans = c.node.attr("transB", false);
    const Dim kb = c.dims(1)[trans ? 1 : 0];
    n = c.dims(1)[trans ? 0 : 1];
    if (differ(k, kb)) c.fail("inner dimensions differ: got " + to_string(c.dims(0)) + " and " + to_string(c.dims(1)));
  }
  if (c.has(2) && c.ranked(2)) {
    const Dims& d = c.dims(2);
    const Dim want[2] = {m, n};
    if (d.size() > 2) c.fail("C must broadcast to the product: got " + to_string(d), 2);
    for (size_t i = 0; i < d.size(); ++i)
      if (d[i] != 1 && differ(d[i], want[2 - d.size() + i]))
        c.fail("C must broadcast to the product: got " + to_string(d) + ", expected " + to_string(Dims{m, n}), 2);
  }
  c.out(0, t, Dims{m, n});
}

Kernel gemm_kernel(const Node& node) {
  const double alpha = node.attr("alpha", 1.0), beta = node.attr("beta", 1.0);
  const bool ta = node.attr("transA", false), tb = node.attr("transB", false);
  return [=](Call& c) {
    const at::Tensor a = ta ? c.in(0).t() : c.in(0), b = tb ? c.in(1).t() : c.in(1);
    const bool whole = !at::isFloatingType(a.scalar_type());
    const auto scalar = [&](double v) { return whole ? at::Scalar(static_cast<int64_t>(v)) : at::Scalar(v); };
    if (c.has(2) && beta != 0) {
      at::addmm_out(c.out(0), c.in(2), a, b, scalar(beta), scalar(alpha));
    } else {
      at::mm_out(c.out(0), a, b);
      if (alpha != 1) c.out(0).mul_(scalar(alpha));
    }
  };
}

Expr gemm(Expr a, Expr b, bool ta, bool tb, double alpha) {
  Attrs attrs{{"alpha", alpha}, {"transA", static_cast<int64_t>(ta)}, {"transB", static_cast<int64_t>(tb)}};
  if (a.builder().opset() >= 11) return a.builder().op("Gemm", {a, b}, std::move(attrs));
  attrs.emplace_back("beta", 0.0);
  return a.builder().op("Gemm", {a, b, a.builder().literal(Literal::scalar(a.dtype(), 0, Dims{1}))}, std::move(attrs));
}

Grads gemm_grad(const Grad& g) {
  const double alpha = g.attr("alpha", 1.0), beta = g.attr("beta", 1.0);
  const bool ta = g.attr("transA", false), tb = g.attr("transB", false);
  const Expr a = g.x(0), b = g.x(1), dy = g.dy();
  Grads r(g.num_inputs());
  if (g.needs(0)) r[0] = ta ? gemm(b, dy, tb, true, alpha) : gemm(dy, b, false, !tb, alpha);
  if (g.needs(1)) r[1] = tb ? gemm(dy, a, true, ta, alpha) : gemm(a, dy, !ta, false, alpha);
  if (g.num_inputs() > 2 && g.needs(2)) r[2] = beta == 0 ? zeros_like(g.x(2)) : beta == 1 ? dy : dy * beta;
  return r;
}

void infer_integer_product(Infer& c) { infer_product(c, DType::kInt32); }

at::Tensor centred(const Call& c, size_t i, size_t zero, bool per_row) {
  at::Tensor x = c.in(i).to(at::kInt);
  if (!c.has(zero)) return x;
  at::Tensor z = c.in(zero).to(at::kInt);
  if (z.dim() == 1 && z.numel() > 1 && per_row) z = z.unsqueeze(-1);
  return x.sub(z);
}

/// Integers of float64 are exact up to 2^53: products of 8-bit numbers never reach it.
Kernel matmul_integer_kernel(const Node&) {
  return [](Call& c) {
    c.set(0, at::matmul(centred(c, 0, 2, true).to(at::kDouble), centred(c, 1, 3, false).to(at::kDouble)).to(at::kInt));
  };
}

}  // namespace

OpTable matmul_ops() {
  return {
      {.name = "MatMul", .infer = infer_matmul, .kernel = matmul_kernel, .bind = bind_matmul, .grad = matmul_grad},
      {.name = "Gemm", .since = 7, .infer = infer_gemm, .kernel = gemm_kernel, .bind = bind_gemm, .grad = gemm_grad},
      {.name = "MatMulInteger", .infer = infer_integer_product, .kernel = matmul_integer_kernel, .grad = no_grad},
  };
}

}  // namespace ortmod
