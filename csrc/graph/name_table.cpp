// Values by name: open addressing at most half full.
#include "graph/name_table.h"

#include <functional>

#include "graph/graph.h"
#include "graph/pages.h"

namespace ortmod {
namespace {

constexpr int kBlockBits = 3;

/// Names are made in numbered rows (v_17, v_18, or h17_grad): eight neighbours go to eight neighbouring entries.
size_t hash_of(std::string_view name) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  size_t end = name.size();
  while (end > 0 && !is_digit(name[end - 1])) --end;
  size_t begin = end, number = 0;
  while (begin > 0 && end - begin < 2 && is_digit(name[begin - 1])) --begin;
  for (size_t i = begin; i < end; ++i) number = 10 * number + static_cast<size_t>(name[i] - '0');
  const std::hash<std::string_view> hash;
  const size_t block =
      hash(name.substr(0, begin)) + 0x9E3779B97F4A7C15ull * (hash(name.substr(end)) + (number >> kBlockBits));
  return (block ^ block >> 32) << kBlockBits | (number & ((1u << kBlockBits) - 1));
}

constexpr size_t kSmallest = 8;

}  // namespace

Value* NameTable::find(std::string_view name) const {
  if (size_ == 0) return nullptr;
  const size_t h = hash_of(name);
  for (size_t i = h & (entries_.size() - 1); entries_[i].value; i = next(i))
    if (entries_[i].hash == h && entries_[i].value->name == name) return entries_[i].value;
  return nullptr;
}

void NameTable::insert(Value* v) {
  if (2 * (size_ + 1) > entries_.size()) rehash(entries_.empty() ? kSmallest : 2 * entries_.size());
  const size_t h = hash_of(v->name);
  size_t i = h & (entries_.size() - 1);
  while (entries_[i].value) i = next(i);
  entries_[i] = {h, v};
  ++size_;
}

void NameTable::erase(const Value* v) {
  if (size_ == 0) return;
  const size_t mask = entries_.size() - 1;
  size_t hole = hash_of(v->name) & mask;
  for (; entries_[hole].value != v; hole = next(hole))
    if (!entries_[hole].value) return;
  for (size_t i = next(hole); entries_[i].value; i = next(i)) {
    if (((i - entries_[i].hash) & mask) < ((i - hole) & mask)) continue;  // its place lies behind the hole
    entries_[hole] = entries_[i];
    hole = i;
  }
  entries_[hole] = {};
  --size_;
}

void NameTable::reserve(size_t n) {
  size_t capacity = kSmallest;
  while (capacity < 2 * n) capacity *= 2;
  if (capacity > entries_.size()) rehash(capacity);
}

void NameTable::rehash(size_t capacity) {
  std::vector<Entry> old;
  reserve_mapped(old, capacity);
  old.resize(capacity);
  old.swap(entries_);
  for (const Entry& e : old) {
    if (!e.value) continue;
    size_t i = e.hash & (capacity - 1);
    while (entries_[i].value) i = next(i);
    entries_[i] = e;
  }
}

}  // namespace ortmod
