// Names and sizes of element types; text of shapes and types.
#include "graph/type.h"

#include <array>

#include "graph/symbol.h"

namespace ortmod {
namespace {

struct DTypeInfo {
  std::string_view name;
  size_t size;
};
constexpr std::array<DTypeInfo, 27> kDTypes = {{
    {"undefined", 0},      {"float", 4},    {"uint8", 1},        {"int8", 1},           {"uint16", 2},
    {"int16", 2},          {"int32", 4},    {"int64", 8},        {"string", 0},         {"bool", 1},
    {"float16", 2},        {"double", 8},   {"uint32", 4},       {"uint64", 8},         {"complex64", 8},
    {"complex128", 16},    {"bfloat16", 2}, {"float8e4m3fn", 1}, {"float8e4m3fnuz", 1}, {"float8e5m2", 1},
    {"float8e5m2fnuz", 1}, {"uint4", 0},    {"int4", 0},         {"float4e2m1", 0},     {"float8e8m0", 1},
    {"uint2", 0},          {"int2", 0},
}};

}  // namespace

size_t dtype_size(DType t) { return kDTypes[static_cast<size_t>(t)].size; }
std::string_view dtype_name(DType t) { return kDTypes[static_cast<size_t>(t)].name; }
bool is_known_dtype(int code) { return code > 0 && code < static_cast<int>(kDTypes.size()); }

bool Type::is_static() const {
  if (!has_rank || kind != Kind::kTensor) return false;
  for (Dim d : dims)
    if (!is_known(d)) return false;
  return true;
}

bool operator==(const Dims& a, const Dims& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

std::string to_string(const Dims& d) {
  std::string s = "[";
  for (size_t i = 0; i < d.size(); ++i) s += (i ? ", " : "") + dim_text(d[i]);
  return s + "]";
}

std::string to_string(const Type& t) {
  const std::string tensor = std::string(dtype_name(t.dtype)) + (t.has_rank ? to_string(t.dims) : "[...]");
  switch (t.kind) {
    case Kind::kSequence:
      return "seq(" + tensor + ")";
    case Kind::kOptional:
      return "optional(" + tensor + ")";
    case Kind::kMap:
      return "map(" + std::string(dtype_name(t.key)) + ", " + tensor + ")";
    default:
      return tensor;
  }
}

Dim numel(const Dims& d) {
  Dim n = 1;
  for (Dim e : d) {
    if (!is_known(e)) return kAnyDim;
    n *= e;
  }
  return n;
}

}  // namespace ortmod
