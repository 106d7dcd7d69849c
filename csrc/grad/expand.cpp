// Replacing nodes by their bodies of standard operators.
#include "grad/build.h"
#include "ops/op.h"

namespace ortmod {

namespace {

/// `v` is computed in place of `old`, in whatever reads either; the name and the place among the outputs stay.
void take_over(Graph& g, Value* old, Value* v) {
  if (old->type.has_rank) {  // what was known of the node's output stays known
    if (!v->type.has_rank) v->type = old->type;
    for (size_t k = 0; k < old->type.dims.size(); ++k)
      if (!is_known(v->type.dims[k]) && old->type.dims[k] != kAnyDim) v->type.dims[k] = old->type.dims[k];
  }
  old->type = v->type;
  old->host = v->host;
  g.exchange(old, v);
  g.redirect(v, old);
}

}  // namespace

bool expand_node(Graph& g, Node* n, const ValueSet& outputs) {
  const OpDef* def = find_op(*n);
  if (!def || !def->body) return false;
  report_rules_of(*n);
  Builder b(g, infer_node, n->origin);
  b.set_source(n->source.empty() ? n->name : n->source);
  Grad view(*n, b, {}, {});
  const auto first = static_cast<std::ptrdiff_t>(g.nodes().size());
  const Grads out = def->body(view);
  const NodeSet made(g.nodes().begin() + first, g.nodes().end());
  ValueMap taken;  // a value of the body -> the output that it has become
  for (size_t i = 0; i < n->outputs.size(); ++i) {
    Value* old = n->outputs[i];
    if (!old) continue;
    if (i >= out.size() || !out[i]) {
      if (old->uses.empty() && !outputs.contains(old)) continue;
      fail(ErrorKind::kGradient, "expand", "the body gives no output " + std::to_string(i), *n);
    }
    Value* v = out[i].value();
    if (Value* const* became = taken.find(v))
      v = *became;
    else if (v->producer && made.contains(v->producer)) {
      taken[v] = old;
      take_over(g, old, v);
      continue;
    }
    if (outputs.contains(old)) {
      take_over(g, old, unary("Identity", b.wrap(v)).value());
    } else {
      g.redirect(old, v);
    }
  }
  g.remove(n);
  return true;
}

void expand_bodies(Graph& g) {
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  for (bool changed = true; changed;) {
    changed = false;
    const std::vector<Node*> nodes = g.nodes();
    for (Node* n : nodes) {
      if (n->op->domain != "ortmod") continue;
      if (!expand_node(g, n, outputs)) fail(ErrorKind::kGradient, "expand", "a node of domain ortmod has no body", *n);
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
