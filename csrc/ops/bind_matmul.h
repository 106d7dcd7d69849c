// Static CPU steps of matrix products.
#pragma once
#include "ops/kernel.h"

namespace ortmod {

/// MatMul, and ortmod::MatMulT with its permutations, addend and activation.
bool bind_matmul(Bind& b);
bool bind_gemm(Bind& b);

}  // namespace ortmod
