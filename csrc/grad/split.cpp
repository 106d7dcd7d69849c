// Cutting a joint graph into forward and backward, with as few kept values as possible.
#include "grad/build.h"
#include "ops/op.h"

namespace ortmod {
namespace {

class Cutter {
 public:
  Cutter(const Joint& j, const std::vector<std::string>& arguments)
      : j_(j), g_(*j.graph), args_(arguments.begin(), arguments.end()), inputs_(g_.inputs.begin(), g_.inputs.end()) {
    late_.insert(j.seeds.begin(), j.seeds.end());
    for (const Node* n : g_.nodes())
      for (const Value* v : n->inputs)
        if (v && late_.contains(v)) {
          for (const Value* o : n->outputs)
            if (o) late_.insert(o);
          break;
        }
    for (size_t i = 0; i < j.num_outputs; ++i) outputs_.insert(g_.outputs[i]);
  }

  Split cut() {
    plan_backward();
    Split s;
    std::vector<std::pair<const Value*, Value*>> shapes;
    s.forward = copy_forward(shapes);
    s.backward = copy_backward(s, shapes);
    for (const std::string& name : s.kept) s.forward->outputs.push_back(s.forward->find(name));
    return s;
  }

 private:
  bool is_arg(const Value* v) const {
    return !v->producer && (!v->literal || args_.contains(v->name) || inputs_.contains(v));
  }

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
  bool recomputed(const Value* v) const {
    const Node* n = v->producer;
    if (n->origin == Origin::kGradient && !reads_only_shapes(*n)) return true;
    if (outputs_.contains(v)) return false;
    const OpDef* def = find_op(*n);
    return def && def->alias >= 0 && is_float(v->type.dtype);
  }

  void plan_backward() {
    std::vector<const Value*> todo(j_.grads.begin(), j_.grads.end());
    ValueSet seen(todo.begin(), todo.end());
    while (!todo.empty()) {
      const Value* v = todo.back();
      todo.pop_back();
      if (!v->producer) {
        if (is_arg(v) && !late_.contains(v)) reads_.insert(v);
        continue;
      }
      if (!late_.contains(v)) {
        if (outputs_.contains(v)) {
          reads_.insert(v);
          continue;
        }
        if (!recomputed(v)) {
          kept_.insert(v);
          continue;
        }
      }
      back_.insert(v->producer);
      const Node& n = *v->producer;
      for (size_t i = 0; i < n.inputs.size(); ++i) {
        const Value* x = n.inputs[i];
        if (!x) continue;
        if (reads_shape(n, i) && !late_.contains(x) && (x->producer || is_arg(x))) {
          shapes_.insert(x);
        } else if (seen.insert(x)) {
          todo.push_back(x);
        }
      }
    }
    for (const Value* v : shapes_.list())
      if (kept_.contains(v) || reads_.contains(v) || (v->producer && back_.contains(v->producer))) shapes_.erase(v);
  }

  /// Keeps the shape of values of which backward reads nothing else; in backward a stand-in has that shape.
  std::vector<std::pair<const Value*, Value*>> keep_shapes(Graph& forward, ValueMap& map) const {
    std::vector<std::pair<const Value*, Value*>> r;
    for (const Value* v : ordered(shapes_)) {
      Node* n = forward.add_node(intern("Shape"), {map.at(v)}, 1);
      infer_node(*n);
      forward.rename(n->out(), v->name + "_shape");
      r.emplace_back(v, n->out());
    }
    return r;
  }

  std::vector<const Value*> ordered(const ValueSet& set) const {
    std::vector<const Value*> r;
    if (set.empty()) return r;
    for (const Value* v : g_.inputs)
      if (set.contains(v)) r.push_back(v);
    for (const Value* v : g_.weights)
      if (set.contains(v)) r.push_back(v);
    for (const Node* n : g_.nodes())
      for (const Value* v : n->outputs)
        if (v && set.contains(v)) r.push_back(v);
    return r;
  }

  Value* source(Graph& to, const Value* v, ValueMap& map) const {
    if (Value* const* copy = map.find(v)) return *copy;
    Value* c = to.add_weight(v->name, v->literal);
    c->type = v->type;
    map[v] = c;
    return c;
  }

