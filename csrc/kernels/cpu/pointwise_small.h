// Pointwise programs over a few elements, interpreted value by value without set-up.
#pragma once
#include "kernels/cpu/pointwise.h"

namespace ortmod::cpu {

/// Where an operand lives: pointer = base[index] + offset.
struct PwPlace {
  int32_t index;
  int64_t offset;
};

struct PwSmall;
/// The program with its operands (inputs, then outputs) in memory from `alloc`; null when the space is too large, types
/// mix beyond one floating type and bool, or an instruction is unsupported.
const PwSmall* pw_small(const PwDesc& d, const PwPlace* operands, Alloc alloc, void* context);
void pw_small_run(const PwSmall& p, char* const* base);

}  // namespace ortmod::cpu
