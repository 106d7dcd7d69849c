// Reductions over one dimension.
#include "kernels/cpu/reduce.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/vmath.h"

namespace ortmod::cpu {
namespace {

template <class T>
using V = Vectorized<T>;

struct Sum {
  static constexpr double start() { return 0; }
  template <class T>
  static V<T> element(const V<T>& x) {
    return x;
  }
  template <class T>
  static V<T> join(const V<T>& a, const V<T>& b) {
    return a + b;
  }
};
struct SumSquare : Sum {
  template <class T>
  static V<T> element(const V<T>& x) {
    return x * x;
  }
};
struct SumAbs : Sum {
  template <class T>
  static V<T> element(const V<T>& x) {
    return x.abs();
  }
};
struct Prod : Sum {
  static constexpr double start() { return 1; }
  template <class T>
  static V<T> join(const V<T>& a, const V<T>& b) {
    return a * b;
  }
};
struct Max : Sum {
  static constexpr double start() { return -std::numeric_limits<double>::infinity(); }
  template <class T>
  static V<T> join(const V<T>& a, const V<T>& b) {
    return at::vec::maximum(a, b);
  }
};
struct Min : Sum {
  static constexpr double start() { return std::numeric_limits<double>::infinity(); }
  template <class T>
  static V<T> join(const V<T>& a, const V<T>& b) {
    return at::vec::minimum(a, b);
  }
};

template <class T>
V<T> load(const T* p, int count) {
  return count == V<T>::size() ? V<T>::loadu(p) : V<T>::loadu(p, count);
}

template <class R, class T>
T lanes(const V<T>& v) {
  return at::vec::vec_reduce_all<T>([](V<T>& a, V<T>& b) { return R::template join<T>(a, b); }, v);
}

constexpr int64_t kPiece = 2048;  // elements that are summed in lanes before the pieces are

template <class R, class T>
V<T> piece(const T* x, int64_t n) {
  constexpr int W = V<T>::size();
  const V<T> start(static_cast<T>(R::start()));
  V<T> a[4] = {start, start, start, start};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; ++j) a[j] = R::template join<T>(a[j], R::template element<T>(V<T>::loadu(x + i + j * W)));
  for (int j = 0; i < n; i += W, ++j) {
    const int c = static_cast<int>(std::min<int64_t>(W, n - i));
    const V<T> e = R::template element<T>(load(x + i, c));
    a[j & 3] = R::template join<T>(a[j & 3], c == W ? e : V<T>::set(start, e, c));
  }
  return R::template join<T>(R::template join<T>(a[0], a[1]), R::template join<T>(a[2], a[3]));
}

template <class R, class T>
T row(const T* x, int64_t n) {
  V<T> all = piece<R>(x, std::min(n, kPiece));
  for (int64_t i = kPiece; i < n; i += kPiece) all = R::template join<T>(all, piece<R>(x + i, std::min(kPiece, n - i)));
  return lanes<R, T>(all);
}

/// Columns [begin, end) of one [n, inner] block, in bands of rows so that long sums stay accurate.
template <class R, class T>
void columns(const T* x, T* y, int64_t n, int64_t inner, int64_t begin, int64_t end) {
  constexpr int W = V<T>::size();
  constexpr int64_t kBand = 64;
  const V<T> start(static_cast<T>(R::start()));
  const auto block = [&](int64_t j, int count, auto vecs) {
    constexpr int N = decltype(vecs)::value;
    V<T> total[N];
    for (int v = 0; v < N; ++v) total[v] = start;
    for (int64_t r0 = 0; r0 < n; r0 += kBand) {
      V<T> a[N];
      for (int v = 0; v < N; ++v) a[v] = start;
      const int64_t re = std::min(n, r0 + kBand);
      const T* p = x + r0 * inner + j;
      for (int64_t r = r0; r < re; ++r, p += inner)
        for (int v = 0; v < N; ++v)
          a[v] = R::template join<T>(a[v], R::template element<T>(load(p + v * W, v == N - 1 ? count : W)));
      for (int v = 0; v < N; ++v) total[v] = R::template join<T>(total[v], a[v]);
    }
    for (int v = 0; v < N; ++v) total[v].store(y + j + v * W, v == N - 1 ? count : W);
  };
  for (int64_t j = begin; j < end; j += 4 * W) {
    const int cols = static_cast<int>(std::min<int64_t>(4 * W, end - j)), vecs = (cols + W - 1) / W,
              last = cols - (vecs - 1) * W;
    switch (vecs) {
      case 1:
        block(j, last, std::integral_constant<int, 1>{});
        break;
      case 2:
        block(j, last, std::integral_constant<int, 2>{});
        break;
      case 3:
        block(j, last, std::integral_constant<int, 3>{});
        break;
      default:
        block(j, last, std::integral_constant<int, 4>{});
        break;
    }
  }
}

template <class F>
void split(int64_t extent, double ns, const F& f) {
  if (ns * static_cast<double>(extent) < 40e3 || at::get_num_threads() == 1) return f(int64_t{0}, extent);
  at::parallel_for(0, extent, std::max<int64_t>(1, static_cast<int64_t>(20e3 / ns)), f);
}

template <class R, class T>
void run(const T* x, T* y, int64_t outer, int64_t n, int64_t inner) {
  constexpr double kNs = 0.1;
  if (inner > 1) {
    if (outer > 1) {
      split(outer, kNs * static_cast<double>(n * inner), [&](int64_t b, int64_t e) {
        for (int64_t o = b; o < e; ++o) columns<R>(x + o * n * inner, y + o * inner, n, inner, 0, inner);
      });
    } else {
      const int64_t unit = 64;
      split((inner + unit - 1) / unit, kNs * static_cast<double>(n * unit),
            [&](int64_t b, int64_t e) { columns<R>(x, y, n, inner, b * unit, std::min(inner, e * unit)); });
    }
    return;
  }
  if (outer == 1 && n > 1 << 17) {
    constexpr int64_t kParts = 64;
    T parts[kParts];
    const int64_t size = ((n + kParts - 1) / kParts + kPiece - 1) / kPiece * kPiece, count = (n + size - 1) / size;
    split(count, kNs * static_cast<double>(size), [&](int64_t b, int64_t e) {
      for (int64_t k = b; k < e; ++k) parts[k] = row<R>(x + k * size, std::min(size, n - k * size));
    });
    V<T> all(static_cast<T>(R::start()));
    for (int64_t k = 0; k < count; ++k)
      all = R::template join<T>(all, V<T>::set(V<T>(static_cast<T>(R::start())), V<T>(parts[k]), 1));
    y[0] = lanes<R, T>(all);
    return;
  }
  split(outer, kNs * static_cast<double>(n), [&](int64_t b, int64_t e) {
    for (int64_t o = b; o < e; ++o) y[o] = row<R>(x + o * n, n);
  });
}

}  // namespace

