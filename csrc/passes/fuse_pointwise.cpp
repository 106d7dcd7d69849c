// Pass: pointwise nodes over one iteration space that feed each other become one ortmod::Fused node.
#include <algorithm>
#include <cstdlib>

#include "ops/op.h"
#include "ops/pointwise_program.h"
#include "passes/key.h"
#include "passes/pass.h"

namespace ortmod {
namespace {

constexpr int kMaxInputs = cpu::PwDesc::kMaxIn, kMaxOutputs = cpu::PwDesc::kMaxOut, kMaxInst = 48,
              kMaxConst = cpu::PwDesc::kMaxConst;

bool elem_ok(const Value* v) { return to_elem(v->type.dtype) != cpu::Elem::kNone && v->type.kind == Kind::kTensor; }

/// Small integers are shape computations, which the planner follows on the host.
bool host_like(const Value* v) { return v->host || (is_integer(v->type.dtype) && v->type.rank() < 2); }

/// A node that the pointwise engine can run as part of a program.
bool fusable(const Node& n) {
  const OpDef* def = find_op(n);
  if (!def || def->pointwise == Pw::kNone || n.outputs.size() != 1 || !n.out()) return false;
  const Value* y = n.out();
  if (!elem_ok(y) || !y->type.has_rank || y->type.rank() > cpu::PwDesc::kMaxDims || host_like(y)) return false;
  for (Dim d : y->type.dims)
    if (d == kAnyDim) return false;
  DType type = DType::kUndefined;
  SmallVec<int, 8> in;
  PointwiseProgram p;
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const Value* x = n.inputs[i];
    if (!x) {
      in.push_back(-1);
      continue;
    }
    if (!elem_ok(x) || !x->type.has_rank || (x->host && !x->is_constant())) return false;
    const bool condition = def->pointwise == Pw::kWhere && i == 0;
    if (condition ? x->type.dtype != DType::kBool : type != DType::kUndefined && x->type.dtype != type) return false;
    if (!condition) type = x->type.dtype;
    in.push_back(static_cast<int>(i));
  }
  return p.node(n, def->pointwise, in, type, y->type.dtype) >= 0;
}

struct Info {
  int level = 0;
  int group = -1;  // of fusable nodes: representative while joining, then the number of the group
  bool ok = false;
};

class Fuser {
 public:
  Fuser(Graph& g, const PassContext& c) : g_(g), c_(c), outputs_(g.outputs.begin(), g.outputs.end()) {}

  int run() {
    int changes = drop_expands();
    number();
    levels();
    sink();
    join();
    changes += build();
    return changes;
  }

 private:
  /// Expand before an operator that broadcasts anyway.
  int drop_expands() {
    int n_changes = 0;
    for (Node* n : g_.nodes()) {
      const OpDef* def = find_op(*n);
      if (!def || def->pointwise == Pw::kNone || n->inputs.size() < 2 || !n->out() || !n->out()->type.has_rank)
        continue;
      for (size_t i = 0; i < n->inputs.size(); ++i) {
        Value* x = n->inputs[i];
        if (!x || !x->producer || !x->producer->is("Expand") || x->producer->graph != &g_) continue;
        Value* small = x->producer->in(0);
        if (!small->type.has_rank || !x->type.has_rank) continue;
        bool kept = false;
        for (size_t j = 0; j < n->inputs.size() && !kept; ++j)
          kept = j != i && n->inputs[j] && n->inputs[j] != x && n->inputs[j]->type.has_rank &&
                 covers(n->inputs[j]->type.dims, x->type.dims);
        if (!kept) continue;
        g_.set_input(n, static_cast<int>(i), small);
        if (x->uses.empty() && !is_output(x)) g_.remove(x->producer);
        ++n_changes;
      }
    }
    if (n_changes) g_.compact(&c_.variable);
    return n_changes;
  }
  /// Do dims `a` make a broadcast with `b` at least as large as b?
  static bool covers(const Dims& a, const Dims& b) {
    if (a.size() < b.size()) return false;
    for (size_t k = 0; k < b.size(); ++k) {
      const Dim x = a[a.size() - b.size() + k], y = b[k];
      if (y != 1 && (x != y || x == kAnyDim)) return false;
    }
    return true;
  }

  void number() {
    int i = 0;
    for (Node* n : g_.nodes()) n->mark = i++;
    info_.assign(static_cast<size_t>(i), Info{});
    for (Node* n : g_.nodes()) info(n).ok = fusable(*n);
  }
  Info& info(const Node* n) { return info_[static_cast<size_t>(n->mark)]; }
  bool local(const Value* v) const { return v && v->producer && v->producer->graph == &g_; }
  bool same_space(const Node* a, const Node* b) const { return a->out()->type.dims == b->out()->type.dims; }
  bool linked(const Node* a, const Node* b) { return info(a).ok && info(b).ok && same_space(a, b); }

