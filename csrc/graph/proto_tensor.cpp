// TensorProto, SparseTensorProto and TypeProto <-> Literal and Type, checked against byte lengths.
#include <charconv>
#include <cstring>

#include "graph/proto_io.h"
#include "graph/symbol.h"
#include "ortmod_onnx.pb.h"

namespace ortmod {
namespace onnx = ortmod_onnx;
namespace {

constexpr int64_t kMaxRank = 64;
constexpr size_t kMaxDensified = size_t{4} << 30;

[[noreturn]] void bad(const std::string& what, const std::string& tensor) {
  fail(ErrorKind::kModel, "import", what + " (tensor \"" + shown(tensor) + "\")");
}

DType element(int code, const std::string& what) {
  if (!is_known_dtype(code) || code == 0) bad("unknown element type: got code " + std::to_string(code), what);
  return static_cast<DType>(code);
}

/// Elements in one byte of a packed type, else 0.
int64_t packed(DType t) {
  switch (t) {
    case DType::kInt4:
    case DType::kUInt4:
    case DType::kFloat4E2M1:
      return 2;
    case DType::kInt2:
    case DType::kUInt2:
      return 4;
    default:
      return 0;
  }
}

template <class List>
Dims read_dims(const List& list, const std::string& what) {
  if (list.size() > kMaxRank)
    bad("rank " + std::to_string(list.size()) + " is beyond " + std::to_string(kMaxRank), what);
  Dims d;
  for (const int64_t x : list) {
    if (x < 0) bad("a dimension is negative: got " + std::to_string(x), what);
    d.push_back(x);
  }
  return d;
}

/// Elements of a shape and their bytes, without overflow.
std::pair<int64_t, size_t> sizes(DType t, const Dims& d, const std::string& what) {
  int64_t n = 1, bytes = 0;
  bool zero = false;
  for (const Dim x : d) zero |= x == 0;
  for (const Dim x : d)
    if (!zero && __builtin_mul_overflow(n, x, &n)) bad("the dimensions overflow: " + to_string(d), what);
  if (zero) n = 0;
  if (const int64_t p = packed(t)) {
    bytes = n / p + (n % p != 0);
  } else if (__builtin_mul_overflow(n, static_cast<int64_t>(dtype_size(t)), &bytes)) {
    bad("the dimensions overflow: " + to_string(d), what);
  }
  return {n, static_cast<size_t>(bytes)};
}

int64_t parse_count(const std::string& text, const std::string& key, const std::string& what) {
  int64_t v = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (error != std::errc() || end != text.data() + text.size() || v < 0)
    bad("external data " + key + " is not a count: got \"" + shown(text) + "\"", what);
  return v;
}

LiteralPtr read_external(onnx::TensorProto& t, DType dtype, const Dims& dims, size_t bytes, ExternalFiles& files,
                         const std::string& what) {
  std::string location;
  int64_t offset = 0, length = -1;
  for (const auto& e : t.external_data()) {
    if (e.key() == "location")
      location = e.value();
    else if (e.key() == "offset")
      offset = parse_count(e.value(), "offset", what);
    else if (e.key() == "length")
      length = parse_count(e.value(), "length", what);
    else if (e.key() != "checksum" && e.key() != "basepath")
      bad("unknown key of external data \"" + shown(e.key()) + "\"", what);
  }
  if (length >= 0 && static_cast<size_t>(length) != bytes)
    bad("external data has the wrong length: got " + std::to_string(length) + " bytes, expected " +
            std::to_string(bytes),
        what);
  const ExternalFiles::Range r = files.map(location, offset, static_cast<int64_t>(bytes), what);
  if (!r.owner || reinterpret_cast<uintptr_t>(r.data) % std::max<size_t>(1, dtype_size(dtype)) != 0)
    return Literal::copy(dtype, dims, r.data, bytes);
  return std::make_shared<const Literal>(dtype, dims, r.owner, r.data, bytes);
}

template <class To, class List>
LiteralPtr convert(DType t, const Dims& dims, const List& list, int64_t expected, const std::string& what) {
  if (list.size() != expected)
    bad("wrong number of elements: got " + std::to_string(list.size()) + ", expected " + std::to_string(expected) +
            " for " + to_string(dims),
        what);
  std::vector<To> v(static_cast<size_t>(expected));
  for (int i = 0; i < list.size(); ++i) v[static_cast<size_t>(i)] = static_cast<To>(list.Get(i));
  return Literal::copy(t, dims, v.data(), v.size() * sizeof(To));
}

LiteralPtr read_typed(const onnx::TensorProto& t, DType dtype, const Dims& dims, int64_t n, size_t bytes,
                      const std::string& what) {
  switch (dtype) {
    case DType::kFloat:
      return convert<float>(dtype, dims, t.float_data(), n, what);
    case DType::kComplex64:
      return convert<float>(dtype, dims, t.float_data(), 2 * n, what);
    case DType::kDouble:
      return convert<double>(dtype, dims, t.double_data(), n, what);
    case DType::kComplex128:
      return convert<double>(dtype, dims, t.double_data(), 2 * n, what);
    case DType::kInt64:
      return convert<int64_t>(dtype, dims, t.int64_data(), n, what);
    case DType::kUInt64:
      return convert<uint64_t>(dtype, dims, t.uint64_data(), n, what);
    case DType::kUInt32:
      return convert<uint32_t>(dtype, dims, t.uint64_data(), n, what);
    case DType::kInt32:
      return convert<int32_t>(dtype, dims, t.int32_data(), n, what);
    case DType::kInt16:
    case DType::kUInt16:
    case DType::kHalf:
    case DType::kBFloat16:
      return convert<uint16_t>(dtype, dims, t.int32_data(), n, what);
    default:
      return convert<uint8_t>(dtype, dims, t.int32_data(), static_cast<int64_t>(bytes), what);
  }
}

}  // namespace

LiteralPtr TensorReader::read(onnx::TensorProto& t, bool movable, const std::string& what) {
  if (t.has_segment()) bad("tensors in segments are not supported", what);
  const DType dtype = element(t.data_type(), what);
  const Dims dims = read_dims(t.dims(), what);
  if (dtype == DType::kString) {
    const int64_t n = sizes(DType::kUInt8, dims, what).first;
    if (t.data_location() == onnx::TensorProto::EXTERNAL || t.has_raw_data())
      bad("string tensors hold string_data only", what);
    if (t.string_data_size() != n)
      bad("wrong number of strings: got " + std::to_string(t.string_data_size()) + ", expected " + std::to_string(n),
          what);
    return Literal::strings(dims, {t.string_data().begin(), t.string_data().end()});
  }
  const auto [n, bytes] = sizes(dtype, dims, what);
  if (t.data_location() == onnx::TensorProto::EXTERNAL) return read_external(t, dtype, dims, bytes, files, what);
  const bool typed =
      t.float_data_size() || t.int32_data_size() || t.int64_data_size() || t.double_data_size() || t.uint64_data_size();
  if (t.has_raw_data() && !typed) {
    if (t.raw_data().size() != bytes)
      bad("raw data has the wrong length: got " + std::to_string(t.raw_data().size()) + " bytes, expected " +
              std::to_string(bytes) + " for " + to_string(Type(dtype, dims)),
          what);
    constexpr size_t kSmall = 4096;
    if (!movable || bytes < kSmall) return Literal::copy(dtype, dims, t.raw_data().data(), bytes);
    const auto owner = std::make_shared<const std::string>(std::move(*t.mutable_raw_data()));
    return std::make_shared<const Literal>(dtype, dims, owner, owner->data(), bytes);
  }
  if (t.has_raw_data() && !t.raw_data().empty()) bad("both raw data and typed data are given", what);
  return read_typed(t, dtype, dims, n, bytes, what);
}

LiteralPtr TensorReader::read_initializer(onnx::TensorProto& t, bool movable) {
  const auto it = given.find(t.name());
  if (it == given.end()) return read(t, movable, t.name());
  const Type expected(element(t.data_type(), t.name()), read_dims(t.dims(), t.name()));
  if (it->second->dtype() != expected.dtype || !(it->second->dims() == expected.dims))
    bad("the tensor handed in does not fit: got " + to_string(it->second->type()) + ", expected " + to_string(expected),
        t.name());
  if (const size_t bytes = sizes(expected.dtype, expected.dims, t.name()).second; it->second->bytes() != bytes)
    bad("the tensor handed in has the wrong length: got " + std::to_string(it->second->bytes()) + " bytes, expected " +
            std::to_string(bytes) + " for " + to_string(expected),
        t.name());
  return it->second;
}

LiteralPtr TensorReader::read(onnx::SparseTensorProto& s, const std::string& what) {
  const Dims dims = read_dims(s.dims(), what);
  const LiteralPtr values = read(*s.mutable_values(), false, what), indices = read(*s.mutable_indices(), false, what);
  const size_t item = dtype_size(values->dtype());
  if (item == 0) bad("sparse tensors of this element type are not supported", what);
  const auto [n, bytes] = sizes(values->dtype(), dims, what);
  const int64_t count = values->numel(), rank = static_cast<int64_t>(dims.size());
  if (values->dims().size() != 1 || indices->dtype() != DType::kInt64)
    bad("sparse values must be 1-D and indices int64", what);
  const bool linear = indices->dims().size() == 1;
  if (!(linear && indices->dims()[0] == count) &&
      !(indices->dims().size() == 2 && indices->dims()[0] == count && indices->dims()[1] == rank))
    bad("sparse indices have the wrong shape: got " + to_string(indices->dims()), what);
  densified += bytes;
  if (densified > kMaxDensified) bad("sparse tensors are too large to be stored densely: " + to_string(dims), what);
  const std::shared_ptr<char> dense(static_cast<char*>(std::calloc(std::max<size_t>(bytes, 1), 1)), std::free);
  if (!dense) bad("out of memory", what);
  const std::vector<int64_t> at = indices->to_ints();
  int64_t previous = -1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t offset = 0;
    if (linear) {
      offset = at[static_cast<size_t>(i)];
      if (offset < 0 || offset >= n) bad("a sparse index is out of range: got " + std::to_string(offset), what);
    } else {
      for (int64_t k = 0; k < rank; ++k) {
        const int64_t x = at[static_cast<size_t>(i * rank + k)], size = dims[static_cast<size_t>(k)];
        if (x < 0 || x >= size)
          bad("a sparse index is out of range: got " + std::to_string(x) + ", expected less than " +
                  std::to_string(size),
              what);
        offset = offset * size + x;
      }
    }
    if (offset <= previous) bad("sparse indices are not sorted or not unique", what);
    previous = offset;
    std::memcpy(dense.get() + static_cast<size_t>(offset) * item,
                static_cast<const char*>(values->data()) + static_cast<size_t>(i) * item, item);
  }
  return std::make_shared<const Literal>(values->dtype(), dims, dense, dense.get(), bytes);
}

