// Values by name; the names are those that the values hold.
#pragma once
#include <cstddef>
#include <string_view>
#include <vector>

namespace ortmod {

struct Value;

class NameTable {
 public:
  Value* find(std::string_view name) const;
  /// Its name must not be in the table.
  void insert(Value* v);
  /// Before its name changes.
  void erase(const Value* v);
  void reserve(size_t n);

 private:
  struct Entry {
    size_t hash = 0;
    Value* value = nullptr;
  };
  void rehash(size_t capacity);
  size_t next(size_t i) const { return (i + 1) & (entries_.size() - 1); }

  std::vector<Entry> entries_;  // open addressing; a power of two of them
  size_t size_ = 0;
};

}  // namespace ortmod
