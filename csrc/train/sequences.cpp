// Sequences of an optimizer model, element by element.
#include "train/sequences.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "ops/op.h"
#include "passes/pass.h"

namespace ortmod {
namespace {

[[noreturn]] void odd(const std::string& what, const std::string& name) {
  fail(ErrorKind::kModel, "artifacts",
       what + " \"" + name +
           "\" of the optimizer model: expected SequenceAt at constant positions and SequenceConstruct");
}

bool same(const Attrs& a, const Attrs& b) {
  const auto equal = [](const auto& x, const auto& y) {
    if (x.first != y.first || x.second.index() != y.second.index()) return false;
    if (const auto* i = std::get_if<int64_t>(&x.second)) return *i == std::get<int64_t>(y.second);
    if (const auto* d = std::get_if<double>(&x.second)) return *d == std::get<double>(y.second);
    return false;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

/// Compares how the first element and another one are updated.
class Twins {
 public:
  Twins(const std::unordered_map<const Value*, Element>& elements, int64_t other)
      : elements_(&elements), other_(other) {}

  bool alike(const Value* a, const Value* b) {
    if (!a || !b) return a == b;
    if (const auto known = twin_.find(a); known != twin_.end()) return known->second == b;
    const auto x = elements_->find(a), y = elements_->find(b);
    if (x != elements_->end() || y != elements_->end()) {
      if (x == elements_->end() || y == elements_->end() || x->second.name != y->second.name || x->second.index != 0 ||
          y->second.index != other_)
        return false;
    } else if (a == b) {
      return a->type.is_static() && numel(a->type.dims) == 1;
    } else {
      const Node *n = a->producer, *m = b->producer;
      if (!n || !m || n->op != m->op || n->version != m->version || n->inputs.size() != m->inputs.size() ||
          n->outputs.size() != 1 || !same(n->attrs, m->attrs))
        return false;
      const OpDef* def = find_op(*n);
      if (!def || def->pointwise == Pw{0}) return false;
      for (size_t i = 0; i < n->inputs.size(); ++i)
        if (!alike(n->inputs[i], m->inputs[i])) return false;
    }
    twin_.emplace(a, b);
    return true;
  }
  /// What belongs to the update of the first element alone.
  bool contains(const Value* a) const { return twin_.contains(a); }

 private:
  const std::unordered_map<const Value*, Element>* elements_;
  int64_t other_;
  std::unordered_map<const Value*, const Value*> twin_;
};

}  // namespace

void join_elements(Flat& flat, int64_t count, int64_t size) {
  if (count < 2) return;
  Graph& g = *flat.graph;
  constexpr std::string_view kPasses[] = {"simplify", "fold", "simplify", "cse", "dce"};
  optimise(g, {}, kPasses);
  std::unordered_map<const Value*, Element> elements;
  for (size_t i = 0; i < g.inputs.size(); ++i)
    if (flat.inputs[i].index >= 0) elements.emplace(g.inputs[i], flat.inputs[i]);
  std::map<std::string, std::vector<Value*>> updated;
  for (size_t i = 0; i < g.outputs.size(); ++i)
    if (flat.outputs[i].index >= 0) updated[flat.outputs[i].name].push_back(g.outputs[i]);
  Twins twins(elements, 0);
  for (int64_t other = 1; other < count; ++other) {
    twins = Twins(elements, other);
    for (const auto& [name, values] : updated)
      if (static_cast<int64_t>(values.size()) != count || !values[0]->producer ||
          !twins.alike(values[0], values[static_cast<size_t>(other)]))
        return;
  }
  ValueMap map;
  const std::vector<Value*> inputs = std::move(g.inputs);
  std::vector<Element> names = std::move(flat.inputs);
  g.inputs.clear();
  flat.inputs.clear();
  for (size_t i = 0; i < inputs.size(); ++i)
    if (names[i].index == 0 && twins.contains(inputs[i])) {
      map[inputs[i]] = g.add_input(names[i].name, Type(inputs[i]->type.dtype, Dims{size}));
      flat.inputs.push_back({names[i].name, Element::kAll});
    }
  for (Node* n : std::vector<Node*>(g.nodes()))
    if (n->out() && twins.contains(n->out())) infer_node(*g.copy_node(*n, map));
  std::vector<Value*> outputs;
  std::vector<Element> results;
  for (size_t i = 0; i < g.outputs.size(); ++i) {
    if (flat.outputs[i].index > 0) continue;
    const bool all = flat.outputs[i].index == 0;
    outputs.push_back(all ? map.at(g.outputs[i]) : g.outputs[i]);
    results.push_back({flat.outputs[i].name, all ? Element::kAll : Element::kTensor});
  }
  g.outputs = std::move(outputs);
  flat.outputs = std::move(results);
  const size_t fresh = g.inputs.size();
  g.inputs.insert(g.inputs.end(), inputs.begin(), inputs.end());  // kept until it is known who reads them
  optimise(g, {}, std::span(kPasses).last(1));
  g.inputs.resize(fresh);
  for (size_t i = 0; i < inputs.size(); ++i)
    if (!inputs[i]->uses.empty()) {
      g.inputs.push_back(inputs[i]);
      flat.inputs.push_back(names[i]);
    }
  g.compact();
}

Flat flatten_sequences(std::unique_ptr<Graph> graph, const std::vector<Type>& elements) {
  Graph& g = *graph;
  Flat r;
  std::vector<Value*> inputs, outputs;
  const auto cast = [&](Value* v, DType to) {
    return g.add_node(intern("Cast"), {v}, 1, {{"to", static_cast<int64_t>(to)}})->out();
  };
  for (Value* v : std::vector<Value*>(g.inputs)) {
    if (v->type.kind == Kind::kTensor) {
      inputs.push_back(v);
      r.inputs.push_back({v->name});
      continue;
    }
    const bool own = v->name == "params" || v->name == "gradients";
    const DType said = v->type.dtype;
    std::map<size_t, Value*> found, used;
    for (const Use& use : SmallVec<Use, 2>(v->uses)) {
      Node* n = use.node;
      const Value* at = n->in(1);
      if (!n->is("SequenceAt") || !at || !at->is_constant()) odd("input", v->name);
      const int64_t index = at->literal->to_ints().at(0);
      const auto i = static_cast<size_t>(index < 0 ? index + static_cast<int64_t>(elements.size()) : index);
      if (i >= elements.size())
        fail(ErrorKind::kModel, "artifacts",
             "the optimizer model reads element " + std::to_string(index) + " of \"" + v->name + "\": got " +
                 std::to_string(elements.size()) + " trainable parameters; use the artifacts of one call together");
      if (!found.contains(i)) {
        const Type type = own ? elements[i] : Type(said, elements[i].dims);
        found[i] = g.add_value(v->name + "[" + std::to_string(i) + "]", type);
        used[i] = type.dtype == said ? found[i] : cast(found[i], said);
      }
      g.replace_uses(n->out(), used[i]);
      g.remove(n);
    }
    for (const auto& [i, element] : found) {
      inputs.push_back(element);
      r.inputs.push_back({v->name, static_cast<int64_t>(i)});
    }
  }
  for (Value* v : g.outputs) {
    if (v->type.kind == Kind::kTensor) {
      outputs.push_back(v);
      r.outputs.push_back({v->name});
      continue;
    }
    const Node* n = v->producer;
    if (!n || !n->is("SequenceConstruct")) odd("output", v->name);
    for (size_t i = 0; i < n->inputs.size(); ++i) {
      const bool narrow = v->name == "updated_params" && i < elements.size() && elements[i].dtype != v->type.dtype;
      outputs.push_back(narrow ? cast(n->inputs[i], elements[i].dtype) : n->inputs[i]);
      r.outputs.push_back({v->name, static_cast<int64_t>(i)});
    }
  }
  std::vector<Node*> made;
  for (Value* v : g.outputs)
    if (v->type.kind != Kind::kTensor) made.push_back(v->producer);
  g.inputs = std::move(inputs);
  g.outputs = std::move(outputs);
  for (Node* n : made) g.remove(n);
  g.compact();
  g.sort();
  prepare(g);
  r.graph = std::move(graph);
  return r;
}

}  // namespace ortmod
