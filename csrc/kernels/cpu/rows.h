// Kernels over the rows of a dense [rows, cols] matrix: softmax and normalisations, forward and backward. float and
// double.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

/// y = softmax(x) along each row (or its logarithm). A row without a finite maximum gives NaN.
template <class T>
void softmax(const T* x, T* y, int64_t rows, int64_t cols, bool log);
/// dx from y and dy: y * (dy - sum(dy * y)), for the logarithm dy - exp(y) * sum(dy). In rows of NaN y
/// counts as 0.
template <class T>
void softmax_grad(const T* dy, const T* y, T* dx, int64_t rows, int64_t cols, bool log);

/// y = (x - mean) / sqrt(variance + eps) * scale + bias; `bias`, `mean`, `inv_std` may be null. Without `centre` the
/// mean is taken as 0.
template <class T>
void layer_norm(const T* x, const T* scale, const T* bias, T* y, T* mean, T* inv_std, int64_t rows, int64_t cols,
                double eps, bool centre);

/// Bytes of scratch that layer_norm_grad needs.
template <class T>
int64_t layer_norm_grad_scratch(int64_t rows, int64_t cols);
/// Gradients of layer_norm; dx, dscale, dbias may be null. `mean` null: not centred.
template <class T>
void layer_norm_grad(const T* dy, const T* x, const T* scale, const T* mean, const T* inv_std, T* dx, T* dscale,
                     T* dbias, int64_t rows, int64_t cols, char* scratch);

}  // namespace ortmod::cpu
