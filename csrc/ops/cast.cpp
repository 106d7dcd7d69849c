// Operators: conversion of element types.
#include <ATen/ATen.h>

#include <limits>

#include "kernels/cpu/pointwise.h"
#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

DType target(const Node& n) {
  const int64_t to = n.attr("to", 0);
  if (to <= 0 || !is_known_dtype(static_cast<int>(to)))
    fail(ErrorKind::kType, "infer", "unknown element type in attribute to: got " + std::to_string(to), n);
  return static_cast<DType>(to);
}

void cast_to(Infer& i, DType to) {
  Type t = i.type(0);
  t.dtype = to;
  i.out(0, std::move(t));
  const HostInts* x = i.ints(0);
  if (!x || !is_host_type(i.dtype(0)) || !is_host_type(to)) return;
  HostInts r = *x;
  if (to == DType::kBool)
    for (Dim& d : r.v) d = is_symbolic(d) ? kAnyDim : d != 0;
  i.out_ints(0, std::move(r));
}

void infer_cast(Infer& i) { cast_to(i, target(i.node)); }
void infer_cast_like(Infer& i) { cast_to(i, i.dtype(1)); }

void infer_bit_cast(Infer& i) {
  const DType to = target(i.node);
  if (i.dtype(0) != DType::kUndefined && dtype_size(to) != dtype_size(i.dtype(0)))
    fail_type(i, "widths differ: got " + std::string(dtype_name(i.dtype(0))) + " to " + std::string(dtype_name(to)), 0);
  Type t = i.type(0);
  t.dtype = to;
  i.out(0, std::move(t));
}

bool is_float8(at::ScalarType t) {
  return t == at::kFloat8_e4m3fn || t == at::kFloat8_e4m3fnuz || t == at::kFloat8_e5m2 || t == at::kFloat8_e5m2fnuz;
}

double largest(at::ScalarType t) {
  if (t == at::kFloat8_e4m3fn) return 448;
  return t == at::kFloat8_e4m3fnuz ? 240 : 57344;
}

Kernel cast_kernel(const Node& n) {
  const bool saturate = n.attr("saturate", true);
  return [saturate](Call& c) {
    const at::Tensor& x = c.in(0);
    const at::ScalarType to = c.out(0).scalar_type();
    if (is_float8(to) && saturate && x.is_floating_point() && !is_float8(x.scalar_type()))
      return c.set(0, at::clamp(x, -largest(to), largest(to)).to(to));
    c.set(0, to == at::kBool ? x.to(at::kBool) : x);
  };
}

Kernel bit_cast_kernel(const Node&) {
  return [](Call& c) { c.set(0, c.in(0).view(c.out(0).scalar_type())); };
}

Grads cast_grad(const Grad& g) {
  Grads r(g.num_inputs());
  if (is_float(g.type(0).dtype) && is_float(g.y().dtype())) r[0] = cast(g.dy(), g.type(0).dtype);
  return r;
}

constexpr std::string_view kLimits = "no strings, no types below one byte";

}  // namespace

OpTable cast_ops() {
  return {
      {.name = "Cast",
       .infer = infer_cast,
       .kernel = cast_kernel,
       .grad = cast_grad,
       .pointwise = Pw::kCast,
       .exact = true,
       .limits = kLimits},
      {.name = "CastLike",
       .infer = infer_cast_like,
       .kernel = cast_kernel,
       .grad = cast_grad,
       .exact = true,
       .shape_inputs = 2,
       .limits = kLimits},
      {.name = "BitCast", .infer = infer_bit_cast, .kernel = bit_cast_kernel, .grad = no_grad, .limits = kLimits},
  };
}

}  // namespace ortmod
