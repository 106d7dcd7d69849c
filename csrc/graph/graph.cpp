// Ownership, linking and ordering of nodes and values.
#include "graph/graph.h"

#include <algorithm>
#include <mutex>

namespace ortmod {

Op intern(std::string_view domain, std::string_view name) {
  static std::mutex mutex;
  static auto* table = new std::unordered_map<std::string, std::unique_ptr<OpName>>;
  if (domain == "ai.onnx") domain = "";
  std::string key = std::string(domain) + "::" + std::string(name);
  std::lock_guard lock(mutex);
  auto& slot = (*table)[std::move(key)];
  if (!slot) slot = std::make_unique<OpName>(OpName{std::string(domain), std::string(name)});
  return slot.get();
}

int Graph::opset(std::string_view domain) const {
  const auto it = opsets.find(std::string(domain));
  if (it != opsets.end()) return it->second;
  if (parent_) return parent_->opset(domain);
  return 1;
}

std::string Graph::unique_name(std::string_view base) {
  std::string name(base.empty() ? "v" : base);
  const auto taken = [this](const std::string& s) {  // nor hide a name of an enclosing graph
    for (const Graph* g = this; g; g = g->parent_)
      if (g->by_name_.contains(s)) return true;
    return false;
  };
  if (!base.empty() && !taken(name)) return name;
  int& n = name_counts_[name];
  for (;;) {
    n = n == 0 && !base.empty() ? 2 : n + 1;
    std::string candidate = name + "_" + std::to_string(n);
    if (!taken(candidate)) return candidate;
  }
}

Value* Graph::add_value(std::string_view name, Type type) {
  auto v = std::make_unique<Value>();
  v->name = unique_name(name);
  v->type = std::move(type);
  v->graph = this;
  Value* p = v.get();
  by_name_.emplace(p->name, p);
  values_.push_back(std::move(v));
  return p;
}

Value* Graph::add_input(std::string_view name, Type type) {
  Value* v = add_value(name, std::move(type));
  inputs.push_back(v);
  return v;
}

Value* Graph::add_weight(std::string_view name, LiteralPtr literal) {
  Value* v = add_value(name, literal->type());
  v->literal = std::move(literal);
  weights.push_back(v);
  return v;
}

Value* Graph::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : it->second;
}

void Graph::rename(Value* v, std::string_view name) {
  if (v->name == name) return;
  std::string fresh = unique_name(name);
  by_name_.erase(v->name);
  v->name = std::move(fresh);
  by_name_.emplace(v->name, v);
}

void Graph::link(Node* n) {
  for (size_t i = 0; i < n->inputs.size(); ++i)
    if (Value* v = n->inputs[i]) v->uses.push_back({n, static_cast<int>(i)});
  for (size_t i = 0; i < n->outputs.size(); ++i)
    if (Value* v = n->outputs[i]) {
      v->producer = n;
      v->output_index = static_cast<int>(i);
    }
}

Node* Graph::add_node(Op op, std::vector<Value*> in, std::vector<Value*> out, Attrs attrs, std::string_view node_name) {
  auto n = std::make_unique<Node>();
  n->op = op;
  n->version = op->domain == "ortmod" ? opset() : opset(op->domain);
  n->inputs = std::move(in);
  n->outputs = std::move(out);
  n->attrs = std::move(attrs);
  n->name = node_name;
  n->graph = this;
  link(n.get());
  Node* p = n.get();
  nodes_.push_back(std::move(n));
  order_.push_back(p);
  return p;
}

Node* Graph::add_node(Op op, std::vector<Value*> in, int n_outputs, Attrs attrs, std::string_view node_name) {
  std::vector<Value*> out;
  for (int i = 0; i < n_outputs; ++i) out.push_back(add_value(""));
  return add_node(op, std::move(in), std::move(out), std::move(attrs), node_name);
}

namespace {

/// Takes a use out of a list; of a long one, by its last use, wherever it stands nearest to an end.
void forget(std::vector<Use>& uses, const Use& u) {
  constexpr size_t kLong = 64;
  if (uses.size() < kLong) {
    std::erase(uses, u);
    return;
  }
  for (size_t front = 0, back = uses.size() - 1;; ++front, --back) {
    for (const size_t i : {front, back})
      if (uses[i] == u) {
        uses[i] = uses.back();
        uses.pop_back();
        return;
      }
    if (front >= back) return;
  }
}

}  // namespace

void Graph::set_input(Node* n, int i, Value* v) {
  Value*& slot = n->inputs[static_cast<size_t>(i)];
  if (slot == v) return;
  if (slot) forget(slot->uses, {n, i});
  slot = v;
  if (v) v->uses.push_back({n, i});
}

void Graph::add_input_to(Node* n, Value* v) {
  n->inputs.push_back(nullptr);
  set_input(n, static_cast<int>(n->inputs.size()) - 1, v);
}

void Graph::replace_uses(Value* from, Value* to) {
  const std::vector<Use> uses = std::move(from->uses);
  from->uses.clear();
  for (const Use& u : uses) {
    u.node->inputs[static_cast<size_t>(u.index)] = to;
    if (to) to->uses.push_back(u);
  }
  for (Value*& o : outputs)
    if (o == from) o = to;
}

namespace {

/// Forgets what the sub-graphs of a node capture.
void unlink_captures(const Node& n) {
  const auto inner = [](const Graph& g) {
    for (Node* m : g.nodes()) {
      for (size_t i = 0; i < m->inputs.size(); ++i)
        if (Value* v = m->inputs[i]; v && v->graph != &g) forget(v->uses, {m, static_cast<int>(i)});
      unlink_captures(*m);
    }
  };
  for (const auto& [key, a] : n.attrs) {
    if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) inner(**p);
    if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (const auto& e : *q) inner(*e);
  }
}

}  // namespace

