// Visiting the sub-graphs of a node.
#pragma once
#include "graph/graph.h"

namespace ortmod {

template <class F>
void each_subgraph(Node& n, F&& visit) {
  for (auto& [key, a] : n.attrs) {
    if (auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) visit(**p);
    if (auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (auto& e : *q) visit(*e);
  }
}

inline bool has_subgraph(Node& n) {
  bool any = false;
  each_subgraph(n, [&](Graph&) { any = true; });
  return any;
}

}  // namespace ortmod
