// Register-blocked matrix products on unpacked operands; B is packed only to transpose it.
#include <algorithm>
#include <limits>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/tail.h"

namespace ortmod::cpu {
namespace {

#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRows = 8, kVecs = 3;
#else
constexpr int kRows = 4, kVecs = 2;
#endif
constexpr int64_t kBlockK = 256;
constexpr int64_t kNarrow = 4, kNarrowRows = 256;  // columns (and rows) of a result that is computed by columns

/// One call of the micro-kernel: `k` steps on a block of C.
template <class T>
struct Block {
  const T* a;
  int64_t row_a, col_a;
  const T* b;
  int64_t ldb;
  T* c;
  int64_t ldc, k;
  int last;           // columns of the last vector
  bool padded;        // B may be read past its last column
  bool first, final;  // first and final block along k
  T alpha;
  const T* bias;
  int64_t bias_row, bias_col;
  T bias_scale;
  bool relu;
};

#if defined(CPU_CAPABILITY_AVX512)
/// The lower half of a vector of floats: many processors multiply it at half the cost.
class Half {
 public:
  Half() = default;
  explicit Half(const float* p) : v_(_mm256_loadu_ps(p)) {}
  Half(const float* p, int n) : v_(_mm256_maskz_loadu_ps(static_cast<__mmask8>((1U << n) - 1), p)) {}
  void add(const Vec<float>& a, const Half& b) { v_ = _mm256_fmadd_ps(_mm512_castps512_ps256(a), b.v_, v_); }
  Vec<float> whole() const { return _mm512_zextps256_ps512(v_); }

 private:
  __m256 v_{};
};
#else
class Half {  // never used
 public:
  Half() = default;
  explicit Half(const float* p, int n = 0);
  void add(const Vec<float>& a, const Half& b);
  Vec<float> whole() const;
};
#endif

/// The larger one; NaN where v is.
template <class T>
Vec<T> at_least(const Vec<T>& v, const Vec<T>& least) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4) return Vec<T>(_mm512_max_ps(least, v));
  if constexpr (sizeof(T) == 8) return Vec<T>(_mm512_max_pd(least, v));
#endif
  return Vec<T>::blendv(v, least, v < least);
}

/// out[q] += sum of the elements of s[q].
template <class T>
void sum4(const Vec<T>* s, T* out) {
#if defined(CPU_CAPABILITY_AVX512)
  const auto half = [](const Vec<T>& v) {
    if constexpr (sizeof(T) == 4) {
      return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    } else {
      return _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    }
  };
#elif defined(CPU_CAPABILITY_AVX2)
  const auto half = [](const Vec<T>& v) { return v; };
#endif
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  if constexpr (sizeof(T) == 4) {
    const __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(half(s[0]), half(s[1])), _mm256_hadd_ps(half(s[2]), half(s[3])));
    const __m128 r = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), r));
  } else {
    const __m256d u = _mm256_hadd_pd(half(s[0]), half(s[1])), v = _mm256_hadd_pd(half(s[2]), half(s[3]));
    const __m256d r = _mm256_add_pd(_mm256_permute2f128_pd(u, v, 0x20), _mm256_permute2f128_pd(u, v, 0x31));
    _mm256_storeu_pd(out, _mm256_add_pd(_mm256_loadu_pd(out), r));
  }
#else
  for (int q = 0; q < 4; ++q) {
    alignas(64) T t[Vec<T>::size()];
    s[q].store(t);
    for (int i = 0; i < Vec<T>::size(); ++i) out[q] += t[i];
  }
#endif
}

