// Chooses between our own kernels and the BLAS; batches and threads.
#include "kernels/cpu/gemm.h"

#include <ATen/Parallel.h>

#include <algorithm>

extern "C" {
void sgemm_(const char* ta, const char* tb, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void dgemm_(const char* ta, const char* tb, const int* m, const int* n, const int* k, const double* alpha,
            const double* a, const int* lda, const double* b, const int* ldb, const double* beta, double* c,
            const int* ldc);
}

namespace ortmod::cpu {
namespace {

constexpr double kThreadFlops = 1.5e6;  // multiply-adds of work for one more thread

void blas(const Gemm& g, const float* a, const float* b, float* c) {
  const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
  const float alpha = static_cast<float>(g.alpha), beta = 0;
  sgemm_(g.tb ? "T" : "N", g.ta ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc);
}
void blas(const Gemm& g, const double* a, const double* b, double* c) {
  const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
  const double beta = 0;
  dgemm_(g.tb ? "T" : "N", g.ta ? "T" : "N", &n, &m, &k, &g.alpha, b, &ldb, a, &lda, &beta, c, &ldc);
}

template <class T>
void finish(const Gemm& g, T* c) {
  const Epilogue& e = g.epilogue;
  const T* bias = static_cast<const T*>(e.bias);
  if (!bias && !e.relu) return;
  const T scale = static_cast<T>(e.scale);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* r = c + i * g.ldc;
      const T* p = bias ? bias + i * e.row : nullptr;
      if (p && e.col == 1) {
        for (int64_t j = 0; j < g.n; ++j) r[j] += scale * p[j];
      } else if (p) {
        for (int64_t j = 0; j < g.n; ++j) r[j] += scale * p[j * e.col];
      }
      if (e.relu)
        for (int64_t j = 0; j < g.n; ++j) r[j] = r[j] < T(0) ? T(0) : r[j];
    }
  };
  if (g.threads && g.m * g.n > (1 << 18)) {
    at::parallel_for(0, g.m, std::max<int64_t>(1, (1 << 16) / g.n), rows);
  } else {
    rows(0, g.m);
  }
}

bool fits_blas(const Gemm& g) {
  constexpr int64_t kMax = INT32_MAX;
  return std::max({g.m, g.n, g.k, g.lda, g.ldb, g.ldc}) <= kMax;
}

/// The BLAS that ATen links is MKL, which has no AVX-512 on AMD's processors and stumbles over narrow results there.
bool slow_blas() {
#if defined(CPU_CAPABILITY_AVX512) && defined(__x86_64__)
  static const bool amd = __builtin_cpu_is("amd");
  return amd;
#else
  return false;
#endif
}

/// Are our own kernels faster? They are for small products, and up to where operands leave the cache where the BLAS is
/// slow; a transposed B is packed, which takes rows to pay.
template <class T>
bool is_own(const Gemm& g) {
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  if (g.k == 0 || work <= 64.0 * 64 * 64 || std::min(g.m, g.n) == 1) return true;
  constexpr double kMost = (1 << 30) / sizeof(T);  // multiply-adds
  return slow_blas() && work <= kMost && g.m <= 1024 && (!g.tb || g.m >= 64);
}

/// Splits rows (or columns) of our own kernels among threads.
template <class T>
void own(const Gemm& g, const T* a, const T* b, T* c) {
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  if (!g.threads || work < 2 * kThreadFlops || at::get_num_threads() == 1 || at::in_parallel_region())
    return gemm_small(g, a, b, c);
  const T* bias = static_cast<const T*>(g.epilogue.bias);
  const bool by_rows = g.m >= 16;
  const int64_t extent = by_rows ? g.m : g.n, unit = by_rows ? 8 : 64;
  const int64_t units = (extent + unit - 1) / unit;
  const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(kThreadFlops / (work / static_cast<double>(units))));
  at::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    Gemm t = g;
    const int64_t at = begin * unit, count = std::min(extent, end * unit) - at;
    if (by_rows) {
      t.m = count;
      if (bias) t.epilogue.bias = bias + at * g.epilogue.row;
      gemm_small(t, a + at * (g.ta ? 1 : g.lda), b, c + at * g.ldc);
    } else {
      t.n = count;
      if (bias) t.epilogue.bias = bias + at * g.epilogue.col;
      gemm_small(t, a, b + at * (g.tb ? g.ldb : 1), c + at);
    }
  });
}

}  // namespace

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, T* c) {
  if (g.m == 0 || g.n == 0) return;
  if (is_own<T>(g) || !fits_blas(g)) return own(g, a, b, c);
  blas(g, a, b, c);
  finish(g, c);
}

template <class T>
void gemm_batched(const BatchedGemm& g, const T* a, const T* b, T* c) {
  const int64_t n = g.batch[0] * g.batch[1];
  if (n == 0 || g.one.m == 0 || g.one.n == 0) return;
  const double work = static_cast<double>(g.one.m) * static_cast<double>(g.one.n) * static_cast<double>(g.one.k);
  Gemm one = g.one;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t x = i / g.batch[1], y = i % g.batch[1];
      gemm(one, a + x * g.stride_a[0] + y * g.stride_a[1], b + x * g.stride_b[0] + y * g.stride_b[1],
           c + x * g.stride_c[0] + y * g.stride_c[1]);
    }
  };
  if (n == 1 || !one.threads || work * static_cast<double>(n) < 2 * kThreadFlops || at::get_num_threads() == 1)
    return run(0, n);
  if (n < at::get_num_threads()) return run(0, n);
  one.threads = false;
  at::parallel_for(0, n, std::max<int64_t>(1, static_cast<int64_t>(kThreadFlops / std::max(work, 1.0))), run);
}

template void gemm<float>(const Gemm&, const float*, const float*, float*);
template void gemm<double>(const Gemm&, const double*, const double*, double*);
template void gemm_batched<float>(const BatchedGemm&, const float*, const float*, float*);
template void gemm_batched<double>(const BatchedGemm&, const double*, const double*, double*);

}  // namespace ortmod::cpu
