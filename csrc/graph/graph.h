// The IR: a graph owns nodes and values; nodes are kept in topological order.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "graph/error.h"
#include "graph/literal.h"
#include "graph/name_table.h"
#include "graph/pointer_map.h"
#include "graph/rare.h"
#include "graph/slab.h"
#include "graph/type.h"

namespace ortmod {

class Graph;
struct Node;
struct Value;
using Values = SmallVec<Value*, 3>;
using ValueSet = PointerSet<Value>;
using ValueMap = PointerMap<Value, Value*>;
using NodeSet = PointerSet<Node>;

/// Interned `domain::name`; "" is ai.onnx. Compare by pointer.
struct OpName {
  std::string domain, name;
};
using Op = const OpName*;
Op intern(std::string_view domain, std::string_view name);
inline Op intern(std::string_view name) { return intern("", name); }

/// A reference to an attribute of the enclosing function; gone after functions are inlined.
struct AttrRef {
  std::string name;
};
using Attr = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                          std::vector<std::string>, LiteralPtr, std::shared_ptr<Graph>,
                          std::vector<std::shared_ptr<Graph>>, AttrRef, std::shared_ptr<const Type>>;
using Attrs = std::vector<std::pair<std::string, Attr>>;

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// Integer elements known without running (a shape, axes, an index); elements may be symbolic dimensions.
struct HostInts {
  Dims dims;
  SmallVec<Dim, 8> v;
};
using HostIntsPtr = std::shared_ptr<const HostInts>;

struct Use {
  Node* node;
  int index;
  bool operator==(const Use&) const = default;
};

struct Value {
  std::string name;
  Type type;
  Node* producer = nullptr;
  int output_index = 0;
  int mark = 0;  // scratch for algorithms
  SmallVec<Use, 2> uses;
  HostIntsPtr host;         // elements known at import, of a computed value
  LiteralPtr literal;       // of an initializer or constant (or the default of an input)
  Rare<Metadata> metadata;  // of its value_info (exporters write there what a weight was)
  Graph* graph = nullptr;
  bool is_constant() const { return literal && !producer; }
};

enum class Origin : uint8_t { kForward, kGradient, kRecomputed };

struct Node {
  Op op = nullptr;
  int version = 0;  // opset of its domain
  Origin origin = Origin::kForward;
  int mark = 0;    // scratch for algorithms
  Values inputs;   // null: absent optional input
  Values outputs;  // null: not wanted
  Attrs attrs;
  std::string name;
  std::string source;  // name of the forward node that a gradient node belongs to
  Rare<Metadata> metadata;
  Graph* graph = nullptr;
  Rare<std::vector<uint32_t>>
      use_hints;  // the graph's: where input i stands in the uses of its value, if they are many

  const Attr* find(std::string_view key) const;
  void set(std::string_view key, Attr value);
  void erase(std::string_view key);
  /// Typed access with a default; an attribute of another type is a ModelError that names the node.
  int64_t attr(std::string_view key, int64_t fallback) const;
  int64_t attr(std::string_view key, int fallback) const { return attr(key, static_cast<int64_t>(fallback)); }
  double attr(std::string_view key, double fallback) const;
  bool attr(std::string_view key, bool fallback) const { return attr(key, static_cast<int64_t>(fallback)) != 0; }
  std::string attr(std::string_view key, const char* fallback) const;
  std::vector<int64_t> ints(std::string_view key, std::vector<int64_t> fallback = {}) const;
  std::vector<double> floats(std::string_view key, std::vector<double> fallback = {}) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  bool is(std::string_view op_name) const { return op->domain.empty() && op->name == op_name; }
  bool is(std::string_view domain, std::string_view op_name) const {
    return op->domain == domain && op->name == op_name;
  }
  Value* in(size_t i) const { return i < inputs.size() ? inputs[i] : nullptr; }
  Value* out(size_t i = 0) const { return i < outputs.size() ? outputs[i] : nullptr; }
};

class Graph {
 public:
  explicit Graph(Graph* parent = nullptr) : parent_(parent) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::string name, doc;
  std::map<std::string, int> opsets;  // domain -> version ("" is ai.onnx); empty in a sub-graph: ask opset()
  int64_t ir_version = 0;
  Metadata metadata;
  std::vector<Value*> inputs;   // graph inputs, initializers not among them
  std::vector<Value*> outputs;  // may repeat, may be an input or an initializer
  std::vector<Value*> weights;  // initializers and constants: values with a literal and no producer

