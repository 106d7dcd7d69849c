// Reading and copying attributes; comparing dimensions.
#pragma once
#include <initializer_list>
#include <span>

#include "graph/graph.h"

namespace ortmod {

/// The elements of the integer list `key`; empty when absent. An attribute of another type is a ModelError.
inline std::span<const int64_t> int_list(const Node& n, std::string_view key) {
  const Attr* a = n.find(key);
  if (!a) return {};
  if (const auto* v = std::get_if<std::vector<int64_t>>(a)) return *v;
  if (const auto* d = std::get_if<std::vector<double>>(a); d && d->empty()) return {};
  n.ints(key);  // throws
  return {};
}

/// Those of the attributes `keys` that the node has.
inline Attrs copy_attrs(const Node& n, std::initializer_list<std::string_view> keys) {
  Attrs r;
  for (std::string_view k : keys)
    if (const Attr* a = n.find(k)) r.emplace_back(std::string(k), *a);
  return r;
}

/// Do two dimensions certainly differ?
inline bool differ(Dim a, Dim b) { return is_known(a) && is_known(b) && a != b; }
/// The better known of two dimensions that must be equal.
inline Dim agree(Dim a, Dim b) { return is_known(a) || b == kAnyDim ? a : b; }

}  // namespace ortmod
