// Sequences of an optimizer model, element by element.
#include "train/sequences.h"

#include <algorithm>
#include <map>

#include "passes/pass.h"

namespace ortmod {
namespace {

[[noreturn]] void odd(const std::string& what, const std::string& name) {
  fail(ErrorKind::kModel, "artifacts",
       what + " \"" + name +
           "\" of the optimizer model: expected SequenceAt at constant positions and SequenceConstruct");
}

}  // namespace

Flat flatten_sequences(std::unique_ptr<Graph> graph, const std::vector<Type>& elements) {
  Graph& g = *graph;
  Flat r;
  std::vector<Value*> inputs, outputs;
  for (Value* v : g.inputs) {
    if (v->type.kind == Kind::kTensor) {
      inputs.push_back(v);
      r.inputs.push_back({v->name});
      continue;
    }
    std::map<size_t, Value*> found;
    for (const Use& use : std::vector<Use>(v->uses)) {
      Node* n = use.node;
      const Value* at = n->in(1);
      if (!n->is("SequenceAt") || !at || !at->is_constant()) odd("input", v->name);
      const int64_t index = at->literal->to_ints().at(0);
      const auto i = static_cast<size_t>(index < 0 ? index + static_cast<int64_t>(elements.size()) : index);
      if (i >= elements.size())
        fail(ErrorKind::kModel, "artifacts",
             "the optimizer model reads element " + std::to_string(index) + " of \"" + v->name + "\": got " +
                 std::to_string(elements.size()) + " trainable parameters; use the artifacts of one call together");
      Value*& element = found[i];
      if (!element) {
        element = g.add_value(v->name + "[" + std::to_string(i) + "]", elements[i]);
      }
      g.replace_uses(n->out(), element);
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
      outputs.push_back(n->inputs[i]);
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
  prepare(g);
  r.graph = std::move(graph);
  return r;
}

}  // namespace ortmod