/// H: the last vector has at most half its columns, and half of it is computed.
template <class T, int R, int V, bool H>
void micro(const Block<T>& s) {
  constexpr int W = Vec<T>::size(), F = H ? V - 1 : V;
  const Tail<T> tail(s.last);
  Vec<T> acc[R][V];
  Half half[R];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < F; ++j) acc[i][j] = Vec<T>(T(0));
  const T* a = s.a;
  const T* b = s.b;
  const auto steps = [&](auto whole) {
    constexpr bool kWhole = decltype(whole)::value;
    for (int64_t k = 0; k < s.k; ++k) {
      Vec<T> bv[V];
      Half bh;
#pragma GCC unroll 4
      for (int j = 0; j < F; ++j) bv[j] = (j == V - 1 && !kWhole) ? tail.load(b + j * W) : Vec<T>::loadu(b + j * W);
      if constexpr (H) bh = kWhole ? Half(b + F * W) : Half(b + F * W, s.last);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const Vec<T> av(a[i * s.row_a]);
#pragma GCC unroll 4
        for (int j = 0; j < F; ++j) acc[i][j] = at::vec::fmadd(av, bv[j], acc[i][j]);
        if constexpr (H) half[i].add(av, bh);
      }
      a += s.col_a;
      b += s.ldb;
    }
  };
  if (s.last == W || s.padded) {
    steps(std::true_type{});
  } else {
    steps(std::false_type{});
  }
  if constexpr (H)
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) acc[i][F] = half[i].whole();
  const auto load = [&](const T* p, int j) { return j == V - 1 ? tail.load(p + j * W) : Vec<T>::loadu(p + j * W); };
  const auto store = [&](const Vec<T>& v, T* p, int j) {
    if (j == V - 1) {
      tail.store(v, p + j * W);
    } else {
      v.store(p + j * W);
    }
  };
  // The usual ends have code of their own: with every case in one loop the sums would go through memory.
  if (s.alpha == T(1) && s.first && s.final && !s.bias && !s.relu) {
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) store(acc[i][j], s.c + i * s.ldc, j);
    return;
  }
  if (s.alpha == T(1) && s.first && s.final && s.bias && s.bias_col && s.bias_row == 0 && s.bias_scale == T(1)) {
    Vec<T> bias[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) bias[j] = load(s.bias, j);
    const Vec<T> least(s.relu ? T(0) : -std::numeric_limits<T>::infinity());
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) store(at_least(acc[i][j] + bias[j], least), s.c + i * s.ldc, j);
    return;
  }
  const Vec<T> alpha(s.alpha), zero(T(0));
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    T* c = s.c + i * s.ldc;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      Vec<T> v = acc[i][j] * alpha;
      if (!s.first) v = v + load(c, j);
      if (s.final) {
        if (s.bias) {
          const T* p = s.bias + i * s.bias_row;
          v = at::vec::fmadd(s.bias_col ? load(p, j) : Vec<T>(*p), Vec<T>(s.bias_scale), v);
        }
        if (s.relu) v = at_least(v, zero);
      }
      store(v, c, j);
    }
  }
}

template <class T, int V, bool H = false>
void micro_rows(int rows, const Block<T>& s) {
  switch (rows) {
    case 1:
      return micro<T, 1, V, H>(s);
    case 2:
      return micro<T, 2, V, H>(s);
    case 3:
      return micro<T, 3, V, H>(s);
    case 4:
      return micro<T, 4, V, H>(s);
#if defined(CPU_CAPABILITY_AVX512)
    case 5:
      return micro<T, 5, V, H>(s);
    case 6:
      return micro<T, 6, V, H>(s);
    case 7:
      return micro<T, 7, V, H>(s);
    case 8:
      return micro<T, 8, V, H>(s);
#endif
  }
}

template <class T>
void micro_any(int rows, int vecs, const Block<T>& s) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (sizeof(T) == 4)
    if (s.last <= Vec<T>::size() / 2 && vecs > 1 && vecs < 4)
      return vecs == 2 ? micro_rows<T, 2, true>(rows, s) : micro_rows<T, 3, true>(rows, s);
#endif
  switch (vecs) {
    case 1:
      return micro_rows<T, 1>(rows, s);
    case 2:
      return micro_rows<T, 2>(rows, s);
#if defined(CPU_CAPABILITY_AVX512)
    case 3:
      return micro_rows<T, 3>(rows, s);
    case 4:
      return micro<T, 1, 4, false>(s);
#endif
  }
}

/// dst[k, cols] (row length ld) = transpose of src[cols, k].
template <class T>
void pack_transposed(const T* src, int64_t lds, int64_t cols, int64_t k, T* dst, int64_t ld) {
  constexpr int64_t B = 16;
  for (int64_t k0 = 0; k0 < k; k0 += B) {
    const int64_t ke = std::min(k, k0 + B);
    for (int64_t c0 = 0; c0 < cols; c0 += B) {
      const int64_t ce = std::min(cols, c0 + B);
#if defined(CPU_CAPABILITY_AVX512)
      if constexpr (sizeof(T) == 4) {
        at::vec::transpose_mxn<T>(src + c0 * lds + k0, lds, dst + k0 * ld + c0, ld, static_cast<int>(ce - c0),
                                  static_cast<int>(ke - k0));
        continue;
      }
#endif
      for (int64_t c = c0; c < ce; ++c)
        for (int64_t i = k0; i < ke; ++i) dst[i * ld + c] = src[c * lds + i];
    }
  }
}

