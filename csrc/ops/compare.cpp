// Operators: comparison, logic and bits. None has a gradient.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Dispatch_v2.h>

#include "kernels/cpu/pointwise.h"
#include "ops/elementwise.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

using at::Tensor;

bool plain(Dim a, Dim b) { return !is_symbolic(a) && !is_symbolic(b); }
/// One is a negative integer, the other a size.
bool differ_in_sign(Dim a, Dim b) {
  return (a < 0 && !is_symbolic(a) && is_size(b)) || (b < 0 && !is_symbolic(b) && is_size(a));
}

Dim host_equal(Dim a, Dim b) {
  if (plain(a, b)) return a == b;
  if (a == kAnyDim || b == kAnyDim) return kAnyDim;
  if (a == b) return 1;
  return differ_in_sign(a, b) ? 0 : kAnyDim;
}
Dim host_less(Dim a, Dim b) {
  if (plain(a, b)) return a < b;
  if (a == kAnyDim || b == kAnyDim) return kAnyDim;
  if (a == b) return 0;
  return differ_in_sign(a, b) ? !is_symbolic(a) : kAnyDim;
}
Dim host_not(Dim a) { return is_symbolic(a) ? kAnyDim : !a; }
Dim host_greater(Dim a, Dim b) { return host_less(b, a); }
Dim host_less_equal(Dim a, Dim b) { return host_not(host_less(b, a)); }
Dim host_greater_equal(Dim a, Dim b) { return host_not(host_less(a, b)); }
Dim host_and(Dim a, Dim b) {
  if (a == 0 || b == 0) return 0;
  return plain(a, b) ? 1 : kAnyDim;
}
Dim host_or(Dim a, Dim b) {
  if ((!is_symbolic(a) && a) || (!is_symbolic(b) && b)) return 1;
  return plain(a, b) ? 0 : kAnyDim;
}
Dim host_xor(Dim a, Dim b) { return plain(a, b) ? (a != 0) != (b != 0) : kAnyDim; }

/// uint64 as int64 of the same order.
Tensor ordered(const Tensor& t) {
  if (t.scalar_type() != at::kUInt64) return widened(t);
  return at::bitwise_xor(t.view(at::kLong),
                         at::scalar_tensor(std::numeric_limits<int64_t>::min(), t.options().dtype(at::kLong)));
}

template <Binary F>
Kernel compare(const Node&) {
  return [](Call& c) {
    if (is_wide_unsigned(c.in(0))) {
      F(c.out(0), ordered(c.in(0)), ordered(c.in(1)));
    } else {
      F(c.out(0), c.in(0), c.in(1));
    }
  };
}

Kernel is_nan_kernel(const Node&) {
  return [](Call& c) { at::isnan_out(c.out(0), c.in(0)); };
}

Kernel is_inf_kernel(const Node& n) {
  const bool negative = n.attr("detect_negative", true), positive = n.attr("detect_positive", true);
  return [negative, positive](Call& c) {
    const Tensor& x = c.in(0);
    if (negative && positive) return c.set(0, at::isinf(x));
    if (positive) return static_cast<void>(at::isposinf_out(c.out(0), x));
    if (negative) return static_cast<void>(at::isneginf_out(c.out(0), x));
    c.set(0, at::zeros_like(x, x.options().dtype(at::kBool)));
  };
}

void infer_integer(Infer& i) {
  for (size_t k = 0; k < i.num_in(); ++k)
    if (!is_integer(i.dtype(k)) && i.dtype(k) != DType::kUndefined)
      fail_type(i, "wrong element type: got " + std::string(dtype_name(i.dtype(k))) + ", expected an integer type",
                static_cast<int>(k));
  infer_elementwise(i);
}

void infer_bit_shift(Infer& i) {
  const std::string d = i.node.attr("direction", "");
  if (d != "LEFT" && d != "RIGHT") i.fail("unknown direction: got \"" + d + "\", expected LEFT or RIGHT");
  infer_integer(i);
}

