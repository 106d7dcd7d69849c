// Operators: ortmod::MatMulT, a matrix product with permuted operands and result, a scale, an addend and Relu.
#include <ATen/ATen.h>

#include "ops/attrs.h"
#include "ops/bind_matmul.h"
#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// Y = Transpose(Relu(alpha * MatMul(Transpose(A, permA), Transpose(B, permB)) + C), permY)

Dims permuted(const Infer& c, const Dims& d, std::string_view key) {
  const auto perm = int_list(c.node, key);
  if (perm.empty()) return d;
  if (perm.size() != d.size())
    c.fail("the permutation has another rank than the operand: got " + std::to_string(perm.size()) + ", expected " +
           std::to_string(d.size()));
  Dims r(d.size());
  for (size_t i = 0; i < d.size(); ++i) {
    if (perm[i] < 0 || perm[i] >= static_cast<int64_t>(d.size())) c.fail("a permutation must name axes of its operand");
    r[i] = d[static_cast<size_t>(perm[i])];
  }
  return r;
}

void infer_matmul_t(Infer& c) {
  const DType t = c.dtype(0);
  if (c.dtype(1) != t)
    c.fail("element types differ: got " + std::string(dtype_name(t)) + " and " + std::string(dtype_name(c.dtype(1))));
  if (!c.ranked(0) || !c.ranked(1)) return c.out_unranked(0, t);
  const Dims a = permuted(c, c.dims(0), "permA"), b = permuted(c, c.dims(1), "permB");
  if (a.size() < 2 || b.size() < 2)
    c.fail("operands of rank >= 2 are expected: got " + to_string(a) + " and " + to_string(b));
  if (differ(a.back(), b[b.size() - 2]))
    c.fail("inner dimensions differ: got " + to_string(a) + " and " + to_string(b));
  Dims r = c.broadcast(Dims(a.begin(), a.end() - 2), Dims(b.begin(), b.end() - 2));
  r.push_back(a[a.size() - 2]);
  r.push_back(b.back());
  if (c.has(2) && c.ranked(2)) r = c.broadcast(r, c.dims(2));
  c.out(0, t, permuted(c, r, "permY"));
}

Kernel matmul_t_kernel(const Node& n) {
  const std::vector<int64_t> pa = n.ints("permA"), pb = n.ints("permB"), py = n.ints("permY");
  const double alpha = n.attr("alpha", 1.0);
  const bool relu = n.attr("relu", false);
  return [=](Call& c) {
    at::Tensor y = at::matmul(pa.empty() ? c.in(0) : c.in(0).permute(pa), pb.empty() ? c.in(1) : c.in(1).permute(pb));
    if (alpha != 1) y.mul_(alpha);
    if (c.has(2)) y.add_(c.in(2));
    if (relu) y.relu_();
    c.set(0, py.empty() ? y : y.permute(py));
  };
}

Grads matmul_t_body(const Grad& g) {
  const auto permute = [&](Expr x, std::string_view key) {
    std::vector<int64_t> perm = g.ints(key);
    return perm.empty() ? x : transpose(x, std::move(perm));
  };
  Expr y = matmul(permute(g.x(0), "permA"), permute(g.x(1), "permB"));
  const double alpha = g.attr("alpha", 1.0);
  if (alpha != 1) y = y * alpha;
  if (g.has_x(2)) y = y + g.x(2);
  if (g.attr("relu", false)) y = unary("Relu", y);
  return {permute(y, "permY")};
}

}  // namespace

OpTable fused_matmul_ops() {
  return {
      {.name = "MatMulT",
       .domain = "ortmod",
       .infer = infer_matmul_t,
       .kernel = matmul_t_kernel,
       .bind = bind_matmul,
       .body = matmul_t_body},
  };
}

}  // namespace ortmod
