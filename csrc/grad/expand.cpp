// Replacing nodes by their bodies of standard operators.
#include "grad/build.h"
#include "ops/op.h"

namespace ortmod {

bool expand_node(Graph& g, Node* n) {
  const OpDef* def = find_op(*n);
  if (!def || !def->body) return false;
  report_rules_of(*n);
  Builder b(g, infer_node, n->origin);
  b.set_source(n->source.empty() ? n->name : n->source);
  Grad view(*n, b, {}, {});
  const Grads out = def->body(view);
  for (size_t i = 0; i < n->outputs.size(); ++i) {
    Value* old = n->outputs[i];
    if (!old) continue;
    if (i >= out.size() || !out[i]) {
      if (old->uses.empty() && !g.is_output(old)) continue;
      fail(ErrorKind::kGradient, "expand", "the body gives no output " + std::to_string(i), *n);
    }
    Value* fresh = out[i].value();
    const std::string name = old->name;
    const bool is_new =
        fresh->producer && fresh->producer->graph == &g && !g.is_output(fresh) && fresh->name.starts_with("v_");
    if (g.is_output(old) && !is_new) fresh = unary("Identity", out[i]).value();
    if (is_new && old->type.has_rank) {  // what was known of the node's output stays known
      if (!fresh->type.has_rank) fresh->type = old->type;
      for (size_t k = 0; k < old->type.dims.size(); ++k)
        if (!is_known(fresh->type.dims[k]) && old->type.dims[k] != kAnyDim) fresh->type.dims[k] = old->type.dims[k];
    }
    g.replace_uses(old, fresh);
    if (g.is_output(fresh) || is_new) {
      g.rename(old, name + "_fused");
      g.rename(fresh, name);
    }
  }
  g.remove(n);
  return true;
}

void expand_bodies(Graph& g) {
  for (bool changed = true; changed;) {
    changed = false;
    const std::vector<Node*> nodes = g.nodes();
    for (Node* n : nodes) {
      if (n->op->domain != "ortmod") continue;
      if (!expand_node(g, n)) fail(ErrorKind::kGradient, "expand", "a node of domain ortmod has no body", *n);
      changed = true;
    }
    if (changed) {
      g.sort();
      std::erase_if(g.order(), [](const Node* n) { return n->graph == nullptr; });
    }
  }
  g.compact();
}

std::unique_ptr<Graph> body_of(const Node& n) {
  auto g = std::make_unique<Graph>();
  const Graph* root = n.graph;
  while (root->parent()) root = root->parent();
  g->opsets = root->opsets;
  g->ir_version = root->ir_version;
  g->name = n.op->name;
  ValueMap map;
  for (const Value* v : n.inputs) {
    if (!v || map.contains(v)) continue;
    map[v] = g->add_input(v->name, v->type);
    map[v]->literal = v->literal;  // a body may depend on constants
    map[v]->host = v->host;
  }
  Node* copy = g->copy_node(n, map);
  for (Value* v : copy->outputs)
    if (v) g->outputs.push_back(v);
  expand_bodies(*g);
  for (Value* v : g->inputs) v->literal = nullptr;
  return g;
}

}  // namespace ortmod
