// Cutting a joint graph into forward and backward, with as few kept values as possible.
#include <algorithm>

#include "grad/build.h"
#include "ops/op.h"

namespace ortmod {
namespace {

/// What is known of a value, as bits of its mark.
enum : int {
  kArgument = 1,  // a weight that the caller hands in
  kInput = 2,     // an input of the joint graph
  kOutput = 4,    // an output of the base graph
  kLate = 8,      // depends on a seed
  kWanted = 16,   // backward needs its elements
  kKept = 32,     // ... and finds them among the kept values
  kRead = 64,     // ... or among the arguments and outputs of forward
  kShape = 128,   // backward needs its shape
};
/// Of nodes.
enum : int { kForward = 1, kBackward = 2 };

/// Forward and backward are told apart by walks in the order of the graph. Forward is copied; what is left of the joint
/// graph is backward.
class Cutter {
 public:
  Cutter(Joint j, const std::vector<std::string>& arguments) : j_(std::move(j)), g_(*j_.graph) {
    for (Value* v : g_.values()) v->mark = 0;
    for (Value* v : g_.inputs) v->mark |= kInput;
    for (const std::string& name : arguments)
      if (Value* v = g_.find(name)) v->mark |= kArgument;
    for (size_t i = 0; i < j_.num_outputs; ++i) g_.outputs[i]->mark |= kOutput;
    for (Value* v : j_.seeds) v->mark |= kLate;
    for (Node* n : g_.nodes()) {
      n->mark = 0;
      if (std::any_of(n->inputs.begin(), n->inputs.end(), [](const Value* v) { return is(v, kLate); }))
        for (Value* o : n->outputs)
          if (o) o->mark |= kLate;
    }
  }

  Split cut() {
    plan_backward();
    list();
    Split s;
    s.forward = copy_forward();
    for (const Value* v : kept_) s.kept.push_back(v->name);
    for (const Shape& shape : shapes_) s.kept.push_back(shape.name);
    for (const std::string& name : s.kept) s.forward->outputs.push_back(s.forward->find(name));
    for (const Value* v : reads_) s.reads.push_back(v->name);
    make_backward();
    s.backward = std::move(j_.graph);
    return s;
  }

 private:
  struct Shape {
    Value* of;
    std::string name;
    Type type;
    HostIntsPtr host;
  };

  static bool is(const Value* v, int bits) { return v && (v->mark & bits) != 0; }
  static bool is_arg(const Value* v) { return !v->producer && (!v->literal || is(v, kArgument | kInput)); }

  static bool reads_shape(const Node& n, size_t i) {
    const OpDef* def = find_op(n);
    return def && i < 32 && (def->shape_inputs >> i & 1);
  }
  static bool reads_only_shapes(const Node& n) {
    for (size_t i = 0; i < n.inputs.size(); ++i)
      if (!reads_shape(n, i)) return false;
    return !n.inputs.empty();
  }

  /// Backward computes it again from something it has anyway, at no cost in memory.
  static bool recomputed(const Value* v) {
    const Node* n = v->producer;
    if (n->origin == Origin::kGradient && !reads_only_shapes(*n)) return true;
    if (is(v, kOutput)) return false;
    const OpDef* def = find_op(*n);
    return def && def->alias >= 0 && is_float(v->type.dtype);
  }
  static bool computed_in_backward(const Value* v) { return is(v, kLate) || (!is(v, kOutput) && recomputed(v)); }

  static void want(Value* v) {
    v->mark |= kWanted;
    if (!v->producer && is_arg(v) && !is(v, kLate)) v->mark |= kRead;
  }

  void plan_backward() {
    for (Value* v : j_.grads) want(v);
    for (auto it = g_.nodes().rbegin(); it != g_.nodes().rend(); ++it) {
      Node& n = **it;
      bool back = false;
      for (const Value* v : n.outputs) back = back || (is(v, kWanted) && computed_in_backward(v));
      if (!back) {
        for (Value* v : n.outputs)
          if (is(v, kWanted)) v->mark |= is(v, kOutput) ? kRead : kKept;
        continue;
      }
      n.mark |= kBackward;
      for (size_t i = 0; i < n.inputs.size(); ++i) {
        Value* x = n.inputs[i];
        if (!x) continue;
        if (reads_shape(n, i) && !is(x, kLate) && (x->producer || is_arg(x)))
          x->mark |= kShape;
        else
          want(x);
      }
    }
  }

  /// Of these backward needs the shape alone: it is kept, and in backward a stand-in has that shape.
  static bool only_shape(const Value* v) {
    return is(v, kShape) && !is(v, kKept | kRead) && !(v->producer && (v->producer->mark & kBackward));
  }

