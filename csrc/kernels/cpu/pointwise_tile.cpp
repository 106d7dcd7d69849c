// Tile functions: arithmetic, comparison, selection, conversion; loads and stores.
#include "kernels/cpu/pointwise_tile.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

namespace ortmod::cpu {
namespace {

#define IVDEP _Pragma("GCC ivdep")

template <class F, class T, class R>
void unary(char* dst, const char* const* src, int64_t n, const double* imm) {
  R* d = reinterpret_cast<R*>(dst);
  const T* a = reinterpret_cast<const T*>(src[0]);
  const F f(imm);
  IVDEP for (int64_t i = 0; i < n; ++i) d[i] = f(a[i]);
}

template <class F, class T, class R, unsigned S>
void binary(char* dst, const char* const* src, int64_t n, const double* imm) {
  R* d = reinterpret_cast<R*>(dst);
  const T* a = reinterpret_cast<const T*>(src[0]);
  const T* b = reinterpret_cast<const T*>(src[1]);
  const F f(imm);
  if constexpr (S == 1) {
    const T x = *a;
    IVDEP for (int64_t i = 0; i < n; ++i) d[i] = f(x, b[i]);
  } else if constexpr (S == 2) {
    const T y = *b;
    IVDEP for (int64_t i = 0; i < n; ++i) d[i] = f(a[i], y);
  } else {
    IVDEP for (int64_t i = 0; i < n; ++i) d[i] = f(a[i], b[i]);
  }
}

template <class T, unsigned S>
void where(char* dst, const char* const* src, int64_t n, const double*) {
  T* d = reinterpret_cast<T*>(dst);
  const uint8_t* c = reinterpret_cast<const uint8_t*>(src[0]);
  const T* a = reinterpret_cast<const T*>(src[1]);
  const T* b = reinterpret_cast<const T*>(src[2]);
  if constexpr (S == 0) {
    IVDEP for (int64_t i = 0; i < n; ++i) {
      const T x = a[i], y = b[i];
      d[i] = c[i] ? x : y;
    }
  } else if constexpr (S == 2) {
    const T x = *a;
    IVDEP for (int64_t i = 0; i < n; ++i) {
      const T y = b[i];
      d[i] = c[i] ? x : y;
    }
  } else if constexpr (S == 4) {
    const T y = *b;
    IVDEP for (int64_t i = 0; i < n; ++i) {
      const T x = a[i];
      d[i] = c[i] ? x : y;
    }
  } else {
    const T x = *a, y = *b;
    IVDEP for (int64_t i = 0; i < n; ++i) d[i] = c[i] ? x : y;
  }
}

template <class T>
void splat(char* dst, const char* const* src, int64_t n, const double*) {
  T* d = reinterpret_cast<T*>(dst);
  const T x = *reinterpret_cast<const T*>(src[0]);
  for (int64_t i = 0; i < n; ++i) d[i] = x;
}

template <class T>
void copy(char* dst, const char* const* src, int64_t n, const double*) {
  if (dst != src[0]) std::memmove(dst, src[0], static_cast<size_t>(n) * sizeof(T));
}

struct NoImm {
  NoImm() = default;
  explicit NoImm(const double*) {}
};
#define BINARY(Name, expr)            \
  struct Name : NoImm {               \
    using NoImm::NoImm;               \
    template <class T>                \
    auto operator()(T a, T b) const { \
      return expr;                    \
    }                                 \
  };
#define UNARY(Name, expr)        \
  struct Name : NoImm {          \
    using NoImm::NoImm;          \
    template <class T>           \
    auto operator()(T x) const { \
      return expr;               \
    }                            \
  };
BINARY(Add, static_cast<T>(a + b))
BINARY(Sub, static_cast<T>(a - b))
BINARY(Mul, static_cast<T>(a* b))
BINARY(Div, static_cast<T>(a / b))
BINARY(Max, (a > b || a != a) ? a : b)
BINARY(Min, (a < b || a != a) ? a : b)
BINARY(PRelu, a < T(0) ? a * b : a)
BINARY(Eq, static_cast<uint8_t>(a == b))
BINARY(Lt, static_cast<uint8_t>(a < b))
BINARY(Gt, static_cast<uint8_t>(a > b))
BINARY(Le, static_cast<uint8_t>(a <= b))
BINARY(Ge, static_cast<uint8_t>(a >= b))
BINARY(And, static_cast<uint8_t>((a != 0) & (b != 0)))
BINARY(Or, static_cast<uint8_t>((a != 0) | (b != 0)))
BINARY(Xor, static_cast<uint8_t>((a != 0) != (b != 0)))
UNARY(Neg, static_cast<T>(-x))
UNARY(AbsInt, static_cast<T>(x < 0 ? -x : x))
UNARY(Abs, std::abs(x))
UNARY(Sign, static_cast<T>(x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0))))
UNARY(Reciprocal, T(1) / x)
UNARY(Sqrt, std::sqrt(x))
UNARY(Floor, std::floor(x))
UNARY(Ceil, std::ceil(x))
UNARY(Round, std::nearbyint(x))
UNARY(Relu, x < T(0) ? T(0) : x)
UNARY(Softsign, x / (T(1) + std::abs(x)))
UNARY(Not, static_cast<uint8_t>(x == 0))
UNARY(IsNaN, static_cast<uint8_t>(x != x))
template <class R>
struct To : NoImm {
  using NoImm::NoImm;
  template <class T>
  R operator()(T x) const {
    return static_cast<R>(x);
  }
};
struct ToBool : NoImm {
  using NoImm::NoImm;
  template <class T>
  uint8_t operator()(T x) const {
    return x != T(0);
  }
};
template <class H>
struct RoundTo : NoImm {
  using NoImm::NoImm;
  float operator()(float x) const { return static_cast<float>(static_cast<H>(x)); }
};
struct Imm {
  explicit Imm(const double* imm) : p(imm[0]), q(imm[1]) {}
  double p, q;
};
struct LeakyRelu : Imm {
  using Imm::Imm;
  template <class T>
  T operator()(T x) const {
    return x < T(0) ? x * static_cast<T>(p) : x;
  }
};
struct ThresholdedRelu : Imm {
  using Imm::Imm;
  template <class T>
  T operator()(T x) const {
    return x > static_cast<T>(p) ? x : (x != x ? x : T(0));
  }
};
struct HardSigmoid : Imm {
  using Imm::Imm;
  template <class T>
  T operator()(T x) const {
    const T v = x * static_cast<T>(p) + static_cast<T>(q);
    return v < T(0) ? T(0) : (v > T(1) ? T(1) : v);
  }
};
struct HardSwish : NoImm {
  using NoImm::NoImm;
  template <class T>
  T operator()(T x) const {
    const T v = x * T(1.0 / 6) + T(0.5);
    return x * (v < T(0) ? T(0) : (v > T(1) ? T(1) : v));
  }
};
struct Shrink : Imm {  // lambd, bias
  using Imm::Imm;
  template <class T>
  T operator()(T x) const {
    const T l = static_cast<T>(p), b = static_cast<T>(q);
    return x < -l ? x + b : (x > l ? x - b : (x != x ? x : T(0)));
  }
};
struct IsInf : Imm {  // detect_negative, detect_positive
  using Imm::Imm;
  template <class T>
  uint8_t operator()(T x) const {
    return (p != 0 && x == -static_cast<T>(INFINITY)) || (q != 0 && x == static_cast<T>(INFINITY));
  }
};