/// A panel whose last vector is not full, with its rest filled up: whole loads are faster than masked ones.
template <class T>
void pack_padded(const T* src, int64_t lds, int vecs, const Tail<T>& tail, int64_t k, T* dst) {
  constexpr int64_t W = Vec<T>::size();
  for (int64_t i = 0; i < k; ++i, src += lds, dst += kVecs * W) {
    for (int j = 0; j + 1 < vecs; ++j) Vec<T>::loadu(src + j * W).store(dst + j * W);
    tail.load(src + (vecs - 1) * W).store(dst + (vecs - 1) * W);
  }
}

/// c[j] for one row of A against rows of the stored (transposed) B: dot products, W at a time.
template <class T>
void dots(const Gemm& g, const T* a, int64_t inc_a, const T* b, T* c, int64_t inc_c, const T* bias, int64_t bias_col) {
  constexpr int W = Vec<T>::size();
  alignas(64) T row[kBlockK];
  const T alpha = static_cast<T>(g.alpha), scale = static_cast<T>(g.epilogue.scale);
  for (int64_t j0 = 0; j0 < g.n; j0 += W) {
    const int cols = static_cast<int>(std::min<int64_t>(W, g.n - j0));
    alignas(64) T sums[W] = {};
    for (int64_t k0 = 0; k0 < g.k; k0 += kBlockK) {
      const int64_t kk = std::min(kBlockK, g.k - k0);
      const T* x = a + k0 * inc_a;
      if (inc_a != 1) {
        if (j0 == 0 || g.k > kBlockK)
          for (int64_t i = 0; i < kk; ++i) row[i] = x[i * inc_a];
        x = row;
      }
      int j = 0;
      for (; j + 4 <= cols; j += 4) {
        const T* p = b + (j0 + j) * g.ldb + k0;
        Vec<T> s[4] = {Vec<T>(T(0)), Vec<T>(T(0)), Vec<T>(T(0)), Vec<T>(T(0))};
        int64_t i = 0;
        for (; i + W <= kk; i += W) {
          const Vec<T> v = Vec<T>::loadu(x + i);
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) s[q] = at::vec::fmadd(v, Vec<T>::loadu(p + q * g.ldb + i), s[q]);
        }
        if (i < kk) {
          const int rest = static_cast<int>(kk - i);
          const Vec<T> v = Vec<T>::loadu(x + i, rest);
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) s[q] = at::vec::fmadd(v, Vec<T>::loadu(p + q * g.ldb + i, rest), s[q]);
        }
        sum4(s, sums + j);
      }
      for (; j < cols; ++j) {
        const T* p = b + (j0 + j) * g.ldb + k0;
        Vec<T> s(T(0));
        for (int64_t i = 0; i < kk; i += W) {
          const int rest = static_cast<int>(std::min<int64_t>(W, kk - i));
          s = at::vec::fmadd(Vec<T>::loadu(x + i, rest), Vec<T>::loadu(p + i, rest), s);
        }
        sums[j] += at::vec::vec_reduce_all<T>([](Vec<T>& u, Vec<T>& v) { return u + v; }, s);
      }
    }
    for (int j = 0; j < cols; ++j) {
      T v = sums[j] * alpha;
      if (bias) v += scale * bias[(j0 + j) * bias_col];
      if (g.epilogue.relu && v < T(0)) v = T(0);
      c[(j0 + j) * inc_c] = v;
    }
  }
}

}  // namespace

