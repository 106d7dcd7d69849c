// What a pointwise program is after planning: tables of loads, instructions and stores over a table of pointers.
#pragma once
#include "kernels/cpu/jit.h"
#include "kernels/cpu/pointwise.h"
#include "kernels/cpu/pointwise_tile.h"

namespace ortmod::cpu {

constexpr int kMaxPtr = 160;            // operands, constants and temporaries
constexpr int64_t kScratch = 48 << 10;  // bytes of temporaries of a thread

/// An operand of an instruction: pointer table entry and bytes per element of advance (0: fixed).
struct PwRef {
  int16_t ptr;
  int16_t step;
};
/// One instruction by its tile function, or several that were compiled together.
struct PwCode {
  TileFn fn;
  PwRef dst, src[3];
  double imm[2];
  JitFn jit;
  int32_t first_ref, n_refs;  // operands of `jit` in PwPlan::refs
};
struct PwLoad {
  LoadFn fn;
  PwRef src;
  int16_t dst;
  bool flat;  // contiguous over the whole space
  bool one;   // a single element
  int16_t bytes, dst_bytes;
  const int64_t* strides;  // per dimension of the space, in elements
};
struct PwStore {
  StoreFn fn;
  int16_t src, dst;
  int16_t bytes;
};
struct PwList {
  PwCode* code;
  int n;
};
struct PwPlan {
  int64_t n = 0, tile = 0;     // elements; elements per tile
  int64_t rows = 0, cols = 0;  // rows > 0: tiles do not cross rows
  int ndim = 0;
  int64_t sizes[PwDesc::kMaxDims];
  int n_operands = 0, n_ptr = 0;
  int n_loads = 0, n_once_loads = 0, n_row_loads = 0, n_stores = 0;
  PwLoad *loads = nullptr, *once_loads = nullptr, *row_loads = nullptr;
  PwStore* stores = nullptr;
  PwList once{}, once_full{}, row{}, body{};             // by how often they run; once_full fills tiles
  int64_t (*outer_strides)[PwDesc::kMaxDims] = nullptr;  // rows: bytes, per operand
  PwRef* refs = nullptr;
  const char** constants = nullptr;
  int n_const = 0;
  int64_t* temp_offsets = nullptr;
  int n_temp = 0;
  bool parallel = false;
  int64_t grain = 1;
};

}  // namespace ortmod::cpu
