// Canonical form: the walk, and the small cases.
#include "graph/canon.h"

#include <algorithm>

#include "graph/rewrite.h"

namespace ortmod {
namespace {

bool cast_like(Rewrite& r) {
  if (!r.node().is("CastLike") || !r.in(1) || r.in(1)->type.dtype == DType::kUndefined) return false;
  Attrs attrs = r.node().attrs;
  attrs.emplace_back("to", static_cast<int64_t>(r.in(1)->type.dtype));
  r.begin();
  r.finish("Cast", {r.in()}, std::move(attrs));
  return true;
}

/// If with a constant condition: the nodes of the branch take its place.
bool constant_if(Rewrite& r) {
  if (!r.node().is("If") || !r.in() || !r.in()->is_constant() || r.in()->literal->numel() != 1) return false;
  const Attr* a = r.node().find(r.in()->literal->at(0) != 0 ? "then_branch" : "else_branch");
  const auto* p = a ? std::get_if<std::shared_ptr<Graph>>(a) : nullptr;
  if (!p) fail(ErrorKind::kModel, "import", "a branch is missing", r.node());
  const std::shared_ptr<Graph> branch = *p;
  size_t n_out = 0;
  while (r.out(n_out)) ++n_out;
  if (branch->outputs.size() < n_out || !branch->inputs.empty())
    fail(ErrorKind::kModel, "import", "the branch has the wrong number of inputs or outputs", r.node());
  ValueMap map;
  for (const Value* w : branch->weights) {
    Value* copy = r.graph().add_weight(w->name, w->literal);
    copy->metadata = w->metadata;
    map[w] = copy;
  }
  for (const Node* m : branch->nodes()) r.graph().copy_node(*m, map);
  r.begin();
  for (size_t i = 0; i < n_out; ++i) {
    Value* const* copy = map.find(branch->outputs[i]);
    r.alias(copy ? *copy : branch->outputs[i], i);
  }
  return true;
}

bool optional(Rewrite& r) {
  const Node& n = r.node();
  const Node* maker = r.in() ? r.in()->producer : nullptr;
  const bool made = maker && maker->is("Optional");
  const bool tensor = r.in() && r.in()->type.dtype != DType::kUndefined && r.in()->type.kind != Kind::kOptional &&
                      r.in()->type.kind != Kind::kOptionalSequence;
  if (n.is("OptionalGetElement") && ((made && maker->in(0)) || (!made && tensor))) {
    Value* v = made ? maker->in(0) : r.in();
    r.begin();
    r.alias(v);
    return true;
  }
  if (n.is("OptionalHasElement") && (!r.in() || made || tensor)) {
    const bool has = r.in() && (!made || maker->in(0));
    r.begin();
    r.alias(r.graph().add_weight(r.out()->name + ".value", Literal::scalar(DType::kBool, has)));
    return true;
  }
  return false;
}

bool is_maker(const Node& n) {
  return n.is("SplitToSequence") || n.is("SequenceConstruct") || n.is("SequenceInsert") || n.is("SequenceErase") ||
         n.is("SequenceEmpty") || n.is("Optional");
}

void walk(Graph& g) {
  std::vector<Node*> old;
  old.swap(g.order());
  g.order().reserve(old.size());
  Sequences sequences;
  for (size_t i = 0; i < old.size(); ++i) {
    Node* n = old[i];
    Rewrite r(g, *n);
    const size_t before = g.order().size();
    if (cast_like(r) || optional(r) || sequences.visit(r) || lower_linear_ml(r)) continue;
    if (constant_if(r)) {  // what was copied is looked at in its turn
      const std::vector<Node*> copied(g.order().begin() + static_cast<std::ptrdiff_t>(before), g.order().end());
      g.order().resize(before);
      old.erase(old.begin(), old.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      old.insert(old.begin(), copied.begin(), copied.end());
      i = static_cast<size_t>(-1);
      continue;
    }
    g.order().push_back(n);
    for (auto& [key, a] : n->attrs) {
      if (auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) walk(**p);
      if (auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
        for (auto& e : *q) walk(*e);
    }
  }
  for (size_t i = g.order().size(); i-- > 0;) {
    Node* n = g.order()[i];
    if (is_maker(*n) && n->out() && n->out()->uses.empty() && !g.is_output(n->out())) g.remove(n);
  }
  g.order().erase(std::remove_if(g.order().begin(), g.order().end(), [](const Node* n) { return n->graph == nullptr; }),
                  g.order().end());
}

}  // namespace

LiteralPtr constant_value(std::string_view key, const Attr& value) {
  const auto of = [&]<class T>(std::string_view name, const T*) {
    return key == name ? std::get_if<T>(&value) : nullptr;
  };
  if (const auto* l = of("value", static_cast<LiteralPtr*>(nullptr))) return *l;
  if (const auto* l = of("sparse_value", static_cast<LiteralPtr*>(nullptr))) return *l;
  if (const auto* i = of("value_int", static_cast<int64_t*>(nullptr)))
    return Literal::copy(DType::kInt64, {}, i, sizeof *i);
  if (const auto* f = of("value_float", static_cast<double*>(nullptr))) return Literal::scalar(DType::kFloat, *f);
  if (const auto* s = of("value_string", static_cast<std::string*>(nullptr))) return Literal::strings({}, {*s});
  if (const auto* list = of("value_ints", static_cast<std::vector<int64_t>*>(nullptr))) return Literal::ints(*list);
  if (const auto* list = of("value_floats", static_cast<std::vector<double>*>(nullptr))) {
    const std::vector<float> f(list->begin(), list->end());
    return Literal::copy(DType::kFloat, Dims{static_cast<Dim>(f.size())}, f.data(), f.size() * sizeof(float));
  }
  if (const auto* list = of("value_strings", static_cast<std::vector<std::string>*>(nullptr)))
    return Literal::strings(Dims{static_cast<Dim>(list->size())}, *list);
  return nullptr;
}

void canonicalise(Graph& g) {
  walk(g);
  g.compact();
}

}  // namespace ortmod
