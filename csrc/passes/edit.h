// Edits of a model that a user asks for: ties, copies, another float type.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// Gives each use of the weights `names` its own copy: `name`, `name_2`, ...
void untie(Graph& g, const std::vector<std::string>& names);
/// Makes one weight, the first, of each group; types must agree.
void tie(Graph& g, const std::vector<std::vector<std::string>>& groups);
/// Converts float weights, float constants in attributes and the types of float inputs; explicit Casts stay. Types must
/// be inferred again.
void to_dtype(Graph& g, DType dtype);
/// True when train and eval can differ: the graph or a sub-graph has BatchNormalization or Dropout.
bool is_modal(const Graph& g);

}  // namespace ortmod
