// Reading a ModelProto: scopes of names, frames of inlined functions (protobuf classes only by name).
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "graph/proto_io.h"

namespace ortmod_onnx {
class AttributeProto;
class FunctionProto;
class GraphProto;
class ModelProto;
class NodeProto;
class ValueInfoProto;
}  // namespace ortmod_onnx

namespace ortmod {

class ModelReader {
 public:
  ModelReader(ortmod_onnx::ModelProto& model, const std::string& base_dir, const Literals& given);
  std::unique_ptr<Graph> read();
  void keep_references() { keep_references_ = true; }

 private:
  using Opsets = std::map<std::string, int>;
  /// Names visible in one graph or function body; null values are absent optional inputs of a function.
  struct Scope {
    const Scope* outer = nullptr;
    std::unordered_map<std::string, Value*> names;
    std::unordered_map<std::string, ortmod_onnx::ValueInfoProto*> infos;
    /// Of a graph into which nothing is inlined: its values are visible by their own names; `names` has the others.
    const Graph* own = nullptr;
    bool find(const std::string& name, Value** v) const;
    bool has(const std::string& name) const;
    void set(const std::string& name, Value* v);
  };
  struct Place;
  /// An attribute given to a function, with the place whose names its sub-graphs see.
  struct Given {
    ortmod_onnx::AttributeProto* attr;
    const Place* place;
  };
  /// One inlined call.
  struct Frame {
    ortmod_onnx::FunctionProto* function;
    const Frame* caller;
    int depth;
    std::string prefix;
    Opsets opsets;
    std::unordered_map<std::string, Given> attrs;
    std::unordered_map<std::string, std::string> outputs;  // name inside -> name in the graph
  };
  /// Where a node is read.
  struct Place {
    Graph* graph;
    Scope* scope;
    const Frame* frame;
    int depth;  // of sub-graphs
  };
  using NodeList = std::vector<ortmod_onnx::NodeProto*>;

  void read_opsets();
  void collect_functions();
  void collect_names(const ortmod_onnx::GraphProto& p);
  std::string fresh(const std::string& base);
  std::unique_ptr<Graph> read_graph(ortmod_onnx::GraphProto& p, const Place* outer, int depth);
  void read_values(ortmod_onnx::GraphProto& p, const Place& at);
  void read_outputs(ortmod_onnx::GraphProto& p, const Place& at);
  void read_nodes(const NodeList& nodes, const Place& at);
  void read_node(const NodeList& nodes, size_t index, const Place& at);
  bool stays_open(const ortmod_onnx::NodeProto& p, const Place& at) const;
  void read_constant(ortmod_onnx::NodeProto& p, const Place& at);
  void inline_call(ortmod_onnx::NodeProto& p, ortmod_onnx::FunctionProto& f, Values inputs, const Place& at);
  Values read_inputs(const NodeList& nodes, size_t index, const Place& at);
  Attrs read_attrs(ortmod_onnx::NodeProto& p, const Place& at);
  Attr read_attr(ortmod_onnx::AttributeProto& a, const Place& at, const std::string& node, bool movable);
  std::string graph_name(const std::string& name, const Place& at, const std::string& by);
  Value* declare(const std::string& name, const Place& at, const std::string& by);
  void describe(Value* v, const std::string& original, const Place& at);
  int version(const ortmod_onnx::NodeProto& p, const Place& at);
  [[noreturn]] void undefined(const NodeList& nodes, size_t index, const std::string& name);

  ortmod_onnx::ModelProto& model_;
  TensorReader tensors_;
  Opsets opsets_;
  Graph* root_ = nullptr;
  std::unordered_map<std::string, ortmod_onnx::FunctionProto*> functions_;
  std::unordered_set<std::string> used_;  // all names of the file, once a fresh one was needed
  bool collected_ = false;
  std::unordered_map<std::string, int> copies_;  // the last number given to a name that is taken
  size_t nodes_read_ = 0, nodes_inlined_ = 0;
  bool keep_references_ = false;  // attribute references outside of functions stay
};

}  // namespace ortmod
