// Pointwise operators and the engine that runs a program of them, tile by tile in L1.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ortmod {

/// A fusable pointwise operator. Parameters (alpha, approximation, target type) are read from the node when a program
/// is made.
enum class Pw : uint8_t {
  kNone = 0,
  kIdentity,
  // two operands, broadcast
  kAdd,
  kSub,
  kMul,
  kDiv,
  kPow,
  kMod,
  kPRelu,
  // any number of operands, broadcast
  kMax,
  kMin,
  kSum,
  kMean,
  // one operand
  kNeg,
  kAbs,
  kSign,
  kReciprocal,
  kSqrt,
  kExp,
  kLog,
  kErf,
  kSin,
  kCos,
  kTan,
  kAsin,
  kAcos,
  kAtan,
  kSinh,
  kCosh,
  kTanh,
  kAsinh,
  kAcosh,
  kAtanh,
  kFloor,
  kCeil,
  kRound,
  kSigmoid,
  kRelu,
  kLeakyRelu,
  kElu,
  kSelu,
  kCelu,
  kThresholdedRelu,
  kHardSigmoid,
  kHardSwish,
  kMish,
  kSoftplus,
  kSoftsign,
  kGelu,
  kSwish,
  kShrink,
  kCast,
  // x, min, max
  kClip,
  // bool results
  kEqual,
  kLess,
  kGreater,
  kLessOrEqual,
  kGreaterOrEqual,
  kAnd,
  kOr,
  kXor,
  kNot,
  kIsNaN,
  kIsInf,
  // condition, a, b
  kWhere,
};

namespace cpu {

/// Element types the engine knows; bfloat16 and half are computed as float.
enum class Elem : uint8_t { kF32, kF64, kBF16, kF16, kI64, kI32, kBool, kNone };
size_t elem_size(Elem e);
/// The type in which values of a stored type are computed.
constexpr Elem compute_type(Elem e) { return e == Elem::kBF16 || e == Elem::kF16 ? Elem::kF32 : e; }

/// One operation. Values are numbered: inputs, then constants, then the results of the instructions in order.
struct PwInst {
  Pw op = Pw::kNone;
  Elem type = Elem::kF32;  // of the operands (of a and b for kWhere), as computed
  Elem out = Elem::kF32;   // of the result; kBF16 / kF16 of a kCast rounds a float
  int16_t src[3] = {-1, -1, -1};
  double imm[2] = {0, 0};
};

/// A program over an iteration space; inputs broadcast by zero strides, outputs are dense and of the full space.
struct PwDesc {
  static constexpr int kMaxIn = 24, kMaxOut = 16, kMaxConst = 24, kMaxInst = 64, kMaxDims = 8;
  struct In {
    Elem type;
    int64_t strides[kMaxDims];  // in elements
  };
  struct Const {
    Elem type;
    double value;
  };
  struct Out {
    Elem type;
    int16_t value;
    int16_t alias = -1;  // the input whose memory it overwrites
  };
  int ndim = 0, n_in = 0, n_const = 0, n_inst = 0, n_out = 0;
  int64_t sizes[kMaxDims];
  In in[kMaxIn];
  Const consts[kMaxConst];
  PwInst inst[kMaxInst];
  Out out[kMaxOut];
};

struct PwPlan;
using Alloc = void* (*)(void* context, size_t bytes, size_t align);

/// Can this instruction run here? `imm` and `src` are not looked at.
bool pw_supported(Pw op, Elem type, Elem out);
/// Compiles a program into memory from `alloc`; null when it has more than the engine can hold or an unsupported
/// instruction.
const PwPlan* pw_plan(const PwDesc& d, Alloc alloc, void* context);
/// A plan that is one function call over whole operands: their numbers are written to `dst` and `src`.
struct PwSingle {
  void (*fn)(char* dst, const char* const* src, int64_t n, const double* imm);
  int64_t n;
  double imm[2];
};
bool pw_single(const PwPlan& plan, PwSingle& call, int& dst, int (&src)[3]);
/// Runs it: pointers of the inputs, then of the outputs. May use threads when there is enough work.
void pw_run(const PwPlan& plan, char* const* operands);

}  // namespace cpu
}  // namespace ortmod
