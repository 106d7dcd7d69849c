// Cross-entropy of the softmax over the rows of a dense [rows, cols] matrix, and its gradient. float and double; labels
// of 32 or 64 bits.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

enum class Total : uint8_t { kNone, kMean, kSum };

/// log_prob = log softmax(x); loss = -weight[label] * log_prob[label], per row or reduced (the mean: over the sum of
/// the weights). Rows whose label is `ignore` give 0. `weights` (per column) may be null. A label outside [0, cols) is
/// a std::out_of_range.
template <class T, class L>
void cross_entropy(const T* x, const L* labels, const T* weights, int64_t ignore, T* log_prob, T* loss, int64_t rows,
                   int64_t cols, Total total);
/// Gradient of x from that of the loss (one number, or one per row).
template <class T, class L>
void cross_entropy_grad(const T* dloss, const T* log_prob, const L* labels, const T* weights, int64_t ignore, T* dx,
                        int64_t rows, int64_t cols, Total total);

}  // namespace ortmod::cpu
