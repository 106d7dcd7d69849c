// Reading and writing safetensors files.
#include "train/checkpoint.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "graph/error.h"
#include "ops/kernel.h"
#include "train/json.h"

namespace ortmod {
namespace {

constexpr const char* kNote = "ortmod.checkpoint";
constexpr std::string_view kPart = ".part";
constexpr int64_t kVersion = 1;
constexpr uint64_t kLongestHeader = uint64_t{100} << 20;
constexpr std::pair<const char*, at::ScalarType> kTypes[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"I64", at::kLong},
    {"I32", at::kInt},    {"I16", at::kShort}, {"I8", at::kChar},  {"U8", at::kByte},       {"BOOL", at::kBool}};

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(ErrorKind::kModel, "checkpoint", path + ": " + why);
}

at::ScalarType type_of(const std::string& path, const std::string& code) {
  for (const auto& [name, type] : kTypes)
    if (code == name) return type;
  refuse(path, "the header of the safetensors file cannot be read: tensors of type " + code + " are not known");
}

std::string code_of(const std::string& name, at::ScalarType t) {
  for (const auto& [code, type] : kTypes)
    if (t == type) return code;
  fail(ErrorKind::kModel, "checkpoint",
       "\"" + name + "\": tensors of " + std::string(dtype_name(from_scalar_type(t))) + " cannot be saved");
}

std::string hex(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%a", v);
  return text;
}

std::string decimal(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", v);
  return text;
}

std::string shape_of(const at::Tensor& t) {
  std::vector<std::string> shape;
  for (const int64_t d : t.sizes()) shape.push_back(std::to_string(d));
  return json_list(shape);
}

/// Removes what writers that died left behind: `<start><process>.part`.
void remove_leftovers(const std::filesystem::path& folder, const std::string& start) {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(start) || !name.ends_with(kPart) || name.size() <= start.size() + kPart.size()) continue;
    const std::string process = name.substr(start.size(), name.size() - start.size() - kPart.size());
    if (process.find_first_not_of("0123456789") == std::string::npos && !std::filesystem::exists("/proc/" + process))
      std::filesystem::remove(entry.path(), failed);
  }
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path), handle_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (handle_ < 0) refuse(path, std::string("cannot be opened: ") + std::strerror(errno));
  }
  ~File() { ::close(handle_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  void write(const void* data, size_t size) const {
    for (const char* p = static_cast<const char*>(data); size > 0;) {
      const ssize_t n = ::write(handle_, p, std::min<size_t>(size, 1 << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) refuse(path_, std::string("cannot be written: ") + std::strerror(errno));
      p += n;
      size -= static_cast<size_t>(n);
    }
  }
  void sync() const { ::fsync(handle_); }

 private:
  const std::string path_;
  const int handle_;
};

}  // namespace

Checkpoint load_checkpoint(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) refuse(path, "there is no such file");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) refuse(path, std::string("cannot be opened: ") + std::strerror(errno));
  const auto size = static_cast<uint64_t>(file.tellg());
  file.seekg(0);
  char start[8] = {};
  file.read(start, 8);
  if (size >= 8 && std::memcmp(start + 4, "ODTC", 4) == 0) return load_ort_checkpoint(path);
  uint64_t length = 0;
  std::memcpy(&length, start, 8);
  if (size < 10 || length < 2 || length > size - 8 || length > kLongestHeader)
    refuse(path, "not a checkpoint: it is neither a safetensors file nor one of onnxruntime-training");
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));
  const std::string what = path + ": the header of the safetensors file";
  const Json header = parse_json(text, what);
  Checkpoint c;
  const Json* metadata = header.find("__metadata__");
  const Json* note = metadata ? metadata->find(kNote) : nullptr;
  for (const auto& [name, entry] : header.members) {
    if (name == "__metadata__") continue;
    const Json *code = entry.find("dtype"), *dims = entry.find("shape"), *offsets = entry.find("data_offsets");
    if (!code || !dims || !offsets)
      refuse(path, "the header of the safetensors file cannot be read: \"" + name + "\" has no type, shape or place");
    const at::ScalarType type = type_of(path, code->string());
    const std::vector<int64_t> shape = dims->integers(), place = offsets->integers();
    int64_t bytes = static_cast<int64_t>(c10::elementSize(type));
    bool fits = place.size() == 2 && place[0] >= 0 && place[1] >= place[0] &&
                static_cast<uint64_t>(place[1]) <= size - 8 - length;
    for (const int64_t d : shape) fits = fits && d >= 0 && !__builtin_mul_overflow(bytes, d, &bytes);
    if (!fits || place[1] - place[0] != bytes)
      refuse(path, "the place of \"" + name + "\" does not fit its type or the file, which may be cut short");
    at::Tensor t = at::empty(shape, at::TensorOptions().dtype(type));
    file.seekg(static_cast<std::streamoff>(8 + length) + place[0]);
    if (bytes > 0 && !file.read(static_cast<char*>(t.data_ptr()), bytes))
      refuse(path, "\"" + name + "\" cannot be read");
    c.parameters.emplace(name, std::move(t));
  }
  if (!note) {
    for (const auto& [name, t] : c.parameters) c.trainable.push_back(name);
    return c;
  }
  const Json j = parse_json(note->string(), path);
  if (j.at("version").integer() > kVersion)
    refuse(path, "got version " + std::to_string(j.at("version").integer()) + ", expected at most " +
                     std::to_string(kVersion) + "; update ortmod");
  if (const Json* nominal = j.find("nominal"))
    for (const auto& [name, type] : nominal->members) {
      const std::vector<Json>& pair = type.list();
      if (pair.size() != 2) refuse(path, "the type of \"" + name + "\" cannot be read");
      const auto options = at::TensorOptions().dtype(type_of(path, pair[0].string())).device(at::kMeta);
      c.parameters[name] = at::empty(pair[1].integers(), options);
    }
  c.trainable = j.at("trainable").strings();
  for (const auto& [name, tagged] : j.at("properties").members) {
    const std::vector<Json>& pair = tagged.list();
    if (pair.size() != 2) refuse(path, "the property \"" + name + "\" cannot be read");
    const std::string& kind = pair[0].string();
    if (kind == "int")
      c.properties[name] = pair[1].integer();
    else if (kind == "float")
      c.properties[name] = std::strtod(pair[1].string().c_str(), nullptr);
    else
      c.properties[name] = pair[1].string();
  }
  if (const Json* optimizer = j.find("optimizer")) {
    c.step = optimizer->at("step").integer();
    if (optimizer->at("learning_rate").kind == Json::Kind::kNumber)
      c.learning_rate = optimizer->at("learning_rate").number();
    for (const auto& [state, keys] : optimizer->at("states").members)
      for (const auto& [name, key] : keys.members) {
        const auto it = c.parameters.find(key.string());
        if (it == c.parameters.end()) refuse(path, "the state \"" + state + "\" of \"" + name + "\" is missing");
        c.optimizer[state][name] = it->second;
        c.parameters.erase(it);
      }
  }
  return c;
}

