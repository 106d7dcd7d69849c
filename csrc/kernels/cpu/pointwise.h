// Pointwise operators: the list of those the fused engine runs, tile by tile in L1.
#pragma once
#include <cstdint>

namespace ortmod {

/// A fusable pointwise operator. Parameters (alpha, approximation, target type) are read from the node when a program is made.
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

}  // namespace ortmod