  /// Levels rise along every edge that cannot be fused, so nodes of one level and space that touch can be made one
  /// without a cycle.
  void levels() {
    int top = 0;
    for (Node* n : g_.nodes()) {
      Info& me = info(n);
      const auto rise = [&](const Value* v) {
        if (!local(v)) return;
        const Info& from = info(v->producer);
        me.level = std::max(me.level, from.level + (from.ok && !linked(v->producer, n) ? 1 : 0));
      };
      for (const Value* v : n->inputs) rise(v);
      if (n->op->domain != "ortmod" && has_subgraph(*n)) me.level = top + 1;  // it may read anything before it
      top = std::max(top, me.level);
    }
  }

  static bool has_subgraph(const Node& n) {
    for (const auto& [key, a] : n.attrs)
      if (std::holds_alternative<std::shared_ptr<Graph>>(a) ||
          std::holds_alternative<std::vector<std::shared_ptr<Graph>>>(a))
        return true;
    return false;
  }

  /// A node whose every use is a linked one of a higher level goes up to it.
  void sink() {
    for (size_t i = g_.nodes().size(); i-- > 0;) {
      Node* n = g_.nodes()[i];
      Info& me = info(n);
      if (!me.ok || n->out()->uses.empty()) continue;
      int level = -1;
      for (const Use& u : n->out()->uses) {
        if (u.node->graph != &g_ || !linked(n, u.node) || (level >= 0 && info(u.node).level != level)) {
          level = -1;
          break;
        }
        level = info(u.node).level;
      }
      if (level > me.level) me.level = level;
    }
  }

  int find(int i) {
    while (info_[static_cast<size_t>(i)].group != i) {
      int& g = info_[static_cast<size_t>(i)].group;
      g = info_[static_cast<size_t>(g)].group;
      i = g;
    }
    return i;
  }
  void join() {
    for (Node* n : g_.nodes())
      if (info(n).ok) info(n).group = n->mark;
    for (Node* n : g_.nodes()) {
      if (!info(n).ok) continue;
      for (const Value* v : n->inputs)
        if (local(v) && linked(v->producer, n) && info(v->producer).level == info(n).level) {
          const int a = find(v->producer->mark), b = find(n->mark);
          info_[static_cast<size_t>(std::max(a, b))].group = std::min(a, b);
        }
    }
  }

  /// Values, each once; a few dozen at most.
  struct List : SmallVec<Value*, 4> {
    int find(const Value* v) const {
      for (size_t i = 0; i < size(); ++i)
        if ((*this)[i] == v) return static_cast<int>(i);
      return -1;
    }
    bool contains(const Value* v) const { return find(v) >= 0; }
    int insert(Value* v) {
      const int i = find(v);
      if (i >= 0) return i;
      push_back(v);
      return static_cast<int>(size()) - 1;
    }
  };
  struct Group {
    SmallVec<Node*, 4> nodes;
    List inputs, constants, made;
    int inst = 0, outputs = 0;
  };
  bool fixed_scalar(const Value* v) const { return c_.is_fixed(v) && v->literal->numel() == 1; }

  int build() {
    std::vector<int> sizes(info_.size());
    for (const Node* n : g_.nodes())
      if (info(n).ok) ++sizes[static_cast<size_t>(find(n->mark))];
    std::unordered_map<int, Group> open;
    std::vector<Group> done;
    for (Node* n : g_.nodes()) {
      if (!info(n).ok) continue;
      const int id = find(n->mark);
      if (sizes[static_cast<size_t>(id)] < 2) continue;
      Group& group = open[id];
      const int inst = std::max<int>(2, static_cast<int>(n->inputs.size()));
      const int fresh = static_cast<int>(n->inputs.size());
      if (group.inst + inst > kMaxInst || static_cast<int>(group.inputs.size()) + fresh > kMaxInputs ||
          static_cast<int>(group.constants.size()) + fresh + 2 > kMaxConst || outputs_with(group, n) > kMaxOutputs) {
        done.push_back(std::move(group));
        group = Group{};
      }
      group.inst += inst;
      group.nodes.push_back(n);
      for (Value* v : n->inputs)
        if (v && !group.made.contains(v)) (fixed_scalar(v) ? group.constants : group.inputs).insert(v);
      group.made.insert(n->out());
      if (escapes(n->out())) ++group.outputs;
    }
    // In the order of the graph, so that names and text do not depend on hashing.
    for (auto& [id, group] : open) done.push_back(std::move(group));
    std::sort(done.begin(), done.end(), [](const Group& a, const Group& b) {
      return (a.nodes.empty() ? -1 : a.nodes[0]->mark) < (b.nodes.empty() ? -1 : b.nodes[0]->mark);
    });
    int changes = 0;
    for (const Group& group : done) changes += replace(group);
    if (changes) {
      g_.compact(&c_.variable);
      g_.sort();
    }
    return changes;
  }
  /// Is the value read by something that can never be in its group? (A lower bound of the outputs.)
  bool escapes(const Value* v) {
    if (is_output(v)) return true;
    for (const Use& u : v->uses)
      if (u.node->graph != &g_ || !linked(v->producer, u.node)) return true;
    return false;
  }
  int outputs_with(const Group& group, const Node* n) { return group.outputs + (escapes(n->out()) ? 1 : 0); }

