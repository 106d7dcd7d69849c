// Static CPU steps of softmax, normalisations and reductions.
#pragma once
#include "kernels/cpu/reduce.h"
#include "ops/kernel.h"

namespace ortmod {

template <bool kLog>
bool bind_softmax(Bind& b);
/// (dy, y)
template <bool kLog>
bool bind_softmax_grad(Bind& b);
bool bind_layer_norm(Bind& b);
/// (dy, x, scale, mean, invstd)
bool bind_layer_norm_grad(Bind& b);
bool bind_rms_norm(Bind& b);

bool bind_reduction(Bind& b, cpu::Reduce op);
template <cpu::Reduce kOp>
bool bind_reduce(Bind& b) {
  return bind_reduction(b, kOp);
}

}  // namespace ortmod
