// Dead code: nodes that no output depends on.
#include <algorithm>

#include "passes/pass.h"

namespace ortmod {

int dce(Graph& g, const PassContext&) {
  std::unordered_set<const Value*> wanted(g.outputs.begin(), g.outputs.end());
  const std::vector<Node*> nodes = g.nodes();
  int removed = 0;
  const auto want_captured = [&](const Node& n, const auto& self) -> void {
    for (const auto& [key, a] : n.attrs) {
      const auto inner = [&](const Graph& s) {
        for (const Value* v : s.outputs) wanted.insert(v);
        for (const Node* m : s.nodes()) {
          for (const Value* v : m->inputs)
            if (v) wanted.insert(v);
          self(*m, self);
        }
      };
      if (const auto* s = std::get_if<std::shared_ptr<Graph>>(&a)) inner(**s);
      if (const auto* list = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
        for (const auto& s : *list) inner(*s);
    }
  };
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    Node* n = *it;
    const bool any = std::any_of(n->outputs.begin(), n->outputs.end(), [&](const Value* v) { return v && wanted.contains(v); });
    if (!any) {
      g.remove(n);
      ++removed;
      continue;
    }
    for (const Value* v : n->inputs)
      if (v) wanted.insert(v);
    want_captured(*n, want_captured);
  }
  g.compact();
  return removed;
}

}  // namespace ortmod