namespace {

Type tensor_type(const onnx::TypeProto::Tensor& p, const std::string& what) {
  Type t = Type::unranked(element(p.elem_type(), what));
  if (!p.has_shape()) return t;
  if (p.shape().dim_size() > kMaxRank)
    bad("rank " + std::to_string(p.shape().dim_size()) + " is beyond " + std::to_string(kMaxRank), what);
  t.has_rank = true;
  for (const auto& d : p.shape().dim()) {
    if (d.has_dim_value() && d.dim_value() < -1)
      bad("a dimension is negative: got " + std::to_string(d.dim_value()), what);
    if (d.has_dim_param() && !is_utf8(d.dim_param()))
      bad("the name of a dimension is not UTF-8: got \"" + shown(d.dim_param()) + "\"", what);
    if (d.has_dim_value() && d.dim_value() >= 0)
      t.dims.push_back(d.dim_value());
    else
      t.dims.push_back(d.has_dim_param() ? symbol(d.dim_param()) : kAnyDim);
  }
  return t;
}

}  // namespace

Type read_type(const onnx::TypeProto& p, const std::string& what) {
  switch (p.value_case()) {
    case onnx::TypeProto::kTensorType:
      return tensor_type(p.tensor_type(), what);
    case onnx::TypeProto::kMapType: {
      if (!p.map_type().value_type().has_tensor_type()) bad("maps hold tensors only", what);
      Type t = Type::unranked(element(p.map_type().value_type().tensor_type().elem_type(), what));
      t.kind = Kind::kMap;
      t.key = element(p.map_type().key_type(), what);
      return t;
    }
    case onnx::TypeProto::kSequenceType: {
      const auto& e = p.sequence_type().elem_type();
      if (!e.has_tensor_type() && !e.has_map_type()) bad("sequences hold tensors or maps only", what);
      Type t = e.has_map_type() ? read_type(e, what) : tensor_type(e.tensor_type(), what);
      t.kind = Kind::kSequence;
      return t;
    }
    case onnx::TypeProto::kOptionalType: {
      const auto& e = p.optional_type().elem_type();
      if (!e.has_tensor_type() && !e.has_sequence_type()) bad("optionals hold tensors or sequences only", what);
      Type t = read_type(e, what);
      t.kind = e.has_sequence_type() ? Kind::kOptionalSequence : Kind::kOptional;
      return t;
    }
    case onnx::TypeProto::VALUE_NOT_SET:
      return {};
    default:
      bad("values of this type (sparse tensor or opaque) are not supported", what);
  }
}