template <class T>
void reduce(Reduce op, const T* x, T* y, int64_t outer, int64_t n, int64_t inner) {
  const int64_t count = outer * inner;
  if (count == 0) return;
  switch (op) {
    case Reduce::kMax:
      return run<Max>(x, y, outer, n, inner);
    case Reduce::kMin:
      return run<Min>(x, y, outer, n, inner);
    case Reduce::kProd:
      return run<Prod>(x, y, outer, n, inner);
    case Reduce::kSum:
      return run<Sum>(x, y, outer, n, inner);
    case Reduce::kL1:
      return run<SumAbs>(x, y, outer, n, inner);
    case Reduce::kMean: {
      run<Sum>(x, y, outer, n, inner);
      const T r = T(1) / static_cast<T>(n);
      for (int64_t i = 0; i < count; ++i) y[i] *= r;
      return;
    }
    case Reduce::kSumSquare:
      return run<SumSquare>(x, y, outer, n, inner);
    case Reduce::kL2:
      run<SumSquare>(x, y, outer, n, inner);
      for (int64_t i = 0; i < count; ++i) y[i] = std::sqrt(y[i]);
      return;
  }
}

template void reduce<float>(Reduce, const float*, float*, int64_t, int64_t, int64_t);
template void reduce<double>(Reduce, const double*, double*, int64_t, int64_t, int64_t);

}  // namespace ortmod::cpu
