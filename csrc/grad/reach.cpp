// How far gradients get, and what stops them.
#include "grad/build.h"
#include "grad/custom.h"
#include "ops/op.h"

namespace ortmod {

std::string gradient_support(const Node& n) {
  if (custom_gradient(n)) return "yes";
  const OpDef* def = find_op(n);
  if (!def)
    return n.op->domain.empty() ? "unsupported operator" : "no gradient rule (ortmod.register_gradient gives one)";
  if (def->grad == no_grad) return "zero";
  if (def->grad || def->body) return "yes";
  return "no gradient rule";
}

namespace {

bool carries(const Value& v) { return is_float(v.type.dtype) || v.type.kind != Kind::kTensor; }

/// Why no gradient comes back to `start`: the last obstacle on its ways.
std::string obstacle(const Value& start, const ValueSet& useful) {
  ValueSet seen{&start};
  std::vector<const Value*> todo{&start};
  std::string reason;
  while (!todo.empty()) {
    const Value* v = todo.back();
    todo.pop_back();
    for (const Use& u : v->uses) {
      const Node& n = *u.node;
      const std::string support = gradient_support(n);
      bool any_useful = false, any_float = false;
      for (const Value* o : n.outputs) {
        if (!o || !useful.contains(o)) continue;
        any_useful = true;
        if (!carries(*o)) continue;
        any_float = true;
        if (support == "yes" && seen.insert(o)) todo.push_back(o);
      }
      if (!any_useful) continue;
      if (support == "zero")
        reason = "stopped by an operator whose gradient is zero" + where(n);
      else if (support != "yes")
        reason = support + where(n);
      else if (!any_float)
        reason = "stopped by an operator whose output is not a float" + where(n);
    }
  }
  if (!reason.empty()) return reason;
  return start.uses.empty() ? "nothing uses it" : "no output depends on it";
}

}  // namespace

std::vector<Reach> explain_reach(const Graph& g, const std::vector<std::string>& wrt) {
  // `live`: a gradient comes back to the value; `useful`: an output depends on it.
  ValueSet useful(g.outputs.begin(), g.outputs.end()), live;
  for (const Value* v : g.outputs)
    if (is_float(v->type.dtype)) live.insert(v);
  for (auto it = g.nodes().rbegin(); it != g.nodes().rend(); ++it) {
    bool any_useful = false, any_live = false;
    for (const Value* v : (*it)->outputs) {
      any_useful = any_useful || (v && useful.contains(v));
      any_live = any_live || (v && live.contains(v));
    }
    any_live = any_live && gradient_support(**it) == "yes";
    for (size_t i = 0; i < (*it)->inputs.size(); ++i) {
      const Value* v = (*it)->inputs[i];
      if (!v) continue;
      if (any_useful) useful.insert(v);
      if (any_live && carries(*v) && returns_gradient(**it, i)) live.insert(v);
    }
  }
  std::vector<Reach> result;
  for (const std::string& name : wrt) {
    const Value* v = g.find(name);
    if (!v) {
      result.push_back({name, false, "no such value"});
    } else if (live.contains(v)) {
      result.push_back({name, true, ""});
    } else {
      result.push_back({name, false, obstacle(*v, useful)});
    }
  }
  return result;
}

}  // namespace ortmod
