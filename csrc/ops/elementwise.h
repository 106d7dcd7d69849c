// What the element-wise families share: inference with host-known integers, and kernels made of ATen functions.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/op.h"

namespace ortmod {

// Inference. Each checks element types (TypeError) and broadcasts (ShapeError).
void infer_same(Infer& i);         // one input, same type
void infer_float(Infer& i);        // one floating-point input, same type
void infer_predicate(Infer& i);    // one input, bool result
void infer_elementwise(Infer& i);  // inputs of one type, broadcast, same type
void infer_compare(Infer& i);      // inputs of one type, broadcast, bool result
void infer_logic(Infer& i);        // bool inputs, broadcast, bool result
/// A TypeError unless inputs 0 .. n-1 have one element type.
void check_same_types(const Infer& i, size_t n);
[[noreturn]] void fail_type(const Infer& i, const std::string& what, int input = -1);

/// Integer elements computed while sizes are computed; kAnyDim: not known.
using HostFn1 = Dim (*)(Dim);
using HostFn2 = Dim (*)(Dim, Dim);
using HostFn3 = Dim (*)(Dim, Dim, Dim);
void host_map(Infer& i, HostFn1 f);
void host_map(Infer& i, HostFn2 f);  // folds over all inputs
void host_map(Infer& i, HostFn3 f);
constexpr bool is_host_type(DType t) { return t == DType::kInt64 || t == DType::kInt32 || t == DType::kBool; }
/// A symbolic dimension whose value cannot be negative.
bool is_size(Dim d);

template <InferFn Types, HostFn1 F>
void infer_host1(Infer& i) {
  Types(i);
  host_map(i, F);
}
template <InferFn Types, HostFn2 F>
void infer_host2(Infer& i) {
  Types(i);
  host_map(i, F);
}

/// Defaults of attributes, as the standard's float32 holds them.
inline constexpr double kLeakyReluAlpha = 0.01f, kHardSigmoidAlpha = 0.2f, kSeluAlpha = 1.67326319217681884765625,
                        kSeluGamma = 1.05070102214813232421875;

// Kernels. ATen has little arithmetic for uint16, uint32 and uint64: they are computed in int64.
using Unary = at::Tensor& (*)(at::Tensor& out, const at::Tensor& x);
using Binary = at::Tensor& (*)(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);
bool is_wide_unsigned(const at::Tensor& t);
/// int64 in place of uint16, uint32, uint64; others as they are.
at::Tensor widened(const at::Tensor& t);
void run_unary(Call& c, Unary f);
void run_binary(Call& c, Binary f);
/// f folded over all inputs.
void run_variadic(Call& c, Binary f);

template <Unary F>
Kernel unary(const Node&) {
  return [](Call& c) { run_unary(c, F); };
}
template <Binary F>
Kernel binary(const Node&) {
  return [](Call& c) { run_binary(c, F); };
}
template <Binary F>
Kernel variadic(const Node&) {
  return [](Call& c) { run_variadic(c, F); };
}

}  // namespace ortmod
