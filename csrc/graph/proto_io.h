// Shared by the files of the proto border: tensors, types and external data (protobuf classes only by name).
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "graph/graph.h"
#include "graph/proto.h"

namespace ortmod_onnx {
class SparseTensorProto;
class TensorProto;
class TypeProto;
}  // namespace ortmod_onnx

namespace ortmod {

/// A name or text from a file, made fit for a message: control and non-UTF-8 bytes escaped, cut at 120 bytes.
std::string shown(std::string_view text);
bool is_utf8(std::string_view text);

/// Files with external data below one folder, each mapped once. Paths that leave the folder, links and short files are
/// ModelErrors.
class ExternalFiles {
 public:
  explicit ExternalFiles(std::string base_dir) : base_dir_(std::move(base_dir)) {}
  struct Range {
    std::shared_ptr<const void> owner;
    const char* data = nullptr;
    size_t size = 0;
  };
  /// `length` < 0: to the end of the file.
  Range map(const std::string& location, int64_t offset, int64_t length, const std::string& tensor);

 private:
  std::string base_dir_;
  std::map<std::string, Range> files_;
};

struct TensorReader {
  ExternalFiles files;
  const Literals& given;
  size_t densified = 0;  // bytes made from sparse tensors so far

  /// `movable`: the proto's bytes may be taken. `what` names the tensor in messages.
  LiteralPtr read(ortmod_onnx::TensorProto& t, bool movable, const std::string& what);
  /// An initializer: its data may be among `given`.
  LiteralPtr read_initializer(ortmod_onnx::TensorProto& t, bool movable);
  LiteralPtr read(ortmod_onnx::SparseTensorProto& t, const std::string& what);
};

Type read_type(const ortmod_onnx::TypeProto& t, const std::string& what);

void write_tensor(const Literal& l, const std::string& name, ortmod_onnx::TensorProto* t);
void write_type(const Type& t, ortmod_onnx::TypeProto* p);

/// Reads a whole file, or maps it.
ExternalFiles::Range map_file(const std::string& path);

}  // namespace ortmod