void write_checkpoint(const Checkpoint& c, const std::string& path, CheckpointContent content) {
  const bool nominal = content.nominal || c.nominal();
  std::map<std::string, at::Tensor> tensors;
  if (!nominal) tensors = c.parameters;
  std::vector<std::string> trainable, frozen, properties, states;
  for (const std::string& name : c.trainable) trainable.push_back(json_string(name));
  for (const auto& [name, t] : c.parameters)
    if (std::find(c.trainable.begin(), c.trainable.end(), name) == c.trainable.end())
      frozen.push_back(json_string(name));
  const auto object = [](const std::vector<std::string>& members) {
    std::string r = json_list(members);
    r.front() = '{';
    r.back() = '}';
    return r;
  };
  for (const auto& [name, value] : c.properties) {
    std::string tagged;
    if (const auto* i = std::get_if<int64_t>(&value)) tagged = "[\"int\"," + std::to_string(*i) + "]";
    if (const auto* d = std::get_if<double>(&value)) tagged = "[\"float\",\"" + hex(*d) + "\"]";
    if (const auto* s = std::get_if<std::string>(&value)) tagged = "[\"str\"," + json_string(*s) + "]";
    properties.push_back(json_string(name) + ":" + tagged);
  }
  std::string note = "{\"version\":1,\"trainable\":" + json_list(trainable) + ",\"frozen\":" + json_list(frozen) +
                     ",\"properties\":" + object(properties);
  if (nominal) {
    std::vector<std::string> types;
    for (const auto& [name, t] : c.parameters)
      types.push_back(json_string(name) + ":[\"" + code_of(name, t.scalar_type()) + "\"," + shape_of(t) + "]");
    note += ",\"nominal\":" + object(types);
  }
  if (content.optimizer && (c.step != 0 || c.learning_rate || !c.optimizer.empty())) {
    for (const auto& [state, values] : c.optimizer) {
      std::vector<std::string> keys;
      for (const auto& [name, t] : values) {
        std::string key = "optimizer." + state + "/" + name;
        while (tensors.contains(key)) key += "_";
        tensors.emplace(key, t);
        keys.push_back(json_string(name) + ":" + json_string(key));
      }
      states.push_back(json_string(state) + ":" + object(keys));
    }
    note += ",\"optimizer\":{\"step\":" + std::to_string(c.step) +
            ",\"learning_rate\":" + (c.learning_rate ? decimal(*c.learning_rate) : "null") +
            ",\"states\":" + object(states) + "}";
  }
  note += "}";
  std::vector<std::pair<std::string, at::Tensor>> ordered;
  for (const auto& [name, t] : tensors) ordered.emplace_back(name, t.cpu().contiguous());
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  std::vector<std::string> header{"\"__metadata__\":{" + json_string(kNote) + ":" + json_string(note) +
                                  ",\"format\":\"pt\"}"};
  size_t at = 0;
  for (const auto& [name, t] : ordered) {
    if (name == "__metadata__")
      fail(ErrorKind::kModel, "checkpoint", "no tensor can have the name \"__metadata__\"; rename the parameter");
    header.push_back(json_string(name) + ":{\"dtype\":\"" + code_of(name, t.scalar_type()) +
                     "\",\"shape\":" + shape_of(t) + ",\"data_offsets\":[" + std::to_string(at) + "," +
                     std::to_string(at + t.nbytes()) + "]}");
    at += t.nbytes();
  }
  std::string text = object(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  const uint64_t length = text.size();
  file.write(&length, 8);
  file.write(text.data(), text.size());
  for (const auto& [name, t] : ordered) file.write(t.data_ptr(), t.nbytes());
  file.sync();
}

void save_checkpoint(const Checkpoint& c, const std::string& path, CheckpointContent content) {
  const std::filesystem::path place(path);
  const std::filesystem::path folder = place.parent_path().empty() ? std::filesystem::path(".") : place.parent_path();
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  remove_leftovers(folder, "." + place.filename().string() + ".");
  const std::string part =
      (folder / ("." + place.filename().string() + "." + std::to_string(::getpid()) + std::string(kPart))).string();
  try {
    write_checkpoint(c, part, content);
  } catch (...) {
    ::unlink(part.c_str());
    throw;
  }
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    ::unlink(part.c_str());
    refuse(path, "cannot be written: " + why);
  }
  File(folder.string(), O_RDONLY | O_DIRECTORY).sync();
}

}  // namespace ortmod
