// Reading the checkpoint files of onnxruntime-training 1.19.2: flatbuffers of its schema ort_training_checkpoint.fbs.
#include <ATen/ATen.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "graph/error.h"
#include "ops/kernel.h"
#include "train/checkpoint.h"

namespace ortmod {
namespace {

using Bytes = std::string;

/// A flatbuffer table: fields by number. Every access is within the buffer.
class Table {
 public:
  Table(const std::string& path, const Bytes& data, uint64_t at) : path_(path), data_(data), at_(at) {
    fields_ = at - static_cast<uint64_t>(static_cast<int64_t>(read<int32_t>(at)));
    size_ = read<uint16_t>(fields_);
  }
  static Table root(const std::string& path, const Bytes& data) {
    uint32_t at = 0;
    if (data.size() >= sizeof at) std::memcpy(&at, data.data(), sizeof at);
    return {path, data, at};
  }

  template <class T>
  T number(int field, T fallback = {}) const {
    const uint64_t at = place(field);
    return at ? read<T>(at) : fallback;
  }
  std::optional<Table> table(int field) const {
    const uint64_t at = place(field);
    return at ? std::optional<Table>(Table(path_, data_, target(at))) : std::nullopt;
  }
  std::vector<Table> tables(int field) const {
    std::vector<Table> r;
    const auto [start, count] = vector(field, 4);
    for (uint64_t i = 0; i < count; ++i) r.emplace_back(path_, data_, target(start + 4 * i));
    return r;
  }
  std::string_view raw(int field) const {
    const auto [start, count] = vector(field, 1);
    return std::string_view(data_).substr(start, count);
  }
  std::string text(int field) const { return std::string(raw(field)); }
  std::vector<int64_t> longs(int field) const {
    const auto [start, count] = vector(field, 8);
    std::vector<int64_t> r(count);
    if (count > 0) std::memcpy(r.data(), data_.data() + start, 8 * count);
    return r;
  }
  [[noreturn]] void damaged(const std::string& why) const {
    fail(ErrorKind::kModel, "checkpoint", path_ + ": the file of onnxruntime-training is damaged: " + why);
  }

 private:
  template <class T>
  T read(uint64_t at) const {
    T v;
    if (at > data_.size() || data_.size() - at < sizeof v) damaged("a reference leads out of it");
    std::memcpy(&v, data_.data() + at, sizeof v);
    return v;
  }
  uint64_t place(int field) const {
    const uint64_t entry = 4 + 2 * static_cast<uint64_t>(field);
    const uint16_t offset = entry < size_ ? read<uint16_t>(fields_ + entry) : uint16_t{0};
    return offset ? at_ + offset : 0;
  }
  uint64_t target(uint64_t at) const { return at + read<uint32_t>(at); }
  std::pair<uint64_t, uint64_t> vector(int field, uint64_t width) const {
    const uint64_t at = place(field);
    if (!at) return {0, 0};
    const uint64_t start = target(at), count = read<uint32_t>(start);
    if (count * width > data_.size() - start - 4) damaged("a list is longer than the file");
    return {start + 4, count};
  }

  const std::string& path_;
  const Bytes& data_;
  uint64_t at_, fields_ = 0, size_ = 0;
};

Bytes content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorKind::kModel, "checkpoint", path + ": there is no such file, which the checkpoint refers to");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// `outside`: path of the file of large values, or empty.
at::Tensor tensor(const Table& t, bool nominal, const std::string& outside) {
  const std::vector<int64_t> shape = t.longs(2);
  const auto code = t.number<int32_t>(3);
  const auto type = static_cast<DType>(code);
  if (!is_known_dtype(code) || dtype_size(type) == 0)
    t.damaged("\"" + t.text(0) + "\" is of the element type " + std::to_string(code) + ", which is not known");
  int64_t bytes = static_cast<int64_t>(dtype_size(type));
  for (const int64_t d : shape)
    if (d < 0 || __builtin_mul_overflow(bytes, d, &bytes))
      t.damaged("the shape of \"" + t.text(0) + "\" is impossible");
  const auto options = at::TensorOptions().dtype(to_scalar_type(type));
  if (nominal) return at::empty(shape, options.device(at::kMeta));
  const auto wrong = [&](uint64_t got) {
    t.damaged("\"" + t.text(0) + "\" has " + std::to_string(got) + " bytes, expected " + std::to_string(bytes));
  };
  const auto offset = t.number<int64_t>(6, -1);
  if (offset < 0 || outside.empty()) {
    const std::string_view data = t.raw(4);
    if (data.size() != static_cast<uint64_t>(bytes)) wrong(data.size());
    at::Tensor r = at::empty(shape, options);
    if (bytes > 0) std::memcpy(r.mutable_data_ptr(), data.data(), data.size());
    return r;
  }
  std::ifstream file(outside, std::ios::binary | std::ios::ate);
  const auto size = static_cast<int64_t>(file ? static_cast<std::streamoff>(file.tellg()) : 0);
  if (offset > size || bytes > size - offset) wrong(static_cast<uint64_t>(std::max<int64_t>(size - offset, 0)));
  at::Tensor r = at::empty(shape, options);
  file.seekg(offset);
  if (bytes > 0 && !file.read(static_cast<char*>(r.mutable_data_ptr()), bytes)) wrong(0);
  return r;
}

std::string state_name(const std::string& moment) {
  return moment == "momentum0" ? "first_order_moments" : moment == "momentum1" ? "second_order_moments" : moment;
}

}  // namespace

Checkpoint load_ort_checkpoint(const std::string& path) {
  const Bytes data = content(path);
  const Table root = Table::root(path, data);
  Checkpoint c;
  if (const auto module = root.table(1)) {
    const bool nominal = module->number<uint8_t>(2) != 0;
    const std::string outside = module->number<uint8_t>(3) != 0 ? path + ".data" : "";
    for (const int field : {0, 1})
      for (const Table& t : module->tables(field)) {
        c.parameters[t.text(0)] = tensor(t, nominal, outside);
        if (field == 0) c.trainable.push_back(t.text(0));
      }
  }
  if (const std::vector<Table> groups = root.tables(2); !groups.empty()) {
    c.step = groups[0].number<int64_t>(1);
    c.learning_rate = groups[0].number<float>(2);
    for (const Table& one : groups[0].tables(3))
      for (const Table& moment : one.tables(1))
        c.optimizer[state_name(moment.text(0))][one.text(0)] = tensor(moment, false, "");
  }
  if (const auto bag = root.table(3)) {
    for (const Table& t : bag->tables(0)) c.properties[t.text(0)] = t.number<int64_t>(1);
    for (const Table& t : bag->tables(1)) c.properties[t.text(0)] = static_cast<double>(t.number<float>(1));
    for (const Table& t : bag->tables(2)) c.properties[t.text(0)] = t.text(1);
  }
  return c;
}

}  // namespace ortmod
