// The structural check of a graph: order, links, names, literals.
#include "graph/graph.h"

namespace ortmod {
namespace {

/// Enclosing graphs with the position of the node that holds the sub-graph.
struct Outer {
  const Graph* graph;
  int index;
  const Outer* next;
};

class Verifier {
 public:
  explicit Verifier(std::string_view stage) : stage_(stage) {}

  void whole(const Graph& g) {
    graph(g, nullptr);
    if (slots_ != uses_)
      broken("values list " + std::to_string(uses_) + " uses, nodes read " + std::to_string(slots_) + " inputs");
  }

 private:
  void graph(const Graph& g, const Outer* outer) {
    names(g);
    const auto& order = g.nodes();
    for (size_t i = 0; i < order.size(); ++i) order[i]->mark = static_cast<int>(i);
    for (size_t i = 0; i < order.size(); ++i) {
      const Node& n = *order[i];
      if (n.graph != &g) broken("the node belongs to another graph or was removed", n);
      for (size_t k = 0; k < n.inputs.size(); ++k)
        if (n.inputs[k]) input(n, static_cast<int>(k), g, static_cast<int>(i), outer);
      for (size_t k = 0; k < n.outputs.size(); ++k)
        if (const Value* v = n.outputs[k];
            v && (v->producer != &n || v->output_index != static_cast<int>(k) || v->graph != &g))
          broken("output " + std::to_string(k) + " \"" + v->name + "\" is not linked to the node", n);
      const Outer here{&g, static_cast<int>(i), outer};
      for (const auto& [key, a] : n.attrs) {
        if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) sub_graph(**p, g, n, here);
        if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
          for (const auto& e : *q) sub_graph(*e, g, n, here);
        if (std::holds_alternative<AttrRef>(a))
          broken("attribute \"" + key + "\" refers to an attribute of a function", n);
      }
    }
    for (const Value* v : g.outputs)
      if (!v || !defined(v, g, static_cast<int>(order.size()), outer))
        broken("output \"" + (v ? v->name : "") + "\" is not computed");
  }

  [[noreturn]] void broken(const std::string& what) const { fail(ErrorKind::kModel, stage_, what); }
  [[noreturn]] void broken(const std::string& what, const Node& n, int in = -1) const {
    fail(ErrorKind::kModel, stage_, what, n, in);
  }

  void names(const Graph& g) {
    for (const Value* v : g.values()) {
      if (v->name.empty() || g.find(v->name) != v) broken("the name \"" + v->name + "\" is given to two values");
      if (v->graph != &g) broken("the value \"" + v->name + "\" belongs to another graph");
      uses_ += v->uses.size();
      for (const Use& u : v->uses)
        if (u.index < 0 || static_cast<size_t>(u.index) >= u.node->inputs.size() ||
            u.node->inputs[static_cast<size_t>(u.index)] != v)
          broken("the value \"" + v->name + "\" lists a use that is none");
    }
    for (const Value* w : g.weights) {
      if (!w->literal || w->producer) broken("the weight \"" + w->name + "\" has no tensor or is computed");
      if (w->literal->dtype() != w->type.dtype)
        broken("the weight \"" + w->name + "\" has another element type than its tensor");
    }
  }

  /// The body that a node of domain ortmod carries captures nothing: it is a graph of its own.
  void sub_graph(const Graph& s, const Graph& g, const Node& n, const Outer& here) {
    const bool body = n.op->domain == "ortmod" && !s.parent();
    if (!body && s.parent() != &g) broken("a sub-graph belongs to another graph", n);
    graph(s, body ? nullptr : &here);
  }

  bool defined(const Value* v, const Graph& g, int index, const Outer* outer) const {
    if (v->graph != &g) return outer && defined(v, *outer->graph, outer->index, outer->next);
    if (!v->producer) return true;
    const int at = v->producer->mark;
    return v->producer->graph == &g && at < index && g.nodes()[static_cast<size_t>(at)] == v->producer;
  }

  void input(const Node& n, int k, const Graph& g, int index, const Outer* outer) {
    if (!defined(n.inputs[static_cast<size_t>(k)], g, index, outer))
      broken("an input is not computed before the node", n, k);
    ++slots_;
  }

  std::string stage_;
  size_t slots_ = 0, uses_ = 0;
};

}  // namespace

void verify(const Graph& g, std::string_view stage) { Verifier(stage).whole(g); }

}  // namespace ortmod
