// Ownership, linking and ordering of nodes and values.
#include "graph/graph.h"

#include <algorithm>
#include <mutex>

namespace ortmod {

Op intern(std::string_view domain, std::string_view name) {
  static std::mutex mutex;
  static auto* table = new std::unordered_map<std::string, std::unique_ptr<OpName>>;
  if (domain == "ai.onnx") domain = "";
  thread_local Op recent[64] = {};
  const auto byte = [](char c) { return static_cast<unsigned char>(c); };
  const size_t place = name.empty() ? 0 : (7 * name.size() + 31 * byte(name.front()) + 3 * byte(name.back())) % 64;
  if (Op op = recent[place]; op && op->name == name && op->domain == domain) return op;
  std::string key = std::string(domain) + "::" + std::string(name);
  std::lock_guard lock(mutex);
  auto& slot = (*table)[std::move(key)];
  if (!slot) slot = std::make_unique<OpName>(OpName{std::string(domain), std::string(name)});
  return recent[place] = slot.get();
}

int Graph::opset(std::string_view domain) const {
  const auto it = opsets.find(std::string(domain));
  if (it != opsets.end()) return it->second;
  if (parent_) return parent_->opset(domain);
  return 1;
}

Graph::~Graph() {
  for (Node* n : nodes_) std::destroy_at(n);
  for (Value* v : values_) std::destroy_at(v);
}

bool Graph::is_taken(std::string_view s) const {  // nor may it hide a name of an enclosing graph
  for (const Graph* g = this; g; g = g->parent_)
    if (g->by_name_.find(s)) return true;
  return false;
}

std::string Graph::unique_name(std::string_view base) {
  std::string name(base.empty() ? "v" : base);
  if (!base.empty() && !is_taken(name)) return name;
  int& n = name_counts_[name];
  for (;;) {
    n = n == 0 && !base.empty() ? 2 : n + 1;
    std::string candidate = name + "_" + std::to_string(n);
    if (!is_taken(candidate)) return candidate;
  }
}

Value* Graph::make_value(std::string unique) {
  Value* v = value_memory_.make();
  values_.push_back(v);
  v->name = std::move(unique);
  v->graph = this;
  by_name_.insert(v);
  return v;
}

Value* Graph::add_value(std::string_view name, Type type) {
  Value* v = make_value(unique_name(name));
  v->type = std::move(type);
  return v;
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

Value* Graph::find(std::string_view name) const { return by_name_.find(name); }

void Graph::rename(Value* v, std::string_view name) {
  if (v->name == name) return;
  std::string fresh = unique_name(name);
  by_name_.erase(v);
  v->name = std::move(fresh);
  by_name_.insert(v);
}

void Graph::link(Node* n) {
  for (size_t i = 0; i < n->inputs.size(); ++i)
    if (Value* v = n->inputs[i]) attach(n, i, v);
  for (size_t i = 0; i < n->outputs.size(); ++i)
    if (Value* v = n->outputs[i]) {
      if (v->producer && v->producer != n) v->producer->outputs[static_cast<size_t>(v->output_index)] = nullptr;
      v->producer = n;
      v->output_index = static_cast<int>(i);
    }
}

Node* Graph::add_node(Op op, Values in, Values out, Attrs attrs, std::string_view node_name) {
  Node* n = node_memory_.make();
  nodes_.push_back(n);
  n->op = op;
  n->version = op->domain == "ortmod" ? opset() : opset(op->domain);
  n->inputs = std::move(in);
  n->outputs = std::move(out);
  n->attrs = std::move(attrs);
  n->name = node_name;
  n->graph = this;
  link(n);
  order_.push_back(n);
  return n;
}

Node* Graph::add_node(Op op, Values in, int n_outputs, Attrs attrs, std::string_view node_name) {
  Values out;
  for (int i = 0; i < n_outputs; ++i) out.push_back(add_value(""));
  return add_node(op, std::move(in), std::move(out), std::move(attrs), node_name);
}

namespace {

constexpr size_t kLong = 64;  // uses that are not searched through

void hint(const Use& u, size_t at) {
  std::vector<uint32_t>& hints = u.node->use_hints.own();
  const auto i = static_cast<size_t>(u.index);
  if (hints.size() <= i) hints.resize(i + 1);
  hints[i] = static_cast<uint32_t>(at);
}

}  // namespace

void Graph::attach(Node* n, size_t i, Value* v) {
  v->uses.push_back({n, static_cast<int>(i)});
  if (v->uses.size() > kLong)
    hint(v->uses.back(), v->uses.size() - 1);
  else if (v->uses.size() == kLong)
    hint_uses(v);
}

void Graph::hint_uses(Value* v) {
  if (v->uses.size() >= kLong)
    for (size_t k = 0; k < v->uses.size(); ++k) hint(v->uses[k], k);
}

/// Short lists of uses keep their order; in a long one the last use goes to the free place.
void Graph::detach(Node* n, size_t i, Value* v) {
  auto& uses = v->uses;
  const Use u{n, static_cast<int>(i)};
  if (uses.size() < kLong) {
    uses.erase_if([&](const Use& o) { return o == u; });
    return;
  }
  const std::vector<uint32_t>& hints = *n->use_hints;
  size_t at = i < hints.size() ? hints[i] : uses.size();
  if (at >= uses.size() || !(uses[at] == u))
    at = static_cast<size_t>(std::find(uses.begin(), uses.end(), u) - uses.begin());
  if (at == uses.size()) return;
  uses[at] = uses.back();
  hint(uses[at], at);
  uses.pop_back();
}

void Graph::set_input(Node* n, int i, Value* v) {
  Value*& slot = n->inputs[static_cast<size_t>(i)];
  if (slot == v) return;
  if (slot) detach(n, static_cast<size_t>(i), slot);
  slot = v;
  if (v) attach(n, static_cast<size_t>(i), v);
}

void Graph::add_input_to(Node* n, Value* v) {
  n->inputs.push_back(nullptr);
  set_input(n, static_cast<int>(n->inputs.size()) - 1, v);
}

void Graph::redirect(Value* from, Value* to) {
  const SmallVec<Use, 2> uses = std::move(from->uses);
  for (const Use& u : uses) {
    u.node->inputs[static_cast<size_t>(u.index)] = to;
    if (to) attach(u.node, static_cast<size_t>(u.index), to);
  }
}

void Graph::replace_uses(Value* from, Value* to) {
  redirect(from, to);
  for (Value*& o : outputs)
    if (o == from) o = to;
}

void Graph::exchange(Value* a, Value* b) {
  std::swap(a->producer->outputs[static_cast<size_t>(a->output_index)],
            b->producer->outputs[static_cast<size_t>(b->output_index)]);
  std::swap(a->producer, b->producer);
  std::swap(a->output_index, b->output_index);
}

void Graph::unlink_captures(const Node& n) {
  const auto inner = [](const Graph& g) {
    for (Node* m : g.nodes()) {
      for (size_t i = 0; i < m->inputs.size(); ++i)
        if (Value* v = m->inputs[i]; v && v->graph != &g) detach(m, i, v);
      unlink_captures(*m);
    }
  };
  for (const auto& [key, a] : n.attrs) {
    if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) inner(**p);
    if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (const auto& e : *q) inner(*e);
  }
}

void Graph::remove(Node* n) {
  unlink_captures(*n);
  for (size_t i = 0; i < n->inputs.size(); ++i)
    if (Value* v = n->inputs[i]) detach(n, i, v);
  drop(n);
}

void Graph::drop(Node* n) {
  n->inputs.clear();
  for (Value* v : n->outputs)
    if (v) v->producer = nullptr;
  n->outputs.clear();
  n->graph = nullptr;
}

void Graph::compact(const ValueSet* keep) {
  std::erase_if(order_, [](const Node* n) { return n->graph == nullptr; });
  std::erase_if(nodes_, [](Node* n) {
    if (n->graph) return false;
    std::destroy_at(n);
    return true;
  });
  ValueSet kept;
  kept.reserve(inputs.size() + outputs.size() + weights.size());
  kept.insert(inputs.begin(), inputs.end());
  kept.insert(outputs.begin(), outputs.end());
  std::erase_if(weights,
                [&](const Value* v) { return v->uses.empty() && !kept.contains(v) && !(keep && keep->contains(v)); });
  kept.insert(weights.begin(), weights.end());
  std::erase_if(values_, [&](Value* v) {
    if (v->producer || !v->uses.empty() || kept.contains(v)) return false;
    by_name_.erase(v);
    std::destroy_at(v);
    return true;
  });
}

namespace {

/// Nodes of `g` that the sub-graphs of `n` capture values of.
void captured_nodes(const Node& n, const Graph* g, std::vector<Node*>& out) {
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

namespace {

/// Every node stands after those it depends on.
bool is_sorted(const std::vector<Node*>& order, const Graph* g) {
  for (Node* n : order) n->mark = 0;
  std::vector<Node*> captured;
  for (Node* n : order) {
    for (const Value* v : n->inputs)
      if (v && v->producer && v->graph == g && !v->producer->mark) return false;
    if (!n->attrs.empty()) {
      captured.clear();
      captured_nodes(*n, g, captured);
      for (const Node* c : captured)
        if (!c->mark) return false;
    }
    n->mark = 1;
  }
  return true;
}

}  // namespace

void Graph::sort() {
  if (is_sorted(order_, this)) return;
  for (Node* n : order_) n->mark = 0;
  std::vector<Node*> sorted;
  sorted.reserve(order_.size());
  struct Item {
    Node* node;
    size_t next;      // input to look at
    size_t captured;  // what the sub-graphs of the node capture: the nodes from there on
  };
  std::vector<Item> stack;
  std::vector<Node*> captured;
  for (Node* root : order_) {
    if (root->mark) continue;
    const auto push = [&](Node* n) {
      n->mark = 1;
      stack.push_back({n, 0, captured.size()});
      if (!n->attrs.empty()) {
        captured_nodes(*n, this, captured);
        std::reverse(captured.begin() + static_cast<std::ptrdiff_t>(stack.back().captured), captured.end());
      }
    };
    push(root);
    while (!stack.empty()) {
      Item& top = stack.back();
      Node* d = nullptr;
      if (top.next < top.node->inputs.size()) {
        const Value* v = top.node->inputs[top.next++];
        if (!v || !v->producer || v->graph != this) continue;
        d = v->producer;
      } else if (captured.size() > top.captured) {
        d = captured.back();
        captured.pop_back();
      } else {
        top.node->mark = 2;
        sorted.push_back(top.node);
        stack.pop_back();
        continue;
      }
      if (d->mark == 1) ortmod::fail(ErrorKind::kModel, "sort", "the graph has a cycle", *d);
      if (d->mark == 0) push(d);
    }
  }
  order_ = std::move(sorted);
}

bool Graph::is_output(const Value* v) const { return std::find(outputs.begin(), outputs.end(), v) != outputs.end(); }

Node* Graph::copy_node(const Node& n, ValueMap& map, bool names_are_free) {
  Values in, out;
  in.reserve(n.inputs.size());
  out.reserve(n.outputs.size());
  for (Value* v : n.inputs) {
    Value* const* copy = map.find(v);
    in.push_back(copy ? *copy : v);
  }
  for (const Value* v : n.outputs) {
    if (!v) {
      out.push_back(nullptr);
      continue;
    }
    Value* c = make_value(names_are_free ? v->name : unique_name(v->name));
    c->type = v->type;
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

void Graph::reserve(size_t n_nodes, size_t n_values) {
  node_memory_.reserve(n_nodes);
  nodes_.reserve(nodes_.size() + n_nodes);
  order_.reserve(order_.size() + n_nodes);
  value_memory_.reserve(n_values);
  values_.reserve(values_.size() + n_values);
  by_name_.reserve(values_.size() + n_values);
}

std::unique_ptr<Graph> Graph::clone(ValueMap* map, Graph* parent) const {
  ValueMap local;
  auto& m = map ? *map : local;
  auto g = std::make_unique<Graph>(parent);
  m.reserve(m.size() + values_.size());
  g->reserve(order_.size(), values_.size());
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
  for (const Node* n : order_) g->copy_node(*n, m, parent == nullptr);
  for (Value* v : outputs) {
    Value* const* copy = m.find(v);
    g->outputs.push_back(copy ? *copy : v);
  }
  return g;
}

}  // namespace ortmod
