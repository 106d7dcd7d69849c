// Tile functions: transcendental operators by vectors.
#include <cmath>

#include "kernels/cpu/pointwise_tile.h"
#include "kernels/cpu/vmath.h"

namespace ortmod::cpu {
namespace {

template <class F, class T>
void unary(char* dst, const char* const* src, int64_t n, const double* imm) {
  using V = Vectorized<T>;
  T* d = reinterpret_cast<T*>(dst);
  const T* a = reinterpret_cast<const T*>(src[0]);
  const F f(imm);
  int64_t i = 0;
  for (; i + V::size() <= n; i += V::size()) f(V::loadu(a + i)).store(d + i);
  if (i < n) f(V::loadu(a + i, n - i)).store(d + i, static_cast<int>(n - i));
}

template <class F, class T, unsigned S>
void binary(char* dst, const char* const* src, int64_t n, const double* imm) {
  using V = Vectorized<T>;
  T* d = reinterpret_cast<T*>(dst);
  const T* a = reinterpret_cast<const T*>(src[0]);
  const T* b = reinterpret_cast<const T*>(src[1]);
  const F f(imm);
  for (int64_t i = 0; i < n; i += V::size()) {
    const int64_t m = std::min<int64_t>(V::size(), n - i);
    const V x = S == 1 ? V(*a) : V::loadu(a + i, m);
    const V y = S == 2 ? V(*b) : V::loadu(b + i, m);
    f(x, y).store(d + i, static_cast<int>(m));
  }
}

struct NoImm {
  explicit NoImm(const double*) {}
};
struct Imm {
  explicit Imm(const double* imm) : p(imm[0]), q(imm[1]) {}
  double p, q;
};
template <class V>
using Scalar = typename V::value_type;
/// log(1 + exp(x)) without overflow.
template <class V>
V softplus(V x) {
  const V zero(Scalar<V>(0));
  return at::vec::maximum(x, zero) + vexp(x.abs().neg()).log1p();
}
/// p * (exp(x / c) - 1) where x < 0, x * s elsewhere.
template <class V>
V elu(V x, double p, double c, double s) {
  const V zero(Scalar<V>(0));
  const V negative = V(Scalar<V>(p)) * (at::vec::minimum(x, zero) * V(Scalar<V>(1 / c))).expm1();
  return V::blendv(x * V(Scalar<V>(s)), negative, x < zero);
}
/// asinh(x) or acosh(x), given as `y`: the vector library squares x, which overflows. `size`: |x| or x.
template <class V>
V area(V x, V size, V y) {
  using T = Scalar<V>;
  const V large = size > V(T(1e10));
  if (large.zero_mask() == (1 << V::size()) - 1) return y;
  return V::blendv(y, (size.log() + V(T(0.69314718055994530942))).copysign(x), large);
}
#define UNARY(Name, Base, expr)             \
  struct Name : Base {                      \
    using Base::Base;                       \
    template <class V>                      \
    V operator()(V x) const {               \
      using T [[maybe_unused]] = Scalar<V>; \
      return expr;                          \
    }                                       \
  };
UNARY(Exp, NoImm, vexp(x))
UNARY(Log, NoImm, x.log())
UNARY(Erf, NoImm, verf(x))
UNARY(Sin, NoImm, x.sin())
UNARY(Cos, NoImm, x.cos())
UNARY(Tan, NoImm, x.tan())
UNARY(Asin, NoImm, x.asin())
UNARY(Acos, NoImm, x.acos())
UNARY(Atan, NoImm, x.atan())
UNARY(Sinh, NoImm, x.sinh())
UNARY(Cosh, NoImm, x.cosh())
UNARY(Tanh, NoImm, vtanh(x))
UNARY(Asinh, NoImm, area(x, x.abs(), x.asinh()))
UNARY(Acosh, NoImm, area(x, x, x.acosh()))
UNARY(Atanh, NoImm, x.atanh())
UNARY(Sigmoid, NoImm, vsigmoid(x))
UNARY(Softplus, NoImm, softplus(x))
UNARY(Mish, NoImm, x* vtanh(softplus(x)))
UNARY(Swish, Imm, x* vsigmoid(x* V(T(p))))
UNARY(Elu, Imm, elu(x, p, 1.0, 1.0))
UNARY(Celu, Imm, elu(x, p, p, 1.0))
UNARY(Selu, Imm, elu(x, p* q, 1.0, q))
UNARY(GeluErf, NoImm, x* V(T(0.5)) * (V(T(1)) + verf(x * V(T(0.70710678118654752440)))))
UNARY(GeluTanh, NoImm,
      x* V(T(0.5)) * (V(T(1)) + vtanh(V(T(0.79788456080286535588)) * (x + V(T(0.044715)) * x * x * x))))
struct Gelu : Imm {  // p: tanh approximation
  using Imm::Imm;
  template <class V>
  V operator()(V x) const {
    return p != 0 ? GeluTanh(nullptr)(x) : GeluErf(nullptr)(x);
  }
};
struct Pow : NoImm {
  using NoImm::NoImm;
  template <class V>
  V operator()(V a, V b) const {
    return a.pow(b);
  }
};
/// An exponent of one element: the common ones without pow.
template <class T>
void pow_scalar(char* dst, const char* const* src, int64_t n, const double* imm) {
  const T e = *reinterpret_cast<const T*>(src[1]);
  T* d = reinterpret_cast<T*>(dst);
  const T* a = reinterpret_cast<const T*>(src[0]);
  if (e == T(2)) {
    for (int64_t i = 0; i < n; ++i) d[i] = a[i] * a[i];
  } else if (e == T(3)) {
    for (int64_t i = 0; i < n; ++i) d[i] = a[i] * a[i] * a[i];
  } else if (e == T(1)) {
    for (int64_t i = 0; i < n; ++i) d[i] = a[i];
  } else if (e == T(-1)) {
    for (int64_t i = 0; i < n; ++i) d[i] = T(1) / a[i];
  } else if (e == T(0.5)) {
    for (int64_t i = 0; i < n; ++i) d[i] = std::sqrt(a[i]);
  } else {
    binary<Pow, T, 2>(dst, src, n, imm);
  }
}
struct Fmod : NoImm {
  using NoImm::NoImm;
  template <class V>
  V operator()(V a, V b) const {
    return a.fmod(b);
  }
};

template <class F, class T>
TileFn pick(unsigned s) {
  return s == 0 ? binary<F, T, 0> : s == 1 ? binary<F, T, 1> : s == 2 ? binary<F, T, 2> : nullptr;
}

template <class T>
TileFn math(Pw op, unsigned s) {
  switch (op) {
    case Pw::kPow:
      return s == 2 ? pow_scalar<T> : pick<Pow, T>(s);
    case Pw::kMod:
      return pick<Fmod, T>(s);
    case Pw::kExp:
      return unary<Exp, T>;
    case Pw::kLog:
      return unary<Log, T>;
    case Pw::kErf:
      return unary<Erf, T>;
    case Pw::kSin:
      return unary<Sin, T>;
    case Pw::kCos:
      return unary<Cos, T>;
    case Pw::kTan:
      return unary<Tan, T>;
    case Pw::kAsin:
      return unary<Asin, T>;
    case Pw::kAcos:
      return unary<Acos, T>;
    case Pw::kAtan:
      return unary<Atan, T>;
    case Pw::kSinh:
      return unary<Sinh, T>;
    case Pw::kCosh:
      return unary<Cosh, T>;
    case Pw::kTanh:
      return unary<Tanh, T>;
    case Pw::kAsinh:
      return unary<Asinh, T>;
    case Pw::kAcosh:
      return unary<Acosh, T>;
    case Pw::kAtanh:
      return unary<Atanh, T>;
    case Pw::kSigmoid:
      return unary<Sigmoid, T>;
    case Pw::kSoftplus:
      return unary<Softplus, T>;
    case Pw::kMish:
      return unary<Mish, T>;
    case Pw::kSwish:
      return unary<Swish, T>;
    case Pw::kElu:
      return unary<Elu, T>;
    case Pw::kCelu:
      return unary<Celu, T>;
    case Pw::kSelu:
      return unary<Selu, T>;
    case Pw::kGelu:
      return unary<Gelu, T>;
    default:
      return nullptr;
  }
}

}  // namespace

TileFn math_tile_fn(Pw op, Elem type, unsigned s) {
  if (type == Elem::kF32) return math<float>(op, s);
  if (type == Elem::kF64) return math<double>(op, s);
  return nullptr;
}

}  // namespace ortmod::cpu