template <class F, class T, class R = T>
TileFn pick(unsigned scalars) {
  return scalars == 0   ? binary<F, T, R, 0>
         : scalars == 1 ? binary<F, T, R, 1>
         : scalars == 2 ? binary<F, T, R, 2>
                        : nullptr;
}

template <class T>
TileFn common(Pw op, unsigned s) {
  switch (op) {
    case Pw::kAdd:
      return pick<Add, T>(s);
    case Pw::kSub:
      return pick<Sub, T>(s);
    case Pw::kMul:
      return pick<Mul, T>(s);
    case Pw::kMax:
      return pick<Max, T>(s);
    case Pw::kMin:
      return pick<Min, T>(s);
    case Pw::kEqual:
      return pick<Eq, T, uint8_t>(s);
    case Pw::kLess:
      return pick<Lt, T, uint8_t>(s);
    case Pw::kGreater:
      return pick<Gt, T, uint8_t>(s);
    case Pw::kLessOrEqual:
      return pick<Le, T, uint8_t>(s);
    case Pw::kGreaterOrEqual:
      return pick<Ge, T, uint8_t>(s);
    case Pw::kNeg:
      return unary<Neg, T, T>;
    case Pw::kSign:
      return unary<Sign, T, T>;
    case Pw::kRelu:
      return unary<Relu, T, T>;
    default:
      return nullptr;
  }
}

