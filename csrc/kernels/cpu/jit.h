// Straight-line pointwise programs compiled to machine code, where the processor and the system allow it.
#pragma once
#include "kernels/cpu/pointwise.h"

namespace ortmod::cpu {

/// Runs a program on n elements: pointers of the inputs, then of the outputs.
using JitFn = void (*)(char* const* operands, int64_t n);

/// Can this instruction be part of a compiled program?
bool jit_supported(const PwDesc& d, const PwInst& i);
/// Compiles a program over one dimension whose inputs are dense (stride 1) or one element (stride 0). Null when an
/// instruction is unsupported or registers do not suffice. Equal programs share their code, which is never freed.
JitFn jit_pointwise(const PwDesc& d);

}  // namespace ortmod::cpu
