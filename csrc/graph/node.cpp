// Typed access to the attributes of a node.
#include "graph/graph.h"

namespace ortmod {
namespace {

template <class T>
const T* typed(const Node& n, std::string_view key, const char* expected) {
  const Attr* a = n.find(key);
  if (!a) return nullptr;
  const T* v = std::get_if<T>(a);
  if (!v)
    fail(ErrorKind::kModel, "import", "attribute \"" + std::string(key) + "\" has the wrong type: expected " + expected,
         n);
  return v;
}

}  // namespace

const Attr* Node::find(std::string_view key) const {
  for (const auto& [k, v] : attrs)
    if (k == key) return &v;
  return nullptr;
}

void Node::set(std::string_view key, Attr value) {
  for (auto& [k, v] : attrs)
    if (k == key) {
      v = std::move(value);
      return;
    }
  attrs.emplace_back(std::string(key), std::move(value));
}

void Node::erase(std::string_view key) {
  std::erase_if(attrs, [&](const auto& a) { return a.first == key; });
}

int64_t Node::attr(std::string_view key, int64_t fallback) const {
  const auto* v = typed<int64_t>(*this, key, "an integer");
  return v ? *v : fallback;
}

double Node::attr(std::string_view key, double fallback) const {
  const auto* v = typed<double>(*this, key, "a float");
  return v ? *v : fallback;
}

std::string Node::attr(std::string_view key, const char* fallback) const {
  const auto* v = typed<std::string>(*this, key, "a string");
  return v ? *v : std::string(fallback);
}

std::vector<int64_t> Node::ints(std::string_view key, std::vector<int64_t> fallback) const {
  const auto* v = typed<std::vector<int64_t>>(*this, key, "a list of integers");
  return v ? *v : std::move(fallback);
}

std::vector<double> Node::floats(std::string_view key, std::vector<double> fallback) const {
  const auto* v = typed<std::vector<double>>(*this, key, "a list of floats");
  return v ? *v : std::move(fallback);
}

}  // namespace ortmod