void write_tensor(const Literal& l, const std::string& name, onnx::TensorProto* t) {
  if (!name.empty()) t->set_name(name);
  t->set_data_type(static_cast<int>(l.dtype()));
  for (const Dim d : l.dims()) t->add_dims(d);
  if (l.dtype() == DType::kString) {
    for (const std::string& s : l.string_values()) t->add_string_data(s);
  } else {
    t->set_raw_data(l.data(), l.bytes());
  }
}

namespace {

void write_tensor_type(const Type& t, onnx::TypeProto::Tensor* p) {
  p->set_elem_type(static_cast<int>(t.dtype));
  if (!t.has_rank) return;
  auto* shape = p->mutable_shape();
  for (const Dim d : t.dims) {
    auto* x = shape->add_dim();
    if (is_known(d))
      x->set_dim_value(d);
    else if (d != kAnyDim)
      x->set_dim_param(dim_text(d));
  }
}

}  // namespace

void write_type(const Type& t, onnx::TypeProto* p) {
  if (t.dtype == DType::kUndefined) return;
  switch (t.kind) {
    case Kind::kTensor:
      return write_tensor_type(t, p->mutable_tensor_type());
    case Kind::kOptional:
      return write_tensor_type(t, p->mutable_optional_type()->mutable_elem_type()->mutable_tensor_type());
    case Kind::kOptionalSequence: {
      Type inner = t;
      inner.kind = Kind::kSequence;
      return write_type(inner, p->mutable_optional_type()->mutable_elem_type());
    }
    case Kind::kSequence: {
      auto* e = p->mutable_sequence_type()->mutable_elem_type();
      if (t.key == DType::kUndefined) return write_tensor_type(t, e->mutable_tensor_type());
      Type inner = t;
      inner.kind = Kind::kMap;
      return write_type(inner, e);
    }
    case Kind::kMap:
      p->mutable_map_type()->set_key_type(static_cast<int>(t.key));
      write_tensor_type(Type::unranked(t.dtype), p->mutable_map_type()->mutable_value_type()->mutable_tensor_type());
      return;
  }
}

}  // namespace ortmod
