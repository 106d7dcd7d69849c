// A number for what a graph says.
#pragma once
#include <cstdint>

#include "graph/graph.h"

namespace ortmod {

/// The same for graphs whose text is the same, in every process.
uint64_t digest(const Graph& g);

}  // namespace ortmod