  /// The values between the two, in the order of the graph.
  void list() {
    const auto note = [&](Value* v) {
      if (is(v, kKept)) kept_.push_back(v);
      if (only_shape(v)) shapes_.push_back({v, "", {}, nullptr});
    };
    for (Value* v : g_.inputs) {
      note(v);
      if (is(v, kRead)) reads_.push_back(v);
    }
    for (Value* v : g_.weights) {
      note(v);
      if (is(v, kRead)) reads_.push_back(v);
    }
    for (const Node* n : g_.nodes())
      for (Value* v : n->outputs)
        if (v) note(v);
    ValueSet seen;
    for (size_t i = 0; i < j_.num_outputs; ++i) {
      Value* v = g_.outputs[i];
      if (v->producer && is(v, kRead) && seen.insert(v)) reads_.push_back(v);
    }
    for (Shape& shape : shapes_) shape.name = g_.unique_name(shape.of->name + "_shape");
  }

  static Value* source(Graph& to, const Value* v, ValueMap& map) {
    if (Value* const* copy = map.find(v)) return *copy;
    Value* c = to.add_weight(v->name, v->literal);
    c->type = v->type;
    map[v] = c;
    return c;
  }

  /// Names are those of one graph, so that they are free in its parts.
  std::unique_ptr<Graph> copy_forward() {
    auto to = std::make_unique<Graph>();
    to->name = g_.name;
    to->opsets = g_.opsets;
    to->ir_version = g_.ir_version;
    to->metadata = g_.metadata;
    const auto compute = [](const Value* v) {
      if (v->producer) v->producer->mark |= kForward;
    };
    for (size_t i = 0; i < j_.num_outputs; ++i) compute(g_.outputs[i]);
    for (const Value* v : kept_) compute(v);
    for (const Shape& shape : shapes_) compute(shape.of);
    size_t count = 0;
    for (auto it = g_.nodes().rbegin(); it != g_.nodes().rend(); ++it) {
      if (!((*it)->mark & kForward)) continue;
      ++count;
      for (const Value* x : (*it)->inputs)
        if (x) compute(x);
    }
    ValueMap map;
    map.reserve(count + g_.inputs.size() + g_.weights.size());
    to->reserve(count, count + g_.inputs.size() + g_.weights.size());
    for (const Value* v : g_.inputs)
      if (!is(v, kLate)) {
        Value* c = to->add_input(v->name, v->type);
        c->host = v->host;
        c->literal = v->literal;
        map[v] = c;
      }
    for (const Value* v : g_.weights)
      if (is(v, kArgument)) source(*to, v, map);
    for (const Node* n : g_.nodes()) {
      if (!(n->mark & kForward)) continue;
      for (const Value* v : n->inputs)
        if (v && !v->producer) source(*to, v, map);
      to->copy_node(*n, map, true);
    }
    for (size_t i = 0; i < j_.num_outputs; ++i)
      to->outputs.push_back(g_.outputs[i]->producer ? map.at(g_.outputs[i]) : source(*to, g_.outputs[i], map));
    for (Shape& shape : shapes_) {
      Value* of = shape.of->producer ? map.at(shape.of) : source(*to, shape.of, map);
      Value* out = to->add_value(shape.name);
      infer_node(*to->add_node(intern("Shape"), {of}, Values{out}));
      shape.type = out->type;
      shape.host = out->host;
    }
    return to;
  }

  /// The joint graph loses what forward computes; what comes from there becomes an input.
  void make_backward() {
    g_.name += "_backward";
    g_.metadata.clear();
    std::vector<Node*> order, old;
    old.swap(g_.order());
    order.reserve(old.size());
    std::vector<Value*> inputs = j_.seeds;
    inputs.insert(inputs.end(), kept_.begin(), kept_.end());
    for (const Shape& shape : shapes_) {
      Value* in = g_.add_value(shape.name, shape.type);
      in->host = shape.host;
      inputs.push_back(in);
      shape.of->host = nullptr;
      shape.of->literal = nullptr;
      Node* n = g_.add_node(intern("ortmod", "ShapeOnly"), {in}, Values{shape.of},
                            {{"dtype", static_cast<int64_t>(shape.of->type.dtype)}});
      n->mark = kBackward;
      order.push_back(n);
    }
    inputs.insert(inputs.end(), reads_.begin(), reads_.end());
    for (Value* v : inputs) v->literal = nullptr;
    std::erase_if(g_.weights, [](const Value* v) { return !v->literal || v->producer; });
    const auto gone = [&](const Use& u) { return u.node->graph == &g_ && !(u.node->mark & kBackward); };
    for (Value* v : g_.values()) Graph::forget_uses(v, gone);
    for (Node* n : old) {
      if (n->mark & kBackward) {
        order.push_back(n);
      } else {
        if (!n->attrs.empty()) Graph::unlink_captures(*n);
        g_.drop(n);
      }
    }
    g_.order() = std::move(order);
    g_.inputs = std::move(inputs);
    g_.outputs = j_.grads;
    g_.compact();
  }

  Joint j_;
  Graph& g_;
  std::vector<Value*> kept_, reads_;
  std::vector<Shape> shapes_;
};

}  // namespace

Split split(Joint joint, const std::vector<std::string>& arguments) {
  return Cutter(std::move(joint), arguments).cut();
}

}  // namespace ortmod
