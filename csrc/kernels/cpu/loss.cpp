// Softmax cross-entropy over rows.
#include "kernels/cpu/loss.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/vmath.h"

namespace ortmod::cpu {
namespace {

int64_t checked(int64_t label, int64_t row, int64_t cols) {
  if (label < 0 || label >= cols)
    throw std::out_of_range("label " + std::to_string(label) + " of row " + std::to_string(row) +
                            " is not a class: expected 0 to " + std::to_string(cols - 1));
  return label;
}

template <class T, class L>
double weight_of(const L* labels, const T* weights, int64_t ignore, int64_t row, int64_t cols) {
  const auto label = static_cast<int64_t>(labels[row]);
  if (label == ignore) return 0;
  return weights ? static_cast<double>(weights[checked(label, row, cols)]) : 1;
}

}  // namespace

template <class T, class L>
void cross_entropy(const T* x, const L* labels, const T* weights, int64_t ignore, T* log_prob, T* loss, int64_t rows,
                   int64_t cols, Total total) {
  softmax(x, log_prob, rows, cols, true);
  double sum = 0, weight = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const auto label = static_cast<int64_t>(labels[r]);
    double one = 0;
    if (label != ignore) {
      const double w = weight_of(labels, weights, ignore, r, cols);
      one = -w * static_cast<double>(log_prob[r * cols + checked(label, r, cols)]);
      weight += w;
    }
    if (total == Total::kNone) loss[r] = static_cast<T>(one);
    sum += one;
  }
  if (total != Total::kNone) loss[0] = static_cast<T>(total == Total::kMean ? sum / weight : sum);
}

template <class T, class L>
void cross_entropy_grad(const T* dloss, const T* log_prob, const L* labels, const T* weights, int64_t ignore, T* dx,
                        int64_t rows, int64_t cols, Total total) {
  using V = Vectorized<T>;
  constexpr int W = V::size();
  double weight = 1;
  if (total == Total::kMean) {
    weight = 0;
    for (int64_t r = 0; r < rows; ++r) weight += weight_of(labels, weights, ignore, r, cols);
  }
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* p = log_prob + r * cols;
      T* d = dx + r * cols;
      const auto label = static_cast<int64_t>(labels[r]);
      if (label == ignore) {
        std::fill(d, d + cols, T(0));
        continue;
      }
      const double w = weight_of(labels, weights, ignore, r, cols);
      const T share = static_cast<T>(w / weight) * dloss[total == Total::kNone ? r : 0];
      const V v(share);
      int64_t i = 0;
      for (; i + W <= cols; i += W) (vexp(V::loadu(p + i)) * v).store(d + i);
      if (i < cols) {
        const int n = static_cast<int>(cols - i);
        (vexp(V::loadu(p + i, n)) * v).store(d + i, n);
      }
      d[checked(label, r, cols)] -= share;
    }
  };
  if (static_cast<double>(rows) * static_cast<double>(cols) < 64e3) return run(0, rows);
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / cols), run);
}

#define ORTMOD_CROSS_ENTROPY(T, L)                                                                           \
  template void cross_entropy<T, L>(const T*, const L*, const T*, int64_t, T*, T*, int64_t, int64_t, Total); \
  template void cross_entropy_grad<T, L>(const T*, const T*, const L*, const T*, int64_t, T*, int64_t, int64_t, Total);
ORTMOD_CROSS_ENTROPY(float, int64_t)
ORTMOD_CROSS_ENTROPY(float, int32_t)
ORTMOD_CROSS_ENTROPY(double, int64_t)
ORTMOD_CROSS_ENTROPY(double, int32_t)

}  // namespace ortmod::cpu
