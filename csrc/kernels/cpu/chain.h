// Steps over a few elements, compiled together: values stay in registers from one step to the next.
#pragma once
#include <memory>
#include <span>

#include "kernels/cpu/pointwise_small.h"
#include "kernels/cpu/reduce.h"

namespace ortmod::cpu {

/// What a step computes, for the compiler of chains. Operands are places; all floats are of one type.
struct ChainOp {
  enum class Kind : uint8_t { kPointwise, kProduct, kReduce } kind = Kind::kPointwise;
  Elem type = Elem::kF32;
  // kPointwise: inputs, then outputs of the program
  const PwDesc* desc = nullptr;
  const PwPlace* places = nullptr;
  // kProduct: [m, k] * [k, n] with strides, alpha, then a bias that is scaled, then relu
  int64_t m = 0, n = 0, k = 0, a_row = 0, a_col = 0, b_row = 0, b_col = 0;
  double alpha = 1, bias_scale = 0;
  bool relu = false;
  bool bias_per_column = false;
  // kReduce: [n, m] over n
  Reduce reduce = Reduce::kSum;
  PwPlace a{-1, 0}, b{-1, 0}, bias{-1, 0}, c{-1, 0};  // kReduce: a to c
};

using ChainFn = void (*)(const void* unused, char* const* base);
/// Machine code that lives as long as this.
struct Chain {
  ChainFn fn = nullptr;
  std::shared_ptr<const void> memory;
};
/// Compiles ops of one type; null where one is too large or is not known here.
Chain compile_chain(std::span<const ChainOp* const> ops);

}  // namespace ortmod::cpu
