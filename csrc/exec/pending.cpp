// Until the passes and modes are there: identity. Weak, so that they win.
#include "graph/canon.h"
#include "graph/mode.h"
#include "graph/trainable.h"
#include "ops/op.h"
#include "passes/pass.h"

namespace ortmod {

__attribute__((weak)) std::vector<PassReport> optimise(Graph&, const PassContext&, std::span<const std::string_view>) { return {}; }
__attribute__((weak)) std::vector<BufferUpdate> set_training(Graph&, bool) { return {}; }
__attribute__((weak)) void canonicalise(Graph&) {}
__attribute__((weak)) void infer_all(Graph& g) {
  for (Node* n : g.order()) infer_node(*n);
}
__attribute__((weak)) std::vector<WeightChoice> choose_trainable(const Graph& g) {
  std::vector<WeightChoice> r;
  for (const Value* v : g.weights) {
    WeightChoice c;
    c.name = v->name;
    c.trainable = is_float(v->type.dtype) && v->type.rank() >= 1;
    r.push_back(std::move(c));
  }
  return r;
}
__attribute__((weak)) void check_supported(const Graph&) {}
__attribute__((weak)) void prepare(Graph& g) {
  for (Node* n : g.order()) infer_node(*n);
}

}  // namespace ortmod