  /// What groups with equal bodies have in common: everything but names.
  const std::string& key_of(const Group& group, const Values& outputs) {
    std::string& key = key_;
    key.clear();
    const auto put_type = [&](const Type& t) {
      put(key, t.dtype);
      put(key, t.rank());
      for (const Dim d : t.dims) put(key, d);
    };
    put(key, group.inputs.size());
    for (const Value* v : group.inputs) put_type(v->type);
    put(key, group.constants.size());
    for (const Value* v : group.constants) put_literal(key, *v->literal);
    for (const Node* n : group.nodes) {
      put(key, n->op);
      put(key, n->version);
      put(key, n->inputs.size());
      for (const Value* v : n->inputs)
        for (const List* list : {&group.made, &group.constants, &group.inputs}) put(key, list->find(v));
      put(key, n->attrs.size());
      for (const auto& [name, a] : n->attrs) {
        put_text(key, name);
        if (!put_attr(key, a)) put(key, n);
      }
      put_type(n->out()->type);
    }
    for (const Value* v : outputs) put(key, group.made.find(v));
    return key;
  }

  /// The nodes of a group as a graph of their own.
  std::shared_ptr<Graph> body_of(const Group& group, const Values& outputs) const {
    const auto body = std::make_shared<Graph>();
    body->name = "fused";
    const Graph* top = &g_;
    while (top->parent()) top = top->parent();
    body->opsets = top->opsets;
    ValueMap map;
    for (const Value* v : group.inputs) map[v] = body->add_input(v->name, v->type);
    for (const Value* v : group.constants) {
      map[v] = body->add_weight(v->name, v->literal);
      map[v]->type = v->type;
    }
    for (const Node* n : group.nodes) body->copy_node(*n, map);
    for (const Value* v : outputs) body->outputs.push_back(map.at(v));
    return body;
  }

  int replace(const Group& group) {
    if (group.nodes.size() < 2) return 0;
    Values outputs;
    for (const Node* n : group.nodes) {
      bool wanted = is_output(n->out());
      for (const Use& u : n->out()->uses)
        wanted = wanted || std::find(group.nodes.begin(), group.nodes.end(), u.node) == group.nodes.end();
      if (wanted) outputs.push_back(n->out());
    }
    if (static_cast<int>(outputs.size()) > kMaxOutputs || static_cast<int>(group.inputs.size()) > kMaxInputs ||
        outputs.empty() || group.inputs.empty())
      return 0;
    const Values inputs(group.inputs.begin(), group.inputs.end());
    if (!infer_gives_space(inputs, outputs[0]->type.dims)) return 0;
    std::shared_ptr<Graph>& known = bodies_[key_of(group, outputs)];
    if (!known) known = body_of(group, outputs);
    const std::shared_ptr<Graph> body = known;
    std::string name;
    for (const Node* n : group.nodes) {
      if (name.size() > 60) break;
      name += (name.empty() ? "" : "_") + n->op->name;
    }
    Node* first = group.nodes.front();
    Node* fused = g_.add_node(intern("ortmod", "Fused"), inputs, outputs, {{"body", body}}, name);
    fused->version = 1;
    fused->origin = first->origin;
    fused->source = first->source;
    for (size_t i = group.nodes.size(); i-- > 0;) g_.remove(group.nodes[i]);
    return static_cast<int>(group.nodes.size()) - 1;
  }
  /// The shape of a fused node is inferred from its inputs: they must determine the space.
  static bool infer_gives_space(const Values& inputs, const Dims& space) {
    for (size_t k = 0; k < space.size(); ++k) {
      bool found = space[k] == 1;
      for (const Value* v : inputs) {
        const Dims& d = v->type.dims;
        if (d.size() + k < space.size()) continue;
        found = found || d[d.size() - space.size() + k] == space[k];
      }
      if (!found) return false;
    }
    return !space.empty() || !inputs.empty();
  }

  bool is_output(const Value* v) const { return outputs_.contains(v); }

  Graph& g_;
  const PassContext& c_;
  ValueSet outputs_;
  std::vector<Info> info_;
  std::unordered_map<std::string, std::shared_ptr<Graph>> bodies_;  // nodes with equal bodies share one
  std::string key_;
};

}  // namespace

int fuse_pointwise(Graph& g, const PassContext& c) { return Fuser(g, c).run(); }

}  // namespace ortmod
