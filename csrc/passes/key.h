// Keys: bytes that are equal for equal constants and attributes.
#pragma once
#include <string>
#include <string_view>

#include "graph/graph.h"

namespace ortmod {

template <class T>
void put(std::string& key, const T& v) {
  key.append(reinterpret_cast<const char*>(&v), sizeof v);
}
void put_text(std::string& key, std::string_view s);
/// Large constants are equal when they are the same memory.
constexpr size_t kMostCompared = 256;  // bytes
void put_literal(std::string& key, const Literal& l);
/// False: an attribute that is not compared.
bool put_attr(std::string& key, const Attr& a);

}  // namespace ortmod
