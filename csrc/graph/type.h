// Element types, dimensions (known or symbolic), shapes and value types of the IR.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "graph/small_vec.h"

namespace ortmod {

/// ONNX TensorProto.DataType codes.
enum class DType : uint8_t {
  kUndefined = 0,
  kFloat = 1,
  kUInt8 = 2,
  kInt8 = 3,
  kUInt16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kHalf = 10,
  kDouble = 11,
  kUInt32 = 12,
  kUInt64 = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kBFloat16 = 16,
  kFloat8E4M3FN = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2 = 19,
  kFloat8E5M2FNUZ = 20,
  kUInt4 = 21,
  kInt4 = 22,
  kFloat4E2M1 = 23,
  kFloat8E8M0 = 24,
  kUInt2 = 25,
  kInt2 = 26,
};

/// Bytes of one element; 0 for strings, undefined and sub-byte types.
size_t dtype_size(DType t);
std::string_view dtype_name(DType t);
bool is_known_dtype(int code);
constexpr bool is_float(DType t) {
  return t == DType::kFloat || t == DType::kDouble || t == DType::kHalf || t == DType::kBFloat16;
}
constexpr bool is_integer(DType t) {
  return t == DType::kInt64 || t == DType::kInt32 || t == DType::kInt16 || t == DType::kInt8 || t == DType::kUInt8 ||
         t == DType::kUInt16 || t == DType::kUInt32 || t == DType::kUInt64;
}

/// A dimension: >= 0 is known; <= kLastSymbol names a symbol or an expression of symbols (see symbol.h); kAnyDim is
/// unknown and equals nothing. Symbols lie far below the ordinary negative integers (-1 in a Reshape target, an axis),
/// so that both can stand in HostInts.
using Dim = int64_t;
inline constexpr Dim kAnyDim = INT64_MIN;
inline constexpr Dim kLastSymbol = -(int64_t{1} << 62);
constexpr bool is_known(Dim d) { return d >= 0; }
/// A symbol, an expression of symbols or kAnyDim; everything else is an integer.
constexpr bool is_symbolic(Dim d) { return d <= kLastSymbol; }

using Dims = SmallVec<Dim, 4>;

/// A sequence whose `key` is set is a sequence of maps.
enum class Kind : uint8_t { kTensor, kSequence, kOptional, kMap, kOptionalSequence };

/// Type of a value: kind, element type and, when the rank is known, the dimensions.
struct Type {
  DType dtype = DType::kUndefined;
  Kind kind = Kind::kTensor;
  DType key = DType::kUndefined;  // of a map
  bool has_rank = false;
  Dims dims;

  Type() = default;
  Type(DType t, Dims d) : dtype(t), has_rank(true), dims(std::move(d)) {}
  static Type unranked(DType t) {
    Type r;
    r.dtype = t;
    return r;
  }
  int rank() const { return has_rank ? static_cast<int>(dims.size()) : -1; }
  bool is_static() const;
};

bool operator==(const Dims& a, const Dims& b);
std::string to_string(const Dims& d);
std::string to_string(const Type& t);

/// Product of known dimensions; kAnyDim when one is not known.
Dim numel(const Dims& d);

}  // namespace ortmod
