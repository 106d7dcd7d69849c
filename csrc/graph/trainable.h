// Which weights of a graph are parameters: the default rule, with its reasons.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

struct WeightChoice {
  std::string name;
  bool trainable = false;
  std::string reason;                  // one line for people
  std::string role;                    // "weight", "bias", "scale", "table", "running statistic", "constant", ...
  std::vector<std::string> consumers;  // names of the nodes that read it
  bool merged =
      false;  // one tensor of constant content with several roles or consumers: the exporter merged equal ones
};

/// One entry per initializer of the canonicalised graph, in order. Where the exporter wrote the kind, that decides;
/// else the operand rule. A merged weight is not trainable by default (`reason` says how to train it).
std::vector<WeightChoice> choose_trainable(const Graph& g);

}  // namespace ortmod
