// Pointwise programs over a few elements, interpreted value by value without set-up.
#pragma once
#include "kernels/cpu/pointwise.h"

namespace ortmod::cpu {

/// Where an operand lives: pointer = base[index] + offset.
struct PwPlace {
  int32_t index;
  int64_t offset;
};

inline int64_t pw_elements(const PwDesc& d) {
  int64_t n = 1;
  for (int k = 0; k < d.ndim; ++k) n *= d.sizes[k];
  return n;
}

/// How an input walks through the space: element by element, or always the same one; a space of one element is both.
struct PwWalk {
  bool flat = true, one = true;
};
inline PwWalk pw_walk(const PwDesc& d, const PwDesc::In& in) {
  PwWalk w;
  int64_t dense = 1;
  for (int k = d.ndim - 1; k >= 0; --k) {
    if (d.sizes[k] == 1) continue;
    w.flat = w.flat && in.strides[k] == dense;
    w.one = w.one && in.strides[k] == 0;
    dense *= d.sizes[k];
  }
  return w;
}

struct PwSmall;
/// The program with its operands (inputs, then outputs) in memory from `alloc`; null when the space is too large, types
/// mix beyond one floating type and bool, or an instruction is unsupported.
const PwSmall* pw_small(const PwDesc& d, const PwPlace* operands, Alloc alloc, void* context);
void pw_small_run(const PwSmall& p, char* const* base);

}  // namespace ortmod::cpu
