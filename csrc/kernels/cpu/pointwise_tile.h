// Functions that compute one tile: n elements of one instruction.
#pragma once
#include "kernels/cpu/pointwise.h"

namespace ortmod::cpu {

using TileFn = void (*)(char* dst, const char* const* src, int64_t n, const double* imm);

/// The function of an instruction; bit i of `scalars`: operand i is one element. Null when there is none.
TileFn tile_fn(Pw op, Elem type, Elem out, unsigned scalars);
TileFn math_tile_fn(Pw op, Elem type, unsigned scalars);

/// Loads n elements of stored type `e`, `stride` elements apart, as the compute type.
using LoadFn = void (*)(char* dst, const char* src, int64_t stride, int64_t n);
LoadFn load_fn(Elem e);
/// Stores n floats as bfloat16 or half.
using StoreFn = void (*)(char* dst, const char* src, int64_t n);
StoreFn store_fn(Elem e);

/// Estimated nanoseconds per element.
float tile_cost(Pw op);

}  // namespace ortmod::cpu
