// One node being replaced: the new nodes take its place in the order, its outputs keep their names.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

class Rewrite {
 public:
  /// Nodes added to `g` from now on stand where `n` stood (the caller rebuilds the order).
  Rewrite(Graph& g, Node& n) : g_(g), n_(n), in_(n.inputs), out_(n.outputs) {}

  Graph& graph() { return g_; }
  const Node& node() const { return n_; }
  int opset() const { return g_.opset(); }
  Value* in(size_t i = 0) const { return i < in_.size() ? in_[i] : nullptr; }
  Value* out(size_t i = 0) const { return i < out_.size() ? out_[i] : nullptr; }
  bool wants(size_t i) const { return out(i) && (!out(i)->uses.empty() || g_.is_output(out(i))); }
  bool done() const { return done_; }
  /// Takes the node out of the graph; call before adding nodes.
  void begin() {
    done_ = true;
    g_.remove(&n_);
  }
  Value* add(std::string_view op, Values in, Attrs attrs = {}) {
    Node* m = g_.add_node(intern(op), std::move(in), 1, std::move(attrs), part_name(op));
    m->metadata = n_.metadata;
    return m->out();
  }
  /// The node that computes output i; the first one has the old node's name.
  void finish(std::string_view op, Values in, Attrs attrs = {}, size_t i = 0) {
    const std::string name = finished_++ ? part_name(op) : n_.name;
    g_.add_node(intern(op), std::move(in), Values{out(i)}, std::move(attrs), name)->metadata = n_.metadata;
  }
  /// Output i is the value v.
  void alias(Value* v, size_t i = 0) {
    if (!out(i)) return;
    if (g_.is_output(out(i)))
      finish("Identity", {v}, {}, i);
    else
      g_.replace_uses(out(i), v);
  }
  Value* ints(const std::vector<int64_t>& v) { return g_.add_weight("", Literal::ints(v)); }
  /// An initializer `<node>.<suffix>`.
  Value* weight(const char* suffix, LiteralPtr l) {
    return g_.add_weight((n_.name.empty() && out() ? out()->name : n_.name) + "." + suffix, std::move(l));
  }

 private:
  /// `<node>/<op>`, then `<node>/<op>_2`: onnxruntime refuses two nodes of one name.
  std::string part_name(std::string_view op) {
    if (n_.name.empty()) return {};
    const int count = ++parts_[std::string(op)];
    return n_.name + "/" + std::string(op) + (count > 1 ? "_" + std::to_string(count) : "");
  }

  Graph& g_;
  Node& n_;
  Values in_, out_;
  std::unordered_map<std::string, int> parts_;
  int finished_ = 0;
  bool done_ = false;
};

/// Linear operators of ai.onnx.ml; false: not one of them, or a form that standard operators do not have.
bool lower_linear_ml(Rewrite& r);

/// Sequences whose elements are known values.
class Sequences {
 public:
  /// Rewrites a reader of a known sequence, remembers a maker of one (which stays for readers that are not known).
  bool visit(Rewrite& r);

 private:
  struct Known {
    bool listed = false;
    std::vector<Value*> elements;  // when listed
    Node* split = nullptr;         // else: of this SplitToSequence, whose sizes are not known
  };
  bool make(Rewrite& r);
  bool read(Rewrite& r);
  void split_elements(Rewrite& r, Known& k);
  std::unordered_map<const Value*, Known> known_;
};

}  // namespace ortmod
