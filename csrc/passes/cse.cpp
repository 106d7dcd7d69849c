// Common sub-expressions: equal nodes and equal small constants are computed and kept once.
#include <bit>
#include <unordered_map>

#include "ops/op.h"
#include "passes/key.h"
#include "passes/pass.h"
#include "passes/walk.h"

namespace ortmod {
namespace {

/// What equal nodes have in common; false: the node has no equal.
bool key_of(const Node& n, std::string& key) {
  key.clear();
  const OpDef* def = find_op(n);
  if (!def || def->random || n.outputs.empty()) return false;
  put(key, n.op);
  put(key, n.version);
  for (const Value* v : n.inputs) put(key, v);
  key += '|';
  for (const Value* v : n.outputs) key += v ? 'o' : '-';
  for (const auto& [name, a] : n.attrs) {
    put_text(key, name);
    if (!put_attr(key, a)) return false;
  }
  return true;
}

/// Nodes by the hash of their keys.
class Seen {
 public:
  explicit Seen(size_t n_nodes) : entries_(std::bit_ceil(2 * n_nodes + 2)) {}

  /// An equal node that was asked for before, or null.
  Node* find_or_add(Node* n, const std::string& key) {
    const size_t hash = std::hash<std::string>{}(key), mask = entries_.size() - 1;
    size_t i = hash & mask;
    for (; entries_[i].node; i = (i + 1) & mask)
      if (entries_[i].hash == hash && key_of(*entries_[i].node, other_) && other_ == key) return entries_[i].node;
    entries_[i] = {hash, n};
    return nullptr;
  }

 private:
  struct Entry {
    size_t hash = 0;
    Node* node = nullptr;
  };
  std::vector<Entry> entries_;
  std::string other_;
};

int merge_constants(Graph& g, const PassContext& c, const ValueSet& outputs) {
  int merged = 0;
  std::unordered_map<std::string, Value*> seen;
  for (Value* w : g.weights) {
    if (!c.is_fixed(w) || w->literal->bytes() > kMostCompared || outputs.contains(w)) continue;
    std::string key;
    put_literal(key, *w->literal);
    const auto [it, fresh] = seen.emplace(std::move(key), w);
    if (fresh || w->uses.empty()) continue;
    g.redirect(w, it->second);
    ++merged;
  }
  return merged;
}

}  // namespace

int cse(Graph& g, const PassContext& c) {
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  int merged = merge_constants(g, c, outputs);
  Seen seen(g.nodes().size());
  std::string key;
  for (Node* n : g.nodes()) {
    each_subgraph(*n, [&](Graph& s) { merged += cse(s, c); });
    bool used = false, exposed = false;
    for (const Value* v : n->outputs) {
      used |= v && !v->uses.empty();
      exposed |= v && outputs.contains(v);
    }
    if (!key_of(*n, key)) continue;
    Node* equal = seen.find_or_add(n, key);
    if (!equal || !used || exposed) continue;
    for (size_t i = 0; i < n->outputs.size(); ++i)
      if (n->outputs[i]) g.redirect(n->outputs[i], equal->outputs[i]);
    ++merged;
  }
  return merged;
}

}  // namespace ortmod