/// A shift by a negative amount or by all bits leaves only copies of the sign (right, signed) or zeros.
template <class T>
T shifted(T x, T by, bool left) {
  constexpr int bits = sizeof(T) * 8;
  using U = std::make_unsigned_t<T>;
  if (by < T{0} || static_cast<uint64_t>(by) >= static_cast<uint64_t>(bits))
    return !left && x < T{0} ? static_cast<T>(-1) : T{0};
  return left ? static_cast<T>(static_cast<U>(x) << static_cast<unsigned>(by))
              : static_cast<T>(x >> static_cast<unsigned>(by));
}

Kernel bit_shift_kernel(const Node& n) {
  const bool left = n.attr("direction", "") == "LEFT";
  return [left](Call& c) {
    const auto shape = at::infer_size_dimvector(c.in(0).sizes(), c.in(1).sizes());
    const Tensor a = c.in(0).to(at::kCPU).expand(shape).contiguous(),
                 b = c.in(1).to(at::kCPU).expand(shape).contiguous();
    Tensor y = at::empty_like(a);
    AT_DISPATCH_V2(a.scalar_type(), "bit_shift", AT_WRAP([&] {
                     const scalar_t *p = a.const_data_ptr<scalar_t>(), *q = b.const_data_ptr<scalar_t>();
                     scalar_t* r = y.mutable_data_ptr<scalar_t>();
                     for (int64_t e = 0; e < a.numel(); ++e) r[e] = shifted<scalar_t>(p[e], q[e], left);
                   }),
                   AT_EXPAND(AT_INTEGRAL_TYPES), at::kUInt16, at::kUInt32, at::kUInt64);
    c.set(0, y.to(c.device()));
  };
}

OpDef comparison(std::string_view name, InferFn infer, KernelFn kernel, Pw pw) {
  return {.name = name, .infer = infer, .kernel = kernel, .grad = no_grad, .pointwise = pw};
}
OpDef bits(std::string_view name, KernelFn kernel) {
  return {.name = name, .infer = infer_integer, .kernel = kernel, .grad = no_grad};
}

}  // namespace

OpTable compare_ops() {
  return {
      comparison("Equal", infer_host2<infer_compare, host_equal>, compare<at::eq_out>, Pw::kEqual),
      comparison("Less", infer_host2<infer_compare, host_less>, compare<at::lt_out>, Pw::kLess),
      comparison("Greater", infer_host2<infer_compare, host_greater>, compare<at::gt_out>, Pw::kGreater),
      comparison("LessOrEqual", infer_host2<infer_compare, host_less_equal>, compare<at::le_out>, Pw::kLessOrEqual),
      comparison("GreaterOrEqual", infer_host2<infer_compare, host_greater_equal>, compare<at::ge_out>,
                 Pw::kGreaterOrEqual),
      comparison("And", infer_host2<infer_logic, host_and>, binary<at::logical_and_out>, Pw::kAnd),
      comparison("Or", infer_host2<infer_logic, host_or>, binary<at::logical_or_out>, Pw::kOr),
      comparison("Xor", infer_host2<infer_logic, host_xor>, binary<at::logical_xor_out>, Pw::kXor),
      comparison("Not", infer_host1<infer_logic, host_not>, unary<at::logical_not_out>, Pw::kNot),
      comparison("IsNaN", infer_predicate, is_nan_kernel, Pw::kIsNaN),
      comparison("IsInf", infer_predicate, is_inf_kernel, Pw::kIsInf),
      bits("BitwiseAnd", binary<at::bitwise_and_out>),
      bits("BitwiseOr", binary<at::bitwise_or_out>),
      bits("BitwiseXor", binary<at::bitwise_xor_out>),
      bits("BitwiseNot", unary<at::bitwise_not_out>),
      {.name = "BitShift", .infer = infer_bit_shift, .kernel = bit_shift_kernel, .grad = no_grad},
  };
}

}  // namespace ortmod
