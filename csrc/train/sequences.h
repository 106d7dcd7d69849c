// Optimizer models as graphs of tensors: their sequences have known lengths.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// An element of a sequence, a tensor (kTensor), or all elements one after another as one flat tensor (kAll).
struct Element {
  static constexpr int64_t kTensor = -1, kAll = -2;
  std::string name;
  int64_t index = kTensor;
};

/// A graph as read from a file whose inputs and outputs that are sequences became tensors; `inputs` and `outputs` say
/// what the graph's are, in order. `elements` are the types of parameters and gradients; if the file's sequences of
/// them have another element type, they are cast. States have the element type that the file says.
struct Flat {
  std::unique_ptr<Graph> graph;
  std::vector<Element> inputs, outputs;
};
Flat flatten_sequences(std::unique_ptr<Graph> graph, const std::vector<Type>& elements);

/// Where pointwise operators update all of the `count` elements alike, flat tensors of `size` elements take their
/// place, so that one update does for all. Other graphs stay as they are.
void join_elements(Flat& flat, int64_t count, int64_t size);

}  // namespace ortmod
