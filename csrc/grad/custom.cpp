// The table of registered gradient rules.
#include "grad/custom.h"

#include <mutex>
#include <unordered_map>

#include "graph/proto.h"
#include "ops/op.h"

namespace ortmod {
namespace {

std::mutex mutex;
std::unordered_map<Op, std::shared_ptr<const Graph>>& table() {
  static auto* t = new std::unordered_map<Op, std::shared_ptr<const Graph>>;
  return *t;
}

}  // namespace

void register_gradient(const std::string& domain, const std::string& op, std::shared_ptr<const Graph> rule) {
  mark_function(intern(domain, op), true);
  std::lock_guard lock(mutex);
  table()[intern(domain, op)] = std::move(rule);
}

void unregister_gradient(const std::string& domain, const std::string& op) {
  mark_function(intern(domain, op), false);
  std::lock_guard lock(mutex);
  table().erase(intern(domain, op));
}

std::shared_ptr<const Graph> custom_gradient(const Node& n) {
  Op op = n.op;
  if (n.find("function_name")) {
    const std::string name = n.attr("function_name", "");
    const size_t cut = name.find("::");
    op = intern(name.substr(0, cut), name.substr(cut + 2));
  }
  std::lock_guard lock(mutex);
  const auto it = table().find(op);
  return it == table().end() ? nullptr : it->second;
}

size_t rule_inputs(const Node& n) {
  return static_cast<size_t>(n.attr("function_inputs", static_cast<int64_t>(n.inputs.size())));
}

bool returns_gradient(const Node& n, size_t i) {
  return reads_elements(find_op(n), i) && (i < rule_inputs(n) || !custom_gradient(n));
}

}  // namespace ortmod
