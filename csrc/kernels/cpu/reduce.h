// Reductions of a dense [outer, n, inner] tensor over its middle dimension. The order of summation does not depend on
// threads.
#pragma once
#include <cstdint>

namespace ortmod::cpu {

enum class Reduce : uint8_t { kSum, kMean, kMax, kMin, kSumSquare, kL1, kL2, kProd };

/// y[outer, inner]; float and double. kMax and kMin propagate NaN; they need n > 0.
template <class T>
void reduce(Reduce op, const T* x, T* y, int64_t outer, int64_t n, int64_t inner);

}  // namespace ortmod::cpu
