// Dead code: nodes that no output depends on, in the graph and in its sub-graphs.
#include "passes/pass.h"
#include "passes/walk.h"

namespace ortmod {
namespace {

enum Mark { kDead = 0, kLive = 1 };

void each_graph(Graph& g, const auto& visit) {
  visit(g);
  for (Node* n : g.nodes()) each_subgraph(*n, [&](Graph& s) { each_graph(s, visit); });
}

}  // namespace

int dce(Graph& g, const PassContext& c) {
  each_graph(g, [](Graph& s) {
    for (Node* n : s.nodes()) n->mark = kDead;
  });
  std::vector<Node*> todo;
  const auto want = [&](const Value* v) {
    if (!v || !v->producer || v->producer->mark == kLive) return;
    v->producer->mark = kLive;
    todo.push_back(v->producer);
  };
  for (const Value* v : g.outputs) want(v);
  while (!todo.empty()) {
    Node* n = todo.back();
    todo.pop_back();
    for (const Value* v : n->inputs) want(v);
    each_subgraph(*n, [&](const Graph& s) {
      for (const Value* v : s.outputs) want(v);
    });
  }
  int removed = 0;
  each_graph(g, [&](const Graph& s) {
    for (const Node* n : s.nodes()) removed += n->mark == kDead;
  });
  if (!removed) {
    each_graph(g, [&](Graph& s) { s.compact(&c.variable); });
    return 0;
  }
  each_graph(g, [&](Graph& s) {
    for (Value* v : s.values()) Graph::forget_uses(v, [](const Use& u) { return u.node->mark == kDead; });
  });
  each_graph(g, [&](Graph& s) {
    std::vector<Node*> live;
    live.reserve(s.nodes().size());
    for (Node* n : s.nodes()) {
      if (n->mark == kLive) live.push_back(n);
    }
    for (Node* n : s.nodes())
      if (n->mark == kDead) s.drop(n);
    s.order() = std::move(live);
    s.compact(&c.variable);
  });
  return removed;
}

}  // namespace ortmod
