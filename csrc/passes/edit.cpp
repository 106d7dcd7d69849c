// Edits of a model that a user asks for: ties, copies, another float type.
#include "passes/edit.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "ops/kernel.h"

namespace ortmod {

namespace {

Value* weight_named(Graph& g, const std::string& name, const char* argument) {
  Value* v = g.find(name);
  if (!v || !v->is_constant())
    fail(ErrorKind::kModel, "import",
         std::string(argument) + ": got \"" + name + "\", expected the name of an initializer");
  return v;
}

LiteralPtr converted(const LiteralPtr& literal, DType dtype) {
  if (!literal || !is_float(literal->dtype()) || literal->dtype() == dtype) return literal;
  std::vector<int64_t> dims(literal->dims().begin(), literal->dims().end());
  at::Tensor from = at::from_blob(const_cast<void*>(literal->data()), dims, to_scalar_type(literal->dtype()));
  auto to = std::make_shared<at::Tensor>(from.to(to_scalar_type(dtype)).contiguous());
  return std::make_shared<Literal>(dtype, literal->dims(), to, to->const_data_ptr(), to->nbytes());
}

template <class F>
void for_each_subgraph(Node& n, const F& f) {
  for (auto& [key, attr] : n.attrs) {
    if (auto* one = std::get_if<std::shared_ptr<Graph>>(&attr)) f(**one);
    if (auto* many = std::get_if<std::vector<std::shared_ptr<Graph>>>(&attr))
      for (auto& g : *many) f(*g);
  }
}

}  // namespace

void untie(Graph& g, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    Value* v = weight_named(g, name, "untie");
    const SmallVec<Use, 2> uses = v->uses;
    for (size_t i = 1; i < uses.size(); i++) {
      Value* copy = g.add_weight(name, v->literal);
      copy->type = v->type;
      uses[i].node->graph->set_input(uses[i].node, uses[i].index, copy);
    }
  }
}

void tie(Graph& g, const std::vector<std::vector<std::string>>& groups) {
  for (const auto& group : groups) {
    if (group.empty()) continue;
    Value* first = weight_named(g, group[0], "tie");
    for (size_t i = 1; i < group.size(); i++) {
      Value* other = weight_named(g, group[i], "tie");
      if (other == first) continue;
      if (!(other->literal->dims() == first->literal->dims()) || other->literal->dtype() != first->literal->dtype())
        fail(ErrorKind::kShape, "import",
             "tie: got " + to_string(other->literal->type()) + " \"" + group[i] + "\", expected " +
                 to_string(first->literal->type()) + " as of \"" + group[0] + "\"");
      g.replace_uses(other, first);
      g.weights.erase(std::remove(g.weights.begin(), g.weights.end(), other), g.weights.end());
    }
  }
  g.compact();
}

namespace {

/// One change of float type, `from` to `to`, in a graph and those inside it.
class Retype {
 public:
  Retype(DType from, DType to, const std::unordered_set<std::string>& tensors)
      : from_(from), to_(to), tensors_(tensors) {}

  void run(Graph& g) const {
    for (Value* v : g.inputs) {
      const DType old = v->type.dtype;
      if (!is_float(old)) continue;
      v->type.dtype = to_;
      v->literal = converted(v->literal, to_);
      if (old != from_) keep_for_readers(g, v, old);
    }
    const std::vector<Value*> weights = g.weights;
    for (Value* v : weights) {
      if (!v->literal || !is_float(v->literal->dtype())) continue;
      const DType old = v->literal->dtype();
      if (old != from_ && !tensors_.contains(v->name)) continue;
      v->literal = converted(v->literal, to_);
      if (is_float(v->type.dtype)) v->type.dtype = to_;
      if (old != from_) keep_for_readers(g, v, old);
    }
    for (Node* n : g.nodes()) {
      for (auto& [key, attr] : n->attrs) {
        if (auto* literal = std::get_if<LiteralPtr>(&attr); literal && *literal && (*literal)->dtype() == from_)
          *literal = converted(*literal, to_);
        if (auto* number = std::get_if<int64_t>(&attr);
            number && *number == static_cast<int64_t>(from_) && names_type(key))
          *number = static_cast<int64_t>(to_);
      }
      for_each_subgraph(*n, [&](Graph& sub) { run(sub); });
      for (Value* o : n->outputs)
        if (o) o->type = Type();
    }
  }

 private:
  static bool names_type(const std::string& attribute) {
    return attribute == "to" || attribute == "dtype" || attribute == "output_datatype";
  }

  /// What the graph computes in another float type goes on in that: its readers get a Cast.
  void keep_for_readers(Graph& g, Value* v, DType old) const {
    const SmallVec<Use, 2> uses = v->uses;
    Value* cast = nullptr;
    for (const Use& use : uses) {
      if (use.node->is("Cast") || use.node->is("CastLike")) continue;
      if (!cast) {
        Node* n = g.add_node(intern("Cast"), {v}, 1, {{"to", static_cast<int64_t>(old)}});
        cast = n->out();
        std::vector<Node*>& order = g.order();
        order.insert(order.begin(), n);
        order.pop_back();
      }
      use.node->graph->set_input(use.node, use.index, cast);
    }
  }

  const DType from_, to_;
  const std::unordered_set<std::string>& tensors_;
};

}  // namespace

void to_dtype(Graph& g, DType from, DType to, const std::unordered_set<std::string>& tensors) {
  Retype(from, to, tensors).run(g);
}

bool is_modal(const Graph& g) {
  bool modal = false;
  for (Node* n : g.nodes()) {
    modal = modal || n->is("BatchNormalization") || n->is("Dropout");
    for_each_subgraph(*n, [&](Graph& sub) { modal = modal || is_modal(sub); });
  }
  return modal;
}

}  // namespace ortmod
