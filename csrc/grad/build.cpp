// The reverse walk: activity, rules, un-broadcasting, accumulation, names. Knows no operator by name.
#include "grad/build.h"

#include "grad/custom.h"
#include "graph/canon.h"
#include "ops/op.h"

namespace ortmod {
namespace {

using Flags = ValueSet;

bool blocks(const OpDef* def) { return def && def->grad == no_grad; }

bool has_rule(const Node& n) {
  const OpDef* def = find_op(n);
  return custom_gradient(n) || (def && def->grad);
}

/// Values that depend on wrt through float values and operators that pass a gradient on.
Flags active_values(const Graph& g, const std::vector<Value*>& wrt) {
  Flags active(wrt.begin(), wrt.end());
  for (const Node* n : g.nodes()) {
    if (blocks(find_op(*n)) && !custom_gradient(*n)) continue;
    bool any = false;
    for (size_t i = 0; i < n->inputs.size(); ++i)
      any = any || (n->inputs[i] && active.contains(n->inputs[i]) && returns_gradient(*n, i));
    if (!any) continue;
    for (const Value* v : n->outputs)
      if (v && (is_float(v->type.dtype) || v->type.kind != Kind::kTensor)) active.insert(v);
  }
  return active;
}

/// Nodes that an output depends on.
NodeSet useful_nodes(const Graph& g, const std::vector<Value*>& outputs) {
  NodeSet useful;
  Flags wanted(outputs.begin(), outputs.end());
  for (auto it = g.nodes().rbegin(); it != g.nodes().rend(); ++it) {
    const Node* n = *it;
    bool any = false;
    for (const Value* v : n->outputs) any = any || (v && wanted.contains(v));
    if (!any) continue;
    useful.insert(n);
    for (size_t i = 0; i < n->inputs.size(); ++i)
      if (n->inputs[i] && returns_gradient(*n, i)) wanted.insert(n->inputs[i]);
  }
  return useful;
}

bool on_path(const Node& n, const Flags& active, const NodeSet& useful) {
  if (!useful.contains(&n)) return false;
  for (const Value* v : n.inputs)
    if (v && active.contains(v))
      for (const Value* o : n.outputs)
        if (o && active.contains(o)) return true;
  return false;
}

/// Nodes on the path without a rule are replaced by their bodies; those without either are reported together.
/// `active`: those values, also afterwards.
void expand_path(Graph& g, const std::vector<Value*>& wrt, const std::vector<Value*>& outputs, Flags& active) {
  const ValueSet graph_outputs(g.outputs.begin(), g.outputs.end());
  for (bool changed = true; changed;) {
    changed = false;
    const auto useful = useful_nodes(g, outputs);
    std::string missing;
    const std::vector<Node*> nodes = g.nodes();
    for (Node* n : nodes) {
      if (has_rule(*n) || !on_path(*n, active, useful)) continue;
      if (expand_node(g, n, graph_outputs)) {
        changed = true;
      } else {
        missing += (missing.empty() ? "" : ",") + where(*n);
      }
    }
    if (!missing.empty())
      fail(ErrorKind::kGradient, "differentiate",
           "no gradient rule for:" + missing +
               "; register one with ortmod.register_gradient or take its weights out of wrt");
    if (changed) {
      g.sort();
      std::erase_if(g.order(), [](const Node* n) { return n->graph == nullptr; });
      active = active_values(g, wrt);
    }
  }
}

class Reverse {
 public:
  explicit Reverse(Graph& g) : g_(g), b_(g, infer_node, Origin::kGradient) {}

  void seed(Value* v, Value* grad) { parts_[v].push_back(grad); }

  void walk(const Flags& active) {
    const std::vector<Node*> nodes = g_.nodes();
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) visit(**it, active);
  }

  /// The accumulated gradient, or empty.
  Expr total(Value* v) {
    Parts* p = parts_.find(v);
    if (!p || p->empty()) return {};
    if (p->size() > 1) {
      std::vector<Expr> parts;
      for (Value* part : *p) parts.push_back(b_.wrap(part));
      Expr sum = parts.size() == 2 ? parts[0] + parts[1] : b_.op("Sum", std::move(parts));
      name(sum, v);
      *p = {sum.value()};
    }
    return b_.wrap((*p)[0]);
  }

  Builder& builder() { return b_; }

 private:
  static constexpr std::string_view kSuffix = "_grad";

  void name(Expr e, const Value* v) {
    Value* x = e.value();
    if (x->producer && x->producer->origin == Origin::kGradient && x->name.starts_with("v_"))
      g_.rename(x, v->name + std::string(kSuffix));
  }

