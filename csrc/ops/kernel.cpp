// Tensors of a kernel call: element types, placing of results, integers read on the host.
#include "ops/kernel.h"

#include <ATen/ATen.h>

namespace ortmod {

at::ScalarType to_scalar_type(DType t) {
  switch (t) {
    case DType::kFloat:
      return at::kFloat;
    case DType::kDouble:
      return at::kDouble;
    case DType::kHalf:
      return at::kHalf;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kInt64:
      return at::kLong;
    case DType::kInt32:
      return at::kInt;
    case DType::kInt16:
      return at::kShort;
    case DType::kInt8:
      return at::kChar;
    case DType::kUInt8:
      return at::kByte;
    case DType::kBool:
      return at::kBool;
    case DType::kUInt16:
      return at::kUInt16;
    case DType::kUInt32:
      return at::kUInt32;
    case DType::kUInt64:
      return at::kUInt64;
    case DType::kComplex64:
      return at::kComplexFloat;
    case DType::kComplex128:
      return at::kComplexDouble;
    case DType::kFloat8E4M3FN:
      return at::kFloat8_e4m3fn;
    case DType::kFloat8E4M3FNUZ:
      return at::kFloat8_e4m3fnuz;
    case DType::kFloat8E5M2:
      return at::kFloat8_e5m2;
    case DType::kFloat8E5M2FNUZ:
      return at::kFloat8_e5m2fnuz;
    default:
      fail(ErrorKind::kType, "run", "torch has no tensors of element type " + std::string(dtype_name(t)));
  }
}

DType from_scalar_type(at::ScalarType t) {
  switch (t) {
    case at::kFloat:
      return DType::kFloat;
    case at::kDouble:
      return DType::kDouble;
    case at::kHalf:
      return DType::kHalf;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kLong:
      return DType::kInt64;
    case at::kInt:
      return DType::kInt32;
    case at::kShort:
      return DType::kInt16;
    case at::kChar:
      return DType::kInt8;
    case at::kByte:
      return DType::kUInt8;
    case at::kBool:
      return DType::kBool;
    case at::kUInt16:
      return DType::kUInt16;
    case at::kUInt32:
      return DType::kUInt32;
    case at::kUInt64:
      return DType::kUInt64;
    case at::kComplexFloat:
      return DType::kComplex64;
    case at::kComplexDouble:
      return DType::kComplex128;
    case at::kFloat8_e4m3fn:
      return DType::kFloat8E4M3FN;
    case at::kFloat8_e4m3fnuz:
      return DType::kFloat8E4M3FNUZ;
    case at::kFloat8_e5m2:
      return DType::kFloat8E5M2;
    case at::kFloat8_e5m2fnuz:
      return DType::kFloat8E5M2FNUZ;
    default:
      fail(ErrorKind::kType, "run", std::string("ONNX has no element type for a tensor of type ") + c10::toString(t));
  }
}

void Call::set(size_t o, const at::Tensor& t) {
  if (!wants(o)) return;
  at::Tensor& dst = *out_[o];
  if (placed_[o]) {
    dst.copy_(t.sizes() == dst.sizes() ? t : t.expand(dst.sizes()));
    return;
  }
  at::Tensor r = t.scalar_type() == dst.scalar_type() ? t : t.to(dst.scalar_type());
  r = r.contiguous();
  for (size_t i = 0; i < n_in_; ++i)
    if (in_[i] && r.is_alias_of(*in_[i])) {
      r = r.clone();
      break;
    }
  dst = r;
}

std::vector<int64_t> Call::ints(size_t i) const {
  const at::Tensor t = in(i).to(at::kCPU, at::kLong).contiguous();
  const int64_t* p = t.const_data_ptr<int64_t>();
  return {p, p + t.numel()};
}

double Call::number(size_t i) const { return in(i).item().toDouble(); }

std::vector<int64_t> Call::axes(size_t input, int64_t rank) const {
  std::vector<int64_t> r;
  if (node_.has("axes")) {
    r = node_.ints("axes");
  } else if (has(input)) {
    r = ints(input);
  }
  for (int64_t& a : r) {
    if (a < -rank || a >= rank)
      fail("axis out of range: got " + std::to_string(a) + " for rank " + std::to_string(rank));
    if (a < 0) a += rank;
  }
  return r;
}

void Call::fail(const std::string& what, int input) const { ortmod::fail(ErrorKind::kRun, "run", what, node_, input); }

}  // namespace ortmod
