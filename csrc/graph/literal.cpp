// Constant tensors: construction and conversion of elements.
#include "graph/literal.h"

#include <bit>
#include <cstring>

#include "graph/error.h"

namespace ortmod {
namespace {

float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exp = (h >> 10) & 31u, frac = h & 0x3ffu;
  if (exp == 31) return std::bit_cast<float>(sign | 0x7f800000u | (frac << 13));
  if (exp == 0) {
    const float v = static_cast<float>(frac) * 0x1p-24f;
    return sign ? -v : v;
  }
  return std::bit_cast<float>(sign | ((exp + 112) << 23) | (frac << 13));
}

uint16_t float_to_half(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  const uint16_t sign = static_cast<uint16_t>((x >> 16) & 0x8000u);
  const uint32_t a = x & 0x7fffffffu;
  if (a > 0x7f800000u) return sign | 0x7e00u;
  if (a >= 0x477ff000u) return sign | 0x7c00u;
  if (a < 0x38800000u) {
    const float scaled = std::bit_cast<float>(a) * 0x1p24f;
    uint32_t q = static_cast<uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(q);
    if (rest > 0.5f || (rest == 0.5f && (q & 1))) ++q;
    return sign | static_cast<uint16_t>(q);
  }
  const uint32_t rounded = a + 0xfffu + ((a >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

float bf16_to_float(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

uint16_t float_to_bf16(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  if ((x & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<uint16_t>((x + 0x7fffu + ((x >> 16) & 1)) >> 16);
}

template <class T>
T load(const void* p, int64_t i) {
  T v;
  std::memcpy(&v, static_cast<const std::byte*>(p) + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return v;
}

template <class R>
R element(DType t, const void* p, int64_t i) {
  switch (t) {
    case DType::kFloat:
      return static_cast<R>(load<float>(p, i));
    case DType::kDouble:
      return static_cast<R>(load<double>(p, i));
    case DType::kHalf:
      return static_cast<R>(half_to_float(load<uint16_t>(p, i)));
    case DType::kBFloat16:
      return static_cast<R>(bf16_to_float(load<uint16_t>(p, i)));
    case DType::kInt64:
      return static_cast<R>(load<int64_t>(p, i));
    case DType::kInt32:
      return static_cast<R>(load<int32_t>(p, i));
    case DType::kInt16:
      return static_cast<R>(load<int16_t>(p, i));
    case DType::kInt8:
      return static_cast<R>(load<int8_t>(p, i));
    case DType::kUInt64:
      return static_cast<R>(load<uint64_t>(p, i));
    case DType::kUInt32:
      return static_cast<R>(load<uint32_t>(p, i));
    case DType::kUInt16:
      return static_cast<R>(load<uint16_t>(p, i));
    case DType::kUInt8:
      return static_cast<R>(load<uint8_t>(p, i));
    case DType::kBool:
      return static_cast<R>(load<uint8_t>(p, i) != 0);
    default:
      fail(ErrorKind::kType, "literal", "no numeric value of an element of type " + std::string(dtype_name(t)));
  }
}

}  // namespace

Literal::Literal(DType dtype, Dims dims, std::shared_ptr<const void> owner, const void* data, size_t bytes)
    : dtype_(dtype),
      dims_(std::move(dims)),
      numel_(ortmod::numel(dims_)),
      owner_(std::move(owner)),
      data_(data),
      bytes_(bytes) {}

LiteralPtr Literal::copy(DType dtype, Dims dims, const void* data, size_t bytes) {
  constexpr size_t kAlign = 64;
  void* p = ::operator new(std::max<size_t>(bytes, 1), std::align_val_t(kAlign));
  if (bytes) std::memcpy(p, data, bytes);
  std::shared_ptr<const void> owner(
      p, [](const void* q) { ::operator delete(const_cast<void*>(q), std::align_val_t(kAlign)); });
  return std::make_shared<const Literal>(dtype, std::move(dims), std::move(owner), p, bytes);
}

LiteralPtr Literal::strings(Dims dims, std::vector<std::string> values) {
  auto l = std::make_shared<Literal>(DType::kString, std::move(dims), nullptr, nullptr, 0);
  l->strings_ = std::make_shared<const std::vector<std::string>>(std::move(values));
  return l;
}

LiteralPtr Literal::ints(const std::vector<int64_t>& v) {
  return copy(DType::kInt64, Dims{static_cast<Dim>(v.size())}, v.data(), v.size() * sizeof(int64_t));
}

LiteralPtr Literal::scalar(DType t, double v, Dims dims) {
  const auto make = [&](auto x) { return copy(t, std::move(dims), &x, sizeof(x)); };
  switch (t) {
    case DType::kFloat:
      return make(static_cast<float>(v));
    case DType::kDouble:
      return make(v);
    case DType::kHalf:
      return make(float_to_half(static_cast<float>(v)));
    case DType::kBFloat16:
      return make(float_to_bf16(static_cast<float>(v)));
    case DType::kInt64:
      return make(static_cast<int64_t>(v));
    case DType::kInt32:
      return make(static_cast<int32_t>(v));
    case DType::kInt16:
      return make(static_cast<int16_t>(v));
    case DType::kInt8:
      return make(static_cast<int8_t>(v));
    case DType::kUInt64:
      return make(static_cast<uint64_t>(v));
    case DType::kUInt32:
      return make(static_cast<uint32_t>(v));
    case DType::kUInt16:
      return make(static_cast<uint16_t>(v));
    case DType::kUInt8:
      return make(static_cast<uint8_t>(v));
    case DType::kBool:
      return make(static_cast<uint8_t>(v != 0));
    default:
      fail(ErrorKind::kType, "literal", "no scalar of type " + std::string(dtype_name(t)));
  }
}

std::vector<int64_t> Literal::to_ints() const {
  std::vector<int64_t> r(static_cast<size_t>(numel_));
  for (int64_t i = 0; i < numel_; ++i) r[static_cast<size_t>(i)] = element<int64_t>(dtype_, data_, i);
  return r;
}

std::vector<double> Literal::to_doubles() const {
  std::vector<double> r(static_cast<size_t>(numel_));
  for (int64_t i = 0; i < numel_; ++i) r[static_cast<size_t>(i)] = element<double>(dtype_, data_, i);
  return r;
}

double Literal::at(int64_t i) const { return element<double>(dtype_, data_, i); }

}  // namespace ortmod
