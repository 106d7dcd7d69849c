// Inference with host-known integers and the calling of ATen functions, for the element-wise families.
#include "ops/elementwise.h"

#include <ATen/ATen.h>

namespace ortmod {

void fail_type(const Infer& i, const std::string& what, int input) {
  fail(ErrorKind::kType, "infer", what, i.node, input);
}

void check_same_types(const Infer& i, size_t n) {
  const DType t = i.dtype(0);
  for (size_t k = 1; k < n; ++k) {
    if (!i.has(k) || i.dtype(k) == t || i.dtype(k) == DType::kUndefined || t == DType::kUndefined) continue;
    fail_type(i,
              "operands differ in element type: got " + std::string(dtype_name(i.dtype(k))) + ", expected " +
                  std::string(dtype_name(t)),
              static_cast<int>(k));
  }
}

void infer_same(Infer& i) { i.same_as(0); }

void infer_float(Infer& i) {
  const DType t = i.dtype(0);
  if (!is_float(t) && t != DType::kUndefined)
    fail_type(i, "wrong element type: got " + std::string(dtype_name(t)) + ", expected a floating-point type", 0);
  i.same_as(0);
}

void infer_predicate(Infer& i) {
  Type t = i.type(0);
  t.dtype = DType::kBool;
  i.out(0, std::move(t));
}

void infer_elementwise(Infer& i) {
  check_same_types(i, i.num_in());
  i.broadcast_all(i.dtype(0));
}

void infer_compare(Infer& i) {
  i.type(1);
  check_same_types(i, 2);
  i.broadcast_all(DType::kBool);
}

void infer_logic(Infer& i) {
  for (size_t k = 0; k < i.num_in(); ++k)
    if (i.dtype(k) != DType::kBool && i.dtype(k) != DType::kUndefined)
      fail_type(i, "wrong element type: got " + std::string(dtype_name(i.dtype(k))) + ", expected bool",
                static_cast<int>(k));
  i.broadcast_all(DType::kBool);
}

namespace {

/// Position in an operand of shape `dims` of element `flat` of the broadcast shape `out`.
size_t broadcast_index(size_t flat, const Dims& out, const Dims& dims) {
  size_t r = 0, stride = 1;
  for (size_t k = 0; k < dims.size(); ++k) {
    const size_t o = out.size() - 1 - k, d = dims.size() - 1 - k;
    const size_t at = flat % static_cast<size_t>(out[o]);
    flat /= static_cast<size_t>(out[o]);
    if (dims[d] != 1) r += at * stride;
    stride *= static_cast<size_t>(dims[d]);
  }
  return r;
}

Dim element(const HostInts& h, size_t flat, const Dims& out) {
  if (h.v.size() == 1) return h.v[0];
  return h.dims == out ? h.v[flat] : h.v[broadcast_index(flat, out, h.dims)];
}

bool host_operands(const Infer& i) {
  for (size_t k = 0; k < i.num_in(); ++k)
    if (!i.ints(k) || !is_host_type(i.dtype(k))) return false;
  return i.num_in() > 0;
}

constexpr size_t kHostMax = 64;

std::optional<HostInts> zip(const Infer& i, const HostInts& a, const HostInts& b, HostFn2 f) {
  HostInts r;
  r.dims = i.broadcast(a.dims, b.dims);
  const auto n = static_cast<size_t>(numel(r.dims));
  if (n > kHostMax) return std::nullopt;
  for (size_t e = 0; e < n; ++e) r.v.push_back(f(element(a, e, r.dims), element(b, e, r.dims)));
  return r;
}

}  // namespace

bool is_size(Dim d) {
  if (!is_symbolic(d)) return d >= 0;
  if (d == kAnyDim) return false;
  const DimExpr e = dim_expr(d);
  return e.op == 'n' || (e.op != '-' && is_size(e.a) && is_size(e.b));
}

void host_map(Infer& i, HostFn1 f) {
  const HostInts* x = i.ints(0);
  if (!x || !is_host_type(i.dtype(0))) return;
  HostInts r;
  r.dims = x->dims;
  for (Dim d : x->v) r.v.push_back(f(d));
  i.out_ints(0, std::move(r));
}

void host_map(Infer& i, HostFn2 f) {
  if (!host_operands(i)) return;
  HostInts r = *i.ints(0);
  for (size_t k = 1; k < i.num_in(); ++k) {
    auto next = zip(i, r, *i.ints(k), f);
    if (!next) return;
    r = std::move(*next);
  }
  i.out_ints(0, std::move(r));
}

void host_map(Infer& i, HostFn3 f) {
  if (!host_operands(i) || i.num_in() != 3) return;
  const HostInts &a = *i.ints(0), &b = *i.ints(1), &c = *i.ints(2);
  HostInts r;
  r.dims = i.broadcast(i.broadcast(a.dims, b.dims), c.dims);
  const auto n = static_cast<size_t>(numel(r.dims));
  if (n > kHostMax) return;
  for (size_t e = 0; e < n; ++e) r.v.push_back(f(element(a, e, r.dims), element(b, e, r.dims), element(c, e, r.dims)));
  i.out_ints(0, std::move(r));
}

bool is_wide_unsigned(const at::Tensor& t) {
  const at::ScalarType s = t.scalar_type();
  return s == at::kUInt16 || s == at::kUInt32 || s == at::kUInt64;
}

at::Tensor widened(const at::Tensor& t) { return is_wide_unsigned(t) ? t.to(at::kLong) : t; }

void run_unary(Call& c, Unary f) {
  if (!is_wide_unsigned(c.in(0))) {
    f(c.out(0), c.in(0));
    return;
  }
  const at::Tensor x = widened(c.in(0));
  at::Tensor y = at::empty({0}, x.options());
  c.set(0, f(y, x));
}

void run_binary(Call& c, Binary f) {
  if (!is_wide_unsigned(c.in(0))) {
    f(c.out(0), c.in(0), c.in(1));
    return;
  }
  const at::Tensor a = widened(c.in(0)), b = widened(c.in(1));
  at::Tensor y = at::empty({0}, a.options().dtype(c.out(0).scalar_type() == at::kBool ? at::kBool : at::kLong));
  c.set(0, f(y, a, b));
}

void run_variadic(Call& c, Binary f) {
  const size_t n = c.num_in();
  if (n == 1) return c.set(0, c.in(0));
  if (n == 2) return run_binary(c, f);
  at::Tensor acc = widened(c.in(0));
  for (size_t k = 1; k < n; ++k) {
    at::Tensor next = at::empty({0}, acc.options());
    acc = f(next, acc, widened(c.in(k)));
  }
  c.set(0, acc);
}

}  // namespace ortmod