void Graph::remove(Node* n) {
  unlink_captures(*n);
  for (size_t i = 0; i < n->inputs.size(); ++i)
    if (Value* v = n->inputs[i]) forget(v->uses, {n, static_cast<int>(i)});
  drop(n);
}

void Graph::drop(Node* n) {
  n->inputs.clear();
  for (Value* v : n->outputs)
    if (v) v->producer = nullptr;
  n->outputs.clear();
  n->graph = nullptr;
}

void Graph::compact(const std::unordered_set<const Value*>* keep) {
  std::erase_if(order_, [](const Node* n) { return n->graph == nullptr; });
  std::erase_if(nodes_, [](const std::unique_ptr<Node>& n) { return n->graph == nullptr; });
  std::unordered_set<const Value*> kept(inputs.begin(), inputs.end());
  kept.insert(outputs.begin(), outputs.end());
  std::erase_if(weights,
                [&](const Value* v) { return v->uses.empty() && !kept.contains(v) && !(keep && keep->contains(v)); });
  kept.insert(weights.begin(), weights.end());
  std::erase_if(values_, [&](const std::unique_ptr<Value>& v) {
    if (v->producer || !v->uses.empty() || kept.contains(v.get())) return false;
    by_name_.erase(v->name);
    return true;
  });
}

namespace {

/// Nodes of `g` that `n` depends on: its inputs' producers, and what its sub-graphs capture.
void dependencies(const Node& n, const Graph* g, std::vector<Node*>& out) {
  for (const Value* v : n.inputs)
    if (v && v->producer && v->graph == g) out.push_back(v->producer);
  const auto inner = [&](const Graph& s, auto&& self) -> void {
    for (const Node* m : s.nodes()) {
      for (const Value* v : m->inputs)
        if (v && v->producer && v->graph == g) out.push_back(v->producer);
      for (const auto& [k, a] : m->attrs) {
        if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) self(**p, self);
        if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
          for (const auto& e : *q) self(*e, self);
      }
    }
    for (const Value* v : s.outputs)
      if (v && v->producer && v->graph == g) out.push_back(v->producer);
  };
  for (const auto& [k, a] : n.attrs) {
    if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) inner(**p, inner);
    if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (const auto& e : *q) inner(*e, inner);
  }
}

}  // namespace

void Graph::sort() {
  for (Node* n : order_) n->mark = 0;
  std::vector<Node*> sorted;
  sorted.reserve(order_.size());
  struct Item {
    Node* node;
    std::vector<Node*> deps;
    size_t next;
  };
  std::vector<Item> stack;
  for (Node* root : order_) {
    if (root->mark) continue;
    const auto push = [&](Node* n) {
      n->mark = 1;
      stack.push_back({n, {}, 0});
      dependencies(*n, this, stack.back().deps);
    };
    push(root);
    while (!stack.empty()) {
      Item& top = stack.back();
      if (top.next < top.deps.size()) {
        Node* d = top.deps[top.next++];
        if (d->mark == 1) ortmod::fail(ErrorKind::kModel, "sort", "the graph has a cycle", *d);
        if (d->mark == 0) push(d);
      } else {
        top.node->mark = 2;
        sorted.push_back(top.node);
        stack.pop_back();
      }
    }
  }
  order_ = std::move(sorted);
}

bool Graph::is_output(const Value* v) const { return std::find(outputs.begin(), outputs.end(), v) != outputs.end(); }

Node* Graph::copy_node(const Node& n, std::unordered_map<const Value*, Value*>& map) {
  std::vector<Value*> in, out;
  in.reserve(n.inputs.size());
  out.reserve(n.outputs.size());
  for (Value* v : n.inputs) {
    const auto it = map.find(v);
    in.push_back(it == map.end() ? v : it->second);
  }
  for (const Value* v : n.outputs) {
    if (!v) {
      out.push_back(nullptr);
      continue;
    }
    Value* c = add_value(v->name, v->type);
    c->host = v->host;
    c->metadata = v->metadata;
    map[v] = c;
    out.push_back(c);
  }
  Attrs attrs = n.attrs;
  for (auto& [k, a] : attrs) {
    if (auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) *p = (*p)->clone(&map, this);
    if (auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (auto& e : *q) e = e->clone(&map, this);
  }
  Node* c = add_node(n.op, std::move(in), std::move(out), std::move(attrs), n.name);
  c->version = n.version;
  c->origin = n.origin;
  c->source = n.source;
  c->metadata = n.metadata;
  return c;
}

std::unique_ptr<Graph> Graph::clone(std::unordered_map<const Value*, Value*>* map, Graph* parent) const {
  std::unordered_map<const Value*, Value*> local;
  auto& m = map ? *map : local;
  auto g = std::make_unique<Graph>(parent);
  m.reserve(m.size() + values_.size());
  g->values_.reserve(values_.size());
  g->by_name_.reserve(values_.size());
  g->nodes_.reserve(nodes_.size());
  g->order_.reserve(order_.size());
  g->name = name;
  g->doc = doc;
  g->opsets = opsets;
  g->ir_version = ir_version;
  g->metadata = metadata;
  for (const Value* v : inputs) {
    Value* c = g->add_input(v->name, v->type);
    c->literal = v->literal;
    c->metadata = v->metadata;
    m[v] = c;
  }
  for (const Value* v : weights) {
    Value* c = g->add_weight(v->name, v->literal);
    c->type = v->type;
    c->metadata = v->metadata;
    m[v] = c;
  }
  for (const Node* n : order_) g->copy_node(*n, m);
  for (Value* v : outputs) {
    const auto it = m.find(v);
    g->outputs.push_back(it == m.end() ? v : it->second);
  }
  return g;
}

}  // namespace ortmod
