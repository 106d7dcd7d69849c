// Products of a few elements: dot products, outer products and rows, chosen once for a shape.
#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/tail.h"

namespace ortmod::cpu {
namespace {

template <class T>
T finish(const Gemm& g, T sum, const T* bias) {
  T v = sum * static_cast<T>(g.alpha);
  if (bias) v += static_cast<T>(g.epilogue.scale) * *bias;
  return g.epilogue.relu && v < T(0) ? T(0) : v;
}

/// [1, k] * [k, 1], both contiguous.
template <class T>
void dot(const Gemm& g, const T* a, const T* b, const T* bias, T* c) {
  constexpr int64_t W = Vec<T>::size();
  Vec<T> s(T(0));
  int64_t i = 0;
  for (; i + W <= g.k; i += W) s = at::vec::fmadd(Vec<T>::loadu(a + i), Vec<T>::loadu(b + i), s);
  if (i < g.k) {
    const Tail<T> tail(static_cast<int>(g.k - i));
    s = at::vec::fmadd(tail.load(a + i), tail.load(b + i), s);
  }
  *c = finish(g, sum_lanes<T>(s), bias);
}

/// y = s * x over n elements.
template <class T>
void scale(const T* x, T s, T* y, int64_t n) {
  constexpr int64_t W = Vec<T>::size();
  const Vec<T> v(s);
  int64_t i = 0;
  for (; i + W <= n; i += W) (Vec<T>::loadu(x + i) * v).store(y + i);
  if (i < n) {
    const Tail<T> tail(static_cast<int>(n - i));
    tail.store(tail.load(x + i) * v, y + i);
  }
}

/// [m, 1] * [1, 1], all contiguous.
template <class T>
void outer_column(const Gemm& g, const T* a, const T* b, const T*, T* c) {
  scale(a, *b * static_cast<T>(g.alpha), c, g.m);
}

/// [m, 1] * [1, n], B contiguous.
template <class T>
void outer(const Gemm& g, const T* a, const T* b, const T*, T* c) {
  const T alpha = static_cast<T>(g.alpha);
  const int64_t step = g.ta ? 1 : g.lda;
  for (int64_t i = 0; i < g.m; ++i) scale(b, a[i * step] * alpha, c + i * g.ldc, g.n);
}

/// [1, k] * [k, n], n at most a vector: four sums, so that additions do not wait for each other.
template <class T>
void row(const Gemm& g, const T* a, const T* b, const T* bias, T* c) {
  const Tail<T> tail(static_cast<int>(g.n));
  const int64_t step = g.ta ? g.lda : 1;
  Vec<T> s[4] = {Vec<T>(T(0)), Vec<T>(T(0)), Vec<T>(T(0)), Vec<T>(T(0))};
  int64_t k = 0;
  for (; k + 4 <= g.k; k += 4)
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) s[q] = at::vec::fmadd(Vec<T>(a[(k + q) * step]), tail.load(b + (k + q) * g.ldb), s[q]);
  for (; k < g.k; ++k) s[0] = at::vec::fmadd(Vec<T>(a[k * step]), tail.load(b + k * g.ldb), s[0]);
  Vec<T> v = ((s[0] + s[1]) + (s[2] + s[3])) * Vec<T>(static_cast<T>(g.alpha));
  if (bias)
    v = at::vec::fmadd(g.epilogue.col ? tail.load(bias) : Vec<T>(*bias), Vec<T>(static_cast<T>(g.epilogue.scale)), v);
  if (g.epilogue.relu) v = Vec<T>::blendv(v, Vec<T>(T(0)), v < Vec<T>(T(0)));
  tail.store(v, c);
}

}  // namespace

template <class T>
TinyGemm<T> gemm_tiny(const Gemm& g, bool bias) {
  constexpr int64_t kMost = 1024, kMostOuter = 1 << 16;
  if (g.m == 0 || g.n == 0 || g.k == 0 || g.m * g.n > (g.k == 1 ? kMostOuter : kMost) || g.k > kMost) return nullptr;
  if (g.k == 1 && !bias && !g.epilogue.relu) {
    const bool column = g.ta || g.lda == 1;
    if (g.n == 1 && column && g.ldc == 1) return outer_column<T>;
    if (!g.tb || g.ldb == 1 || g.n == 1) return outer<T>;
  }
  if (g.m != 1) return nullptr;
  if (g.n == 1) return (!g.ta || g.lda == 1) && (g.tb || g.ldb == 1) ? dot<T> : nullptr;
  return !g.tb && g.n <= Vec<T>::size() && g.epilogue.col <= 1 ? row<T> : nullptr;
}

template TinyGemm<float> gemm_tiny<float>(const Gemm&, bool);
template TinyGemm<double> gemm_tiny<double>(const Gemm&, bool);

}  // namespace ortmod::cpu