  /// Names are those of one graph, so that they are free where nothing else was named before.
  void copy_nodes(Graph& to, const NodeSet& nodes, ValueMap& map, bool names_are_free) const {
    to.reserve(nodes.size(), nodes.size());
    for (const Node* n : g_.nodes()) {
      if (!nodes.contains(n)) continue;
      for (const Value* v : n->inputs)
        if (v && !v->producer) source(to, v, map);
      to.copy_node(*n, map, names_are_free);
    }
  }

  std::unique_ptr<Graph> fresh(const std::string& suffix) const {
    auto g = std::make_unique<Graph>();
    g->name = g_.name + suffix;
    g->opsets = g_.opsets;
    g->ir_version = g_.ir_version;
    return g;
  }

  static Value* add_input(Graph& to, const Value* v, ValueMap& map) {
    Value* c = to.add_input(v->name, v->type);
    c->host = v->host;
    map[v] = c;
    return c;
  }

  std::unique_ptr<Graph> copy_backward(Split& s, const std::vector<std::pair<const Value*, Value*>>& shapes) const {
    auto to = fresh("_backward");
    ValueMap map;
    for (const Value* v : j_.seeds) add_input(*to, v, map);
    for (const Value* v : ordered(kept_)) {
      add_input(*to, v, map);
      s.kept.push_back(v->name);
    }
    for (const auto& [v, shape] : shapes) {
      Value* in = to->add_input(shape->name, shape->type);
      in->host = shape->host;
      s.kept.push_back(shape->name);
      Node* n = to->add_node(intern("ortmod", "ShapeOnly"), {in}, {to->add_value(v->name, v->type)},
                             {{"dtype", static_cast<int64_t>(v->type.dtype)}});
      map[v] = n->out();
    }
    const auto read = [&](const Value* v) {
      if (!reads_.contains(v) || map.contains(v)) return;
      add_input(*to, v, map);
      s.reads.push_back(v->name);
    };
    for (const Value* v : g_.inputs) read(v);
    for (const Value* v : g_.weights) read(v);
    for (size_t i = 0; i < j_.num_outputs; ++i) read(g_.outputs[i]);
    copy_nodes(*to, back_, map, shapes.empty());
    for (const Value* v : j_.grads) to->outputs.push_back(v->producer ? map.at(v) : source(*to, v, map));
    return to;
  }

  std::unique_ptr<Graph> copy_forward(std::vector<std::pair<const Value*, Value*>>& shapes) const {
    auto to = fresh("");
    to->metadata = g_.metadata;
    ValueMap map;
    for (const Value* v : g_.inputs)
      if (!late_.contains(v)) {
        Value* c = add_input(*to, v, map);
        c->literal = v->literal;
      }
    for (const Value* v : g_.weights)
      if (args_.contains(v->name)) source(*to, v, map);
    NodeSet nodes;
    std::vector<const Value*> todo(g_.outputs.begin(),
                                   g_.outputs.begin() + static_cast<std::ptrdiff_t>(j_.num_outputs));
    for (const ValueSet* more : {&kept_, &shapes_}) {
      const std::vector<const Value*> list = ordered(*more);
      todo.insert(todo.end(), list.begin(), list.end());
    }
    while (!todo.empty()) {
      const Value* v = todo.back();
      todo.pop_back();
      if (!v->producer || !nodes.insert(v->producer)) continue;
      for (const Value* x : v->producer->inputs)
        if (x) todo.push_back(x);
    }
    copy_nodes(*to, nodes, map, true);
    for (size_t i = 0; i < j_.num_outputs; ++i)
      to->outputs.push_back(map.contains(g_.outputs[i]) ? map.at(g_.outputs[i]) : source(*to, g_.outputs[i], map));
    for (const Value* v : ordered(shapes_))
      if (!v->producer) source(*to, v, map);
    shapes = keep_shapes(*to, map);
    return to;
  }

  const Joint& j_;
  const Graph& g_;
  std::unordered_set<std::string> args_;
  ValueSet inputs_, late_, outputs_, kept_, reads_, shapes_;
  NodeSet back_;
};

}  // namespace

Split split(const Joint& joint, const std::vector<std::string>& arguments) { return Cutter(joint, arguments).cut(); }

}  // namespace ortmod
