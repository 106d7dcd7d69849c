// Graph -> better graph: the list of passes and the one gate that they go through.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

struct PassContext {
  /// Values that may change between calls (parameters, buffers): never folded, though they have a literal.
  ValueSet variable;
  bool is_fixed(const Value* v) const { return v && v->is_constant() && !variable.contains(v); }
};

/// Returns the number of changes. Linear in the size of the graph.
using PassFn = int (*)(Graph&, const PassContext&);
struct Pass {
  std::string_view name;
  PassFn run;
  std::string_view says;  // one line for people
};
struct PassReport {
  std::string_view name;
  double seconds = 0;
  int changes = 0;
  size_t nodes = 0;  // after it
  bool skipped = false;
};

std::span<const Pass> all_passes();
/// Runs the list `names` (empty: the standard list) through the gate:
/// ORTMOD_DISABLE=a,b skips passes; ORTMOD_STOP_AFTER=n stops after n; ORTMOD_DUMP=dir writes
/// `dir/<run>_<nn>_<pass>.onnxtxt`; ORTMOD_VERIFY=1 (always in debug builds) verifies after each.
std::vector<PassReport> optimise(Graph& g, const PassContext& context = {},
                                 std::span<const std::string_view> names = {});

/// Types of all values by infer_node; a declared type that contradicts the inferred one is a ModelError (outputs) that
/// names the node.
void infer_all(Graph& g);
/// Every operator without an entry in one UnsupportedOpError, with the names of the nodes.
void check_supported(const Graph& g, bool foreign = false);
/// What follows from_bytes: canonicalise, check_supported, infer_all, verify. `foreign`: operators of other domains
/// that are not known here may stay, when the types of their outputs are declared.
void prepare(Graph& g, bool foreign = false);

int fold(Graph& g, const PassContext& c);
int cse(Graph& g, const PassContext& c);
int dce(Graph& g, const PassContext& c);
int simplify(Graph& g, const PassContext& c);
int fuse_matmul(Graph& g, const PassContext& c);
int fuse_pointwise(Graph& g, const PassContext& c);

}  // namespace ortmod