template <class T>
TileFn floating(Pw op, unsigned s) {
  if (TileFn f = common<T>(op, s)) return f;
  switch (op) {
    case Pw::kDiv:
      return pick<Div, T>(s);
    case Pw::kPRelu:
      return pick<PRelu, T>(s);
    case Pw::kAbs:
      return unary<Abs, T, T>;
    case Pw::kReciprocal:
      return unary<Reciprocal, T, T>;
    case Pw::kSqrt:
      return unary<Sqrt, T, T>;
    case Pw::kFloor:
      return unary<Floor, T, T>;
    case Pw::kCeil:
      return unary<Ceil, T, T>;
    case Pw::kRound:
      return unary<Round, T, T>;
    case Pw::kSoftsign:
      return unary<Softsign, T, T>;
    case Pw::kLeakyRelu:
      return unary<LeakyRelu, T, T>;
    case Pw::kThresholdedRelu:
      return unary<ThresholdedRelu, T, T>;
    case Pw::kHardSigmoid:
      return unary<HardSigmoid, T, T>;
    case Pw::kHardSwish:
      return unary<HardSwish, T, T>;
    case Pw::kShrink:
      return unary<Shrink, T, T>;
    case Pw::kIsNaN:
      return unary<IsNaN, T, uint8_t>;
    case Pw::kIsInf:
      return unary<IsInf, T, uint8_t>;
    default:
      return nullptr;
  }
}

template <class T>
TileFn integral(Pw op, unsigned s) {
  if (op == Pw::kAbs) return unary<AbsInt, T, T>;
  return common<T>(op, s);
}

TileFn boolean(Pw op, unsigned s) {
  switch (op) {
    case Pw::kAnd:
      return pick<And, uint8_t>(s);
    case Pw::kOr:
      return pick<Or, uint8_t>(s);
    case Pw::kXor:
      return pick<Xor, uint8_t>(s);
    case Pw::kEqual:
      return pick<Eq, uint8_t>(s);
    case Pw::kNot:
      return unary<Not, uint8_t, uint8_t>;
    default:
      return nullptr;
  }
}

template <class T>
TileFn cast_from(Elem out) {
  switch (out) {
    case Elem::kF32:
      return unary<To<float>, T, float>;
    case Elem::kF64:
      return unary<To<double>, T, double>;
    case Elem::kI64:
      return unary<To<int64_t>, T, int64_t>;
    case Elem::kI32:
      return unary<To<int32_t>, T, int32_t>;
    case Elem::kBool:
      return unary<ToBool, T, uint8_t>;
    case Elem::kBF16:
      return std::is_same_v<T, float> ? unary<RoundTo<c10::BFloat16>, float, float> : nullptr;
    case Elem::kF16:
      return std::is_same_v<T, float> ? unary<RoundTo<c10::Half>, float, float> : nullptr;
    default:
      return nullptr;
  }
}

TileFn cast(Elem type, Elem out) {
  switch (type) {
    case Elem::kF32:
      return cast_from<float>(out);
    case Elem::kF64:
      return cast_from<double>(out);
    case Elem::kI64:
      return cast_from<int64_t>(out);
    case Elem::kI32:
      return cast_from<int32_t>(out);
    case Elem::kBool:
      return cast_from<uint8_t>(out);
    default:
      return nullptr;
  }
}

