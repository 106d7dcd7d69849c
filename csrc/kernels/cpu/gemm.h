// Matrix products: small ones without packing, large ones by the BLAS that ATen links.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

/// What is added to a product before it is stored, and the activation after it.
struct Epilogue {
  const void* bias = nullptr;  // of the element type; bias[i * row + j * col]
  int64_t row = 0, col = 0;
  double scale = 1;  // of the bias
  bool relu = false;
};

/// C[m, n] = epilogue(alpha * op(A)[m, k] * op(B)[k, n]); row-major, op transposes the stored matrix when `ta` / `tb`.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  bool ta = false, tb = false;
  bool threads = true;  // may use several
  double alpha = 1;
  Epilogue epilogue;
};

template <class T>
void gemm(const Gemm& g, const T* a, const T* b, T* c);

/// Independent products; strides in elements over up to two batch dimensions (0 broadcasts). The epilogue's bias is
/// shared.
struct BatchedGemm {
  Gemm one;
  int64_t batch[2] = {1, 1};
  int64_t stride_a[2] = {0, 0}, stride_b[2] = {0, 0}, stride_c[2] = {0, 0};
};

template <class T>
void gemm_batched(const BatchedGemm& g, const T* a, const T* b, T* c);

/// The product by our own kernels, on the calling thread.
template <class T>
void gemm_small(const Gemm& g, const T* a, const T* b, T* c);

/// A product of a few elements; the bias (or null) is given apart from the epilogue.
template <class T>
using TinyGemm = void (*)(const Gemm& g, const T* a, const T* b, const T* bias, T* c);
/// The function for a tiny product, or null.
template <class T>
TinyGemm<T> gemm_tiny(const Gemm& g, bool bias);

}  // namespace ortmod::cpu