  void visit(Node& n, const Flags& active) {
    std::vector<bool> needs;
    bool any = false;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const Value* v = n.inputs[i];
      needs.push_back(v && active.contains(v) && returns_gradient(n, i));
      any = any || needs.back();
    }
    if (!any) return;
    std::vector<Expr> dy;
    bool has_dy = false;
    b_.set_source(n.name.empty() && n.out() ? n.out()->name : n.name);
    for (Value* v : n.outputs) {
      dy.push_back(v && active.contains(v) ? total(v) : Expr());
      has_dy = has_dy || dy.back();
    }
    if (!has_dy) return;
    const OpDef* def = find_op(n);
    const Grad rule(n, b_, std::move(dy), needs);
    report_rules_of(n);
    const auto custom = custom_gradient(n);
    const Grads grads = custom ? apply_custom(*custom, rule) : def->grad(rule);
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i]) continue;
      if (i >= n.inputs.size()) fail(ErrorKind::kGradient, "differentiate", "the rule returned too many gradients", n);
      if (!needs[i]) continue;
      Value* x = n.inputs[i];
      Expr d = grads[i];
      if (custom && d.dtype() != DType::kUndefined && !is_float(d.dtype()))
        fail(ErrorKind::kGradient, "differentiate",
             "the registered rule gives a gradient of type " + std::string(dtype_name(d.dtype())) +
                 ", expected a float type",
             n, static_cast<int>(i));
      if (d.dtype() != x->type.dtype) d = cast(d, x->type.dtype);
      const bool exact = def && def->exact && !custom;
      if (x->type.kind == Kind::kTensor && !exact) d = sum_to(d, b_.wrap(x));
      check(n, i, d);
      if (exact) refine(*d.value(), *x);
      name(d, x);
      parts_[x].push_back(d.value());
    }
  }

  /// The gradient has the shape of x: what is known of one is known of the other.
  static void refine(Value& d, const Value& x) {
    if (!x.type.has_rank) return;
    if (!d.type.has_rank) d.type = Type(d.type.dtype, x.type.dims);
    for (size_t k = 0; k < x.type.dims.size(); ++k)
      if (!is_known(d.type.dims[k]) && x.type.dims[k] != kAnyDim) d.type.dims[k] = x.type.dims[k];
  }

  void check(const Node& n, size_t i, Expr d) const {
    const Type &got = d.type(), &want = n.inputs[i]->type;
    if (!got.has_rank || !want.has_rank) return;
    bool ok = got.dims.size() == want.dims.size();
    for (size_t k = 0; ok && k < got.dims.size(); ++k)
      ok = !is_known(got.dims[k]) || !is_known(want.dims[k]) || got.dims[k] == want.dims[k];
    if (!ok)
      fail(ErrorKind::kGradient, "differentiate",
           "the gradient rule gives the wrong shape: got " + to_string(got.dims) + ", expected " + to_string(want.dims),
           n, static_cast<int>(i));
  }

  static LiteralPtr given_constant(const Node& constant, const Node& n) {
    const auto& [key, a] = constant.attrs.at(0);
    const auto* ref = std::get_if<AttrRef>(&a);
    const Attr* given = ref ? n.find(ref->name) : nullptr;
    LiteralPtr literal = given ? constant_value(key, *given) : nullptr;
    if (!literal)
      fail(ErrorKind::kGradient, "differentiate",
           "the registered rule reads the attribute \"" + (ref ? ref->name : key) + "\" as " + key +
               ", which the node does not give so; write it on the node",
           n);
    return literal;
  }

  Grads apply_custom(const Graph& rule, const Grad& g) {
    ValueMap map;
    const Node& n = g.node();
    const size_t ni = rule_inputs(n), no = ni < n.inputs.size() ? n.inputs.size() - ni : n.outputs.size();
    if (rule.inputs.size() > ni + 2 * no)
      fail(ErrorKind::kGradient, "differentiate",
           "the registered rule has too many inputs: got " + std::to_string(rule.inputs.size()) +
               ", expected the operator's inputs, outputs and output gradients (" + std::to_string(ni + 2 * no) + ")",
           n);
    for (size_t i = 0; i < rule.inputs.size(); ++i) {
      Expr e;
      if (i < ni) {
        e = g.x(i);
      } else if (i < ni + no) {
        e = g.y(i - ni);
      } else {
        e = g.dy(i - ni - no);
        if (!e) e = zeros_like(g.y(i - ni - no));
      }
      map[rule.inputs[i]] = e.value();
    }
    for (const Value* w : rule.weights) map[w] = b_.literal(w->literal, w->name).value();
    for (const Node* r : rule.nodes()) {
      if (r->is("Constant")) {  // only those of the operator's attributes are left as nodes
        map[r->out()] = b_.literal(given_constant(*r, n), r->out()->name).value();
        continue;
      }
      Node* c = g_.copy_node(*r, map);
      c->origin = Origin::kGradient;
      c->version = g_.opset(c->op->domain);
      for (const auto& [key, a] : r->attrs)
        if (const auto* ref = std::get_if<AttrRef>(&a)) {
          if (const Attr* given = n.find(ref->name)) {
            c->set(key, *given);
          } else {
            c->erase(key);
          }
        }
      infer_node(*c);
    }
    Grads out;
    for (const Value* v : rule.outputs) out.push_back(b_.wrap(map.at(v)));
    return out;
  }

  Graph& g_;
  Builder b_;
  using Parts = SmallVec<Value*, 1>;
  PointerMap<Value, Parts> parts_;
};