template <template <class> class Choose, class... A>
TileFn by_size(Elem type, A... a) {
  switch (elem_size(type)) {
    case 8:
      return Choose<uint64_t>::get(a...);
    case 4:
      return Choose<uint32_t>::get(a...);
    default:
      return Choose<uint8_t>::get(a...);
  }
}
template <class T>
struct Copy {
  static TileFn get(unsigned s) { return s & 1 ? splat<T> : copy<T>; }
};
template <class T>
struct Select {
  static TileFn get(unsigned s) {
    switch (s) {
      case 0:
        return where<T, 0>;
      case 2:
        return where<T, 2>;
      case 4:
        return where<T, 4>;
      case 6:
        return where<T, 6>;
      default:
        return nullptr;
    }
  }
};

template <class S, class D>
void load(char* dst, const char* src, int64_t stride, int64_t n) {
  D* d = reinterpret_cast<D*>(dst);
  const S* s = reinterpret_cast<const S*>(src);
  if (stride == 1) {
    if constexpr (std::is_same_v<S, D>) {
      std::memcpy(d, s, static_cast<size_t>(n) * sizeof(D));
    } else {
      for (int64_t i = 0; i < n; ++i) d[i] = static_cast<D>(s[i]);
    }
  } else if (stride == 0) {
    const D x = static_cast<D>(*s);
    for (int64_t i = 0; i < n; ++i) d[i] = x;
  } else {
    for (int64_t i = 0; i < n; ++i) d[i] = static_cast<D>(s[i * stride]);
  }
}

template <class H>
void store(char* dst, const char* src, int64_t n) {
  H* d = reinterpret_cast<H*>(dst);
  const float* s = reinterpret_cast<const float*>(src);
  for (int64_t i = 0; i < n; ++i) d[i] = static_cast<H>(s[i]);
}

}  // namespace

size_t elem_size(Elem e) {
  switch (e) {
    case Elem::kF64:
    case Elem::kI64:
      return 8;
    case Elem::kF32:
    case Elem::kI32:
      return 4;
    case Elem::kBF16:
    case Elem::kF16:
      return 2;
    default:
      return 1;
  }
}

LoadFn load_fn(Elem e) {
  switch (e) {
    case Elem::kBF16:
      return load<c10::BFloat16, float>;
    case Elem::kF16:
      return load<c10::Half, float>;
    case Elem::kF64:
    case Elem::kI64:
      return load<uint64_t, uint64_t>;
    case Elem::kF32:
    case Elem::kI32:
      return load<uint32_t, uint32_t>;
    default:
      return load<uint8_t, uint8_t>;
  }
}

StoreFn store_fn(Elem e) {
  return e == Elem::kBF16 ? store<c10::BFloat16> : e == Elem::kF16 ? store<c10::Half> : nullptr;
}

TileFn tile_fn(Pw op, Elem type, Elem out, unsigned s) {
  if (op == Pw::kIdentity) return by_size<Copy>(type, s);
  if (op == Pw::kWhere) return by_size<Select>(type, s);
  if (op == Pw::kCast) return cast(type, out);
  switch (type) {
    case Elem::kF32:
      if (TileFn f = floating<float>(op, s)) return f;
      return math_tile_fn(op, type, s);
    case Elem::kF64:
      if (TileFn f = floating<double>(op, s)) return f;
      return math_tile_fn(op, type, s);
    case Elem::kI64:
      return integral<int64_t>(op, s);
    case Elem::kI32:
      return integral<int32_t>(op, s);
    case Elem::kBool:
      return boolean(op, s);
    default:
      return nullptr;
  }
}

float tile_cost(Pw op) {
  switch (op) {
    case Pw::kExp:
    case Pw::kSigmoid:
    case Pw::kLog:
    case Pw::kSwish:
      return 0.7f;
    case Pw::kTanh:
    case Pw::kErf:
    case Pw::kGelu:
    case Pw::kElu:
    case Pw::kSelu:
    case Pw::kCelu:
    case Pw::kSoftplus:
    case Pw::kSin:
    case Pw::kCos:
      return 1.2f;
    case Pw::kPow:
    case Pw::kMod:
    case Pw::kMish:
      return 3.0f;
    case Pw::kDiv:
    case Pw::kSqrt:
    case Pw::kReciprocal:
      return 0.2f;
    default:
      return 0.06f;
  }
}

}  // namespace ortmod::cpu
