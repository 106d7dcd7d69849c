// The border between ONNX protos and the IR. No protobuf here: bytes in, Graph out, and back.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "graph/graph.h"

namespace ortmod {

/// Tensors by initializer name.
using Literals = std::unordered_map<std::string, LiteralPtr>;

/// Reads a serialized ModelProto. Local functions are inlined, `Constant` nodes become weights, initializers leave the
/// inputs. `base_dir`: the folder that external data must lie in (it is memory-mapped); empty: external data is
/// refused. `given`: initializers whose data is not in the proto (so that the proto of a model over 2 GiB stays small);
/// dims and dtype must agree. Anything malformed is a ModelError that names the node, value or file. Large raw tensors
/// share one copy of `bytes`.
std::unique_ptr<Graph> from_bytes(std::string_view bytes, const std::string& base_dir = "", const Literals& given = {});
/// The same from a file (external data lies in the file's folder).
std::unique_ptr<Graph> from_file(const std::string& path);
/// The names of the graph's inputs as a serialized ModelProto (or a file of one) lists them, initializers among them.
std::vector<std::string> listed_inputs(std::string_view bytes);
std::vector<std::string> listed_inputs_of_file(const std::string& path);
/// Calls of a marked function are inlined and keep their boundary: an ortmod::WithGradient whose attributes are those
/// of the call and `function_name` ("domain::Name") and `function_inputs` (how many), whose inputs are those of the
/// call, then the inlined outputs, and whose outputs are these (null where not wanted). A registered rule takes hold
/// there. Thread-safe.
void mark_function(Op function, bool marked);

/// The graph of a gradient rule: attributes of its nodes may refer to those of the operator (AttrRef).
std::unique_ptr<Graph> rule_from_bytes(std::string_view bytes);

/// What to_bytes and to_file write besides the graph. Inputs with a literal are written as inputs with a default (an
/// initializer too).
struct WriteOptions {
  const Literals* weights = nullptr;  // these tensors instead of the literals of the initializers of these names
  bool value_info = true;             // types of computed values
  std::string producer = "ortmod";
};

/// A serialized ModelProto; above 2 GiB a ModelError: use to_file.
std::string to_bytes(const Graph& g, const WriteOptions& options = {});
/// Writes the file; initializers go to `<path>.data` when the proto would exceed `inline_limit` bytes. The file appears
/// complete or not at all.
void to_file(const Graph& g, const std::string& path, const WriteOptions& options = {},
             size_t inline_limit = 1500u << 20);

/// The newest opset of a standard domain ("", ai.onnx.ml, ai.onnx.preview.training) that the build knows; 0 for other
/// domains.
int newest_opset(std::string_view domain = "");
/// The version in which the form of an operator that opset `version` uses came; 0 when the standard has no such
/// operator.
int since_version(std::string_view domain, std::string_view op, int version);

}  // namespace ortmod
