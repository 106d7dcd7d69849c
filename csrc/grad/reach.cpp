// How far gradients get, and what stops them.
#include "grad/build.h"
#include "grad/custom.h"
#include "ops/op.h"

namespace ortmod {

std::string gradient_support(const Node& n) {
  if (custom_gradient(n.op)) return "yes";
  const OpDef* def = find_op(n);
  if (!def) return "unsupported operator";
  if (def->grad == no_grad) return "zero";
  if (def->grad || def->body) return "yes";
  return "no gradient rule";
}

std::vector<Reach> explain_reach(const Graph& g, const std::vector<std::string>& wrt) {
  std::unordered_set<const Value*> useful(g.outputs.begin(), g.outputs.end());
  for (auto it = g.nodes().rbegin(); it != g.nodes().rend(); ++it) {
    bool any = false;
    for (const Value* v : (*it)->outputs) any = any || (v && useful.contains(v));
    if (any)
      for (const Value* v : (*it)->inputs)
        if (v) useful.insert(v);
  }
  std::vector<Reach> result;
  for (const std::string& name : wrt) {
    Reach r{name, false, ""};
    const Value* start = g.find(name);
    if (!start) {
      r.reason = "no such value";
      result.push_back(r);
      continue;
    }
    std::unordered_set<const Value*> seen{start};
    std::vector<const Value*> todo{start};
    while (!todo.empty() && !r.reached) {
      const Value* v = todo.back();
      todo.pop_back();
      if (g.is_output(v) && is_float(v->type.dtype)) r.reached = true;
      for (const Use& u : v->uses) {
        const Node& n = *u.node;
        const std::string support = gradient_support(n);
        bool any_useful = false, any_float = false;
        for (const Value* o : n.outputs) {
          if (!o || !useful.contains(o)) continue;
          any_useful = true;
          if (!is_float(o->type.dtype) && o->type.kind == Kind::kTensor) continue;
          any_float = true;
          if (support == "yes" && seen.insert(o).second) todo.push_back(o);
        }
        if (!any_useful) continue;
        if (support == "zero") r.reason = "stopped by an operator whose gradient is zero" + where(n);
        else if (support != "yes") r.reason = support + where(n);
        else if (!any_float) r.reason = "stopped by an operator whose output is not a float" + where(n);
      }
    }
    if (r.reached) r.reason.clear();
    if (!r.reached && r.reason.empty()) r.reason = start->uses.empty() ? "nothing uses it" : "no output depends on it";
    result.push_back(r);
  }
  return result;
}

}  // namespace ortmod
