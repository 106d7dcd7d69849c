// JSON as checkpoints need it: parsed into a tree, and strings written.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ortmod {

struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kList, kObject } kind = Kind::kNull;
  std::string text;  // of a string, or of a number or bool as written
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  /// A member of an object, or null.
  const Json* find(std::string_view key) const;
  /// The same; a ModelError without it.
  const Json& at(std::string_view key) const;
  const std::string& string() const;
  int64_t integer() const;
  double number() const;
  const std::vector<Json>& list() const;
  std::vector<int64_t> integers() const;
  std::vector<std::string> strings() const;
};

/// Malformed text is a ModelError that names `what`.
Json parse_json(std::string_view text, const std::string& what);
/// The string as a JSON literal, with quotes.
std::string json_string(std::string_view s);
std::string json_list(const std::vector<std::string>& literals);

}  // namespace ortmod
