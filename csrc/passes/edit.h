// Edits of a model that a user asks for: ties, copies, another float type.
#pragma once
#include <string>
#include <unordered_set>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// Gives each use of the weights `names` its own copy: `name`, `name_2`, ...
void untie(Graph& g, const std::vector<std::string>& names);
/// Makes one weight, the first, of each group; types must agree.
void tie(Graph& g, const std::vector<std::vector<std::string>>& groups);
/// Computes in the float type `to` what was computed in `from`: weights, constants, Casts to it and other attributes
/// that name it. Inputs, and the weights `tensors`, are all of type `to` afterwards; where they were of a third type,
/// their readers get a Cast to that. Types must be inferred again.
void to_dtype(Graph& g, DType from, DType to, const std::unordered_set<std::string>& tensors);
/// True when train and eval can differ: the graph or a sub-graph has BatchNormalization or Dropout.
bool is_modal(const Graph& g);

}  // namespace ortmod