  Graph* parent() const { return parent_; }
  int opset(std::string_view domain = "") const;

  /// Values. An empty name gets a unique one; a taken name gets _2, _3, ...
  Value* add_value(std::string_view name, Type type = {});
  Value* add_input(std::string_view name, Type type);
  Value* add_weight(std::string_view name, LiteralPtr literal);
  /// Keeps the value of that exact name, or null (this graph only).
  Value* find(std::string_view name) const;
  void rename(Value* v, std::string_view name);
  std::string unique_name(std::string_view base);

  /// Appends; outputs are given or made (n_outputs unnamed values). A given output that another node computes is taken
  /// from it.
  Node* add_node(Op op, Values inputs, int n_outputs = 1, Attrs attrs = {}, std::string_view name = "");
  Node* add_node(Op op, Values inputs, Values outputs, Attrs attrs = {}, std::string_view name = "");
  void set_input(Node* n, int i, Value* v);
  void add_input_to(Node* n, Value* v);
  /// Redirects every use (graph outputs too) of `from` to `to`.
  void replace_uses(Value* from, Value* to);
  /// The same for a value that is no output of the graph: O(uses).
  void redirect(Value* from, Value* to);
  /// Computed values change places: each is then the output that the other was.
  void exchange(Value* a, Value* b);
  /// Unlinks a node whose outputs have no uses; freed by compact().
  void remove(Node* n);
  /// The same for a node that no value lists as its user any more (removing many at once).
  void drop(Node* n);
  /// Forgets what the sub-graphs of a node capture.
  static void unlink_captures(const Node& n);
  /// Takes the uses for which `goes` is true off a value's list.
  template <class F>
  static void forget_uses(Value* v, F&& goes) {
    const size_t before = v->uses.size();
    v->uses.erase_if(std::forward<F>(goes));
    if (v->uses.size() != before) hint_uses(v);
  }
  /// Drops removed nodes and values nobody refers to; O(nodes + values). Weights in `keep` stay though nobody reads
  /// them.
  void compact(const ValueSet* keep = nullptr);
  /// Orders nodes topologically, stable; a cycle is a ModelError that names its nodes.
  void sort();
  bool is_output(const Value* v) const;

  const std::vector<Node*>& nodes() const { return order_; }
  std::vector<Node*>& order() { return order_; }
  const std::vector<Value*>& values() const { return values_; }

  /// Deep copy; `map` receives old value -> new value.
  std::unique_ptr<Graph> clone(ValueMap* map = nullptr, Graph* parent = nullptr) const;
  /// Copies one node into this graph with inputs mapped through `map` (missing keys: the same value, for outer scope);
  /// extends `map` by its outputs. `names_are_free`: no value has the name of one of the outputs.
  Node* copy_node(const Node& n, ValueMap& map, bool names_are_free = false);
  /// Room for that many more.
  void reserve(size_t n_nodes, size_t n_values);

 private:
  void link(Node* n);
  static void hint_uses(Value* v);
  static void attach(Node* n, size_t i, Value* v);
  static void detach(Node* n, size_t i, Value* v);
  bool is_taken(std::string_view name) const;
  Value* make_value(std::string unique);
  Graph* parent_;
  Slab<Node> node_memory_;
  Slab<Value> value_memory_;
  std::vector<Node*> nodes_, order_;
  std::vector<Value*> values_;
  NameTable by_name_;
  std::unordered_map<std::string, int> name_counts_;
};

/// Structural check: order, arity of links, unique names, types of outputs. Throws ModelError naming `stage` and the
/// node.
void verify(const Graph& g, std::string_view stage);
/// The graph as ONNX text (weights beyond a few elements abbreviated).
std::string to_text(const Graph& g);

}  // namespace ortmod
