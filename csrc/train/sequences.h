// Optimizer models as graphs of tensors: their sequences have known lengths.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// An element of a sequence, or a tensor (index -1).
struct Element {
  std::string name;
  int64_t index = -1;
};

/// A graph as read from a file whose inputs and outputs that are sequences became tensors of the types `elements`.
/// `inputs` and `outputs` say what the graph's are, in order.
struct Flat {
  std::unique_ptr<Graph> graph;
  std::vector<Element> inputs, outputs;
};
Flat flatten_sequences(std::unique_ptr<Graph> graph, const std::vector<Type>& elements);

}  // namespace ortmod