template <class T>
void gemm_small(const Gemm& g, const T* a, const T* b, T* c) {
  constexpr int64_t W = Vec<T>::size();
  const T* bias = static_cast<const T*>(g.epilogue.bias);
  if (g.m == 0 || g.n == 0) return;
  if (g.n == 1 && g.m > 1 && (!g.ta || (g.ldc == 1 && g.epilogue.row <= 1))) {
    // A column: C' = B' * A'.
    Gemm t = g;
    t.m = 1;
    t.n = g.m;
    t.lda = g.ldb;
    t.ldb = g.lda;
    t.ta = !g.tb;
    t.tb = !g.ta;
    t.epilogue.row = g.epilogue.col;
    t.epilogue.col = g.epilogue.row;
    const int64_t inc_b = g.tb ? 1 : g.ldb;
    if (t.tb) return dots(t, b, inc_b, a, c, g.ldc, bias, t.epilogue.col);
    t.ldc = g.m;
    return gemm_small(t, b, a, c);
  }
  if (g.n > 1 && g.n <= kNarrow && g.m >= 2 * g.n && !g.ta) {
    // A few columns: each is a column as above.
    Gemm t = g;
    t.m = 1;
    t.n = g.m;
    t.ldb = g.lda;
    t.tb = true;
    for (int64_t j = 0; j < g.n; ++j)
      dots(t, b + j * (g.tb ? g.ldb : 1), g.tb ? 1 : g.ldb, a, c + j, g.ldc, bias ? bias + j * g.epilogue.col : nullptr,
           g.epilogue.row);
    return;
  }
  if (g.n > 1 && g.n <= kNarrow && g.m >= 2 * g.n && g.m <= kNarrowRows && g.ta && (!bias || g.epilogue.row <= 1)) {
    // C' = B' * A' by rows, then transposed.
    alignas(64) T rows[kNarrow * kNarrowRows];
    Gemm t = g;
    std::swap(t.m, t.n);
    t.lda = g.ldb;
    t.ldb = g.lda;
    t.ldc = g.m;
    t.ta = !g.tb;
    t.tb = false;
    std::swap(t.epilogue.row, t.epilogue.col);
    gemm_small(t, b, a, rows);
    for (int64_t j = 0; j < g.n; ++j)
      for (int64_t i = 0; i < g.m; ++i) c[i * g.ldc + j] = rows[j * g.m + i];
    return;
  }
  if (g.tb && g.m <= 2) {
    for (int64_t i = 0; i < g.m; ++i)
      dots(g, a + i * (g.ta ? 1 : g.lda), g.ta ? g.lda : 1, b, c + i * g.ldc, 1,
           bias ? bias + i * g.epilogue.row : nullptr, g.epilogue.col);
    return;
  }
  alignas(64) T packed[kBlockK * kVecs * Vec<T>::size()];
  const int64_t most = g.m == 1 && !g.tb && kVecs == 3 ? 4 : kVecs;  // vectors of a panel
  Block<T> s{};
  s.row_a = g.ta ? 1 : g.lda;
  s.col_a = g.ta ? g.lda : 1;
  s.ldc = g.ldc;
  s.alpha = static_cast<T>(g.alpha);
  s.bias_row = g.epilogue.row;
  s.bias_col = g.epilogue.col;
  s.bias_scale = static_cast<T>(g.epilogue.scale);
  s.relu = g.epilogue.relu;
  for (int64_t k0 = 0; k0 < std::max<int64_t>(g.k, 1); k0 += kBlockK) {
    s.k = std::min(kBlockK, g.k - k0);
    s.first = k0 == 0;
    s.final = k0 + kBlockK >= g.k;
    for (int64_t j0 = 0, cols; j0 < g.n; j0 += cols) {
      // Panels of nearly equal width: a last one of few columns would leave the accumulators idle.
      const int64_t left = (g.n - j0 + W - 1) / W, panels = (left + most - 1) / most;
      cols = std::min((left + panels - 1) / panels * W, g.n - j0);
      const int vecs = static_cast<int>((cols + W - 1) / W);
      s.last = static_cast<int>(cols - (vecs - 1) * W);
      s.padded = g.tb;
      if (g.tb) {
        if (s.last < W)
          for (int64_t k = 0; k < s.k; ++k) Vec<T>(T(0)).store(packed + k * kVecs * W + (vecs - 1) * W);
        pack_transposed(b + j0 * g.ldb + k0, g.ldb, cols, s.k, packed, kVecs * W);
        s.b = packed;
        s.ldb = kVecs * W;
      } else if (s.last < W && g.m > kRows) {
        pack_padded(b + k0 * g.ldb + j0, g.ldb, vecs, Tail<T>(s.last), s.k, packed);
        s.padded = true;
        s.b = packed;
        s.ldb = kVecs * W;
      } else {
        s.b = b + k0 * g.ldb + j0;
        s.ldb = g.ldb;
      }
      for (int64_t i0 = 0; i0 < g.m; i0 += kRows) {
        const int rows = static_cast<int>(std::min<int64_t>(kRows, g.m - i0));
        s.a = a + (g.ta ? i0 + k0 * g.lda : i0 * g.lda + k0);
        s.c = c + i0 * g.ldc + j0;
        s.bias = bias ? bias + i0 * s.bias_row + j0 * s.bias_col : nullptr;
        micro_any(rows, vecs, s);
      }
    }
  }
}

template void gemm_small<float>(const Gemm&, const float*, const float*, float*);
template void gemm_small<double>(const Gemm&, const double*, const double*, double*);

}  // namespace ortmod::cpu
