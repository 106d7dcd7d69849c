// The table of registered gradient rules.
#include "grad/custom.h"

#include <mutex>
#include <unordered_map>

namespace ortmod {
namespace {

std::mutex mutex;
std::unordered_map<Op, std::shared_ptr<const Graph>>& table() {
  static auto* t = new std::unordered_map<Op, std::shared_ptr<const Graph>>;
  return *t;
}

}  // namespace

void register_gradient(const std::string& domain, const std::string& op, std::shared_ptr<const Graph> rule) {
  std::lock_guard lock(mutex);
  table()[intern(domain, op)] = std::move(rule);
}

void unregister_gradient(const std::string& domain, const std::string& op) {
  std::lock_guard lock(mutex);
  table().erase(intern(domain, op));
}

std::shared_ptr<const Graph> custom_gradient(Op op) {
  std::lock_guard lock(mutex);
  const auto it = table().find(op);
  return it == table().end() ? nullptr : it->second;
}

}  // namespace ortmod