std::vector<Value*> resolve_wrt(const Graph& g, const std::vector<std::string>& names) {
  std::vector<Value*> r;
  for (const std::string& name : names) {
    Value* v = g.find(name);
    if (!v || v->producer)
      fail(ErrorKind::kGradient, "differentiate",
           "no input or initializer \"" + name + "\" in the graph; see its inputs and initializers");
    if (!is_float(v->type.dtype) && v->type.kind == Kind::kTensor)
      fail(ErrorKind::kGradient, "differentiate",
           "\"" + name + "\" is not a float tensor: got " + to_string(v->type) + "; take it out of wrt");
    r.push_back(v);
  }
  return r;
}

std::vector<Value*> resolve_outputs(const Graph& g, const std::vector<std::string>& names, const Flags& active) {
  std::vector<Value*> r;
  if (names.empty()) {
    ValueSet seen;
    for (Value* v : g.outputs)
      if (active.contains(v) && seen.insert(v)) r.push_back(v);
    return r;
  }
  const ValueSet known(g.outputs.begin(), g.outputs.end());
  for (const std::string& name : names) {
    Value* v = g.find(name);
    if (!known.contains(v)) fail(ErrorKind::kGradient, "differentiate", "no output \"" + name + "\" in the graph");
    if (!is_float(v->type.dtype))
      fail(ErrorKind::kGradient, "differentiate",
           "output \"" + name + "\" is not a float tensor: got " + to_string(v->type));
    r.push_back(v);
  }
  return r;
}

/// `want`, or with _2, _3, ... when a value of the model has that name; parts of gradients give theirs away.
void name_gradient(Graph& g, Value* v, const std::string& want, const Flags& taken) {
  std::string name = want;
  for (int k = 2;; ++k) {
    Value* other = g.find(name);
    if (other == v) return;
    const bool part =
        other && other->producer && other->producer->origin == Origin::kGradient && !taken.contains(other);
    if (part) g.rename(other, want + "_part");
    if (part || !other) return g.rename(v, name);
    name = want + "_" + std::to_string(k);
  }
}

}  // namespace

std::vector<OldForm> old_forms(const Graph& g, const GradientOptions& options) {
  if (g.opset() >= kLastCheaperForm) return {};
  OldForms found;
  try {
    const Joint j = differentiate(g, options);
    expand_bodies(*j.graph);
  } catch (const Error&) {
    if (found.list.empty()) throw;
  }
  return std::move(found.list);
}

namespace {

/// `base`: the graph as it was, to say why something cannot be reached.
Joint differentiate_in(std::unique_ptr<Graph> graph, const GradientOptions& options, const Graph* base) {
  Joint j;
  j.graph = std::move(graph);
  Graph& g = *j.graph;
  j.num_outputs = g.outputs.size();
  const std::vector<Value*> wrt = resolve_wrt(g, options.wrt);
  Flags active = active_values(g, wrt);
  const std::vector<Value*> outputs = resolve_outputs(g, options.outputs, active);
  expand_path(g, wrt, outputs, active);

  Reverse reverse(g);
  for (Value* v : outputs) {
    Value* s = g.add_input(v->name + "_grad", v->type);
    j.seeds.push_back(s);
    j.outputs.push_back(v->name);
    reverse.seed(v, s);
  }
  reverse.walk(active);

  ValueSet taken(g.inputs.begin(), g.inputs.end());
  taken.insert(g.outputs.begin(), g.outputs.end());
  for (size_t i = 0; i < wrt.size(); ++i) {
    Expr d = reverse.total(wrt[i]);
    if (!d) {
      if (options.unreachable == GradientOptions::Unreachable::kDrop) continue;
      if (options.unreachable == GradientOptions::Unreachable::kError) {
        const std::string reason = base ? explain_reach(*base, {options.wrt[i]})[0].reason : "";
        fail(ErrorKind::kGradient, "differentiate",
             "\"" + options.wrt[i] + "\" cannot be reached from the outputs: " + (reason.empty() ? "no path" : reason) +
                 "; " + options.advice);
      }
      d = zeros_like(reverse.builder().wrap(wrt[i]));
    }
    if (taken.contains(d.value()) || !d.value()->producer) d = unary("Identity", d);
    name_gradient(g, d.value(), wrt[i]->name + "_grad", taken);
    taken.insert(d.value());
    j.wrt.push_back(options.wrt[i]);
    j.grads.push_back(d.value());
    g.outputs.push_back(d.value());
  }
  return j;
}

}  // namespace

Joint differentiate(const Graph& base, const GradientOptions& options) {
  return differentiate_in(base.clone(), options, &base);
}

Joint differentiate(std::unique_ptr<Graph> graph, const GradientOptions& options) {
  return differentiate_in(std::move(graph), options, nullptr);
}

}  // namespace ortmod
