// A constant tensor: element type, dimensions and shared immutable bytes.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "graph/type.h"

namespace ortmod {

class Literal {
 public:
  Literal() = default;
  /// Takes shared bytes in row-major little-endian order; `owner` keeps them alive (a file mapping, a tensor, a
  /// vector).
  Literal(DType dtype, Dims dims, std::shared_ptr<const void> owner, const void* data, size_t bytes);
  /// Copies `bytes` from `data`.
  static std::shared_ptr<const Literal> copy(DType dtype, Dims dims, const void* data, size_t bytes);
  static std::shared_ptr<const Literal> strings(Dims dims, std::vector<std::string> values);
  static std::shared_ptr<const Literal> ints(const std::vector<int64_t>& values);  // int64, 1-D
  static std::shared_ptr<const Literal> scalar(DType dtype, double value,
                                               Dims dims = {});  // one element of any numeric type

  DType dtype() const { return dtype_; }
  const Dims& dims() const { return dims_; }
  Type type() const { return Type(dtype_, dims_); }
  int64_t numel() const { return numel_; }
  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::shared_ptr<const void>& owner() const { return owner_; }
  const std::vector<std::string>& string_values() const { return *strings_; }
  /// Elements converted to int64 / double (any numeric type).
  std::vector<int64_t> to_ints() const;
  std::vector<double> to_doubles() const;
  double at(int64_t i) const;

 private:
  DType dtype_ = DType::kUndefined;
  Dims dims_;
  int64_t numel_ = 0;
  std::shared_ptr<const void> owner_;
  const void* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<const std::vector<std::string>> strings_;
};
using LiteralPtr = std::shared_ptr<const Literal>;

}  // namespace ortmod
