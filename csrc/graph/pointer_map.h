// Maps and sets keyed by pointers to objects that lie side by side (see slab.h): neighbours share cache lines.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <utility>
#include <vector>

#include "graph/pages.h"

namespace ortmod {

/// Open addressing at half load. Eight neighbours in memory go to eight neighbouring entries of a block that is chosen
/// by a hash, so that walks in the order of the graph read the table in order, too. The null pointer is never a key.
template <class K, class T>
class PointerMap {
 public:
  struct Entry {
    const K* key = nullptr;
    [[no_unique_address]] T value{};
  };

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  bool contains(const K* k) const { return locate(k) != nullptr; }
  T* find(const K* k) {
    Entry* e = const_cast<Entry*>(locate(k));
    return e ? &e->value : nullptr;
  }
  const T* find(const K* k) const {
    const Entry* e = locate(k);
    return e ? &e->value : nullptr;
  }
  const T& at(const K* k) const {
    const Entry* e = locate(k);
    if (!e) throw std::out_of_range("PointerMap::at");
    return e->value;
  }
  T& operator[](const K* k) { return add(k).first->value; }
  /// The value of a key, and whether it was added just now.
  std::pair<T*, bool> try_emplace(const K* k, T value) {
    const auto [e, added] = add(k);
    if (added) e->value = std::move(value);
    return {&e->value, added};
  }
  bool erase(const K* k) {
    Entry* e = const_cast<Entry*>(locate(k));
    if (!e) return false;
    size_t hole = static_cast<size_t>(e - entries_.data());
    for (size_t i = next(hole); entries_[i].key; i = next(i)) {
      const size_t h = home(entries_[i].key);
      if (((i - h) & mask_) < ((i - hole) & mask_)) continue;  // its home lies behind the hole
      entries_[hole] = std::move(entries_[i]);
      hole = i;
    }
    entries_[hole] = Entry{};
    --size_;
    return true;
  }
  void clear() { *this = PointerMap(); }
  void reserve(size_t n) {
    size_t capacity = kSmallest;
    while (capacity < 2 * n) capacity *= 2;
    if (capacity > entries_.size()) rehash(capacity);
  }

  /// Entries in no particular order.
  class Iterator {
   public:
    Iterator(const Entry* at, const Entry* end) : at_(at), end_(end) { skip(); }
    const Entry& operator*() const { return *at_; }
    Iterator& operator++() {
      ++at_;
      skip();
      return *this;
    }
    bool operator==(const Iterator& o) const { return at_ == o.at_; }

   private:
    void skip() {
      while (at_ != end_ && !at_->key) ++at_;
    }
    const Entry *at_, *end_;
  };
  Iterator begin() const { return {entries_.data(), entries_.data() + entries_.size()}; }
  Iterator end() const { return {entries_.data() + entries_.size(), entries_.data() + entries_.size()}; }

 private:
  static constexpr size_t kSmallest = 16;
  static constexpr int kBlockBits = 3;

  size_t home(const K* k) const {
    const uint64_t i = reinterpret_cast<uintptr_t>(k) / sizeof(K);
    const uint64_t block = (i >> kBlockBits) * 0x9E3779B97F4A7C15ull >> shift_;
    return static_cast<size_t>(block << kBlockBits | (i & ((1u << kBlockBits) - 1)));
  }
  size_t next(size_t i) const { return (i + 1) & mask_; }

  const Entry* locate(const K* k) const {
    if (size_ == 0 || !k) return nullptr;
    for (size_t i = home(k); entries_[i].key; i = next(i))
      if (entries_[i].key == k) return &entries_[i];
    return nullptr;
  }
  std::pair<Entry*, bool> add(const K* k) {
    if (2 * (size_ + 1) > entries_.size()) rehash(entries_.empty() ? kSmallest : 2 * entries_.size());
    size_t i = home(k);
    for (; entries_[i].key; i = next(i))
      if (entries_[i].key == k) return {&entries_[i], false};
    entries_[i].key = k;
    ++size_;
    return {&entries_[i], true};
  }
  void rehash(size_t capacity) {
    std::vector<Entry> old;
    reserve_mapped(old, capacity);
    old.resize(capacity);
    old.swap(entries_);
    mask_ = capacity - 1;
    shift_ = 64 + kBlockBits;
    for (size_t c = capacity; c > 1; c /= 2) --shift_;
    for (Entry& e : old) {
      if (!e.key) continue;
      size_t i = home(e.key);
      while (entries_[i].key) i = next(i);
      entries_[i] = std::move(e);
    }
  }

  std::vector<Entry> entries_;
  size_t size_ = 0, mask_ = 0;
  int shift_ = 0;
};

template <class K>
class PointerSet {
 public:
  PointerSet() = default;
  PointerSet(std::initializer_list<const K*> keys) : PointerSet(keys.begin(), keys.end()) {}
  template <class It>
  PointerSet(It b, It e) {
    insert(b, e);
  }
  size_t size() const { return map_.size(); }
  bool empty() const { return map_.empty(); }
  bool contains(const K* k) const { return map_.contains(k); }
  /// False: it was there.
  bool insert(const K* k) { return k && map_.try_emplace(k, {}).second; }
  template <class It>
  void insert(It b, It e) {
    for (; b != e; ++b) insert(*b);
  }
  bool erase(const K* k) { return map_.erase(k); }
  void reserve(size_t n) { map_.reserve(n); }
  /// The members in no particular order.
  std::vector<const K*> list() const {
    std::vector<const K*> r;
    r.reserve(size());
    for (const auto& e : map_) r.push_back(e.key);
    return r;
  }

 private:
  struct Nothing {};
  PointerMap<K, Nothing> map_;
};

}  // namespace ortmod
