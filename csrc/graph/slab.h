// Memory for objects that live about as long as their owner: side by side, in the order in which they were made.
#pragma once
#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "graph/pages.h"

namespace ortmod {

/// Objects are destroyed one by one by the owner; their memory goes when the slab does.
template <class T>
class Slab {
 public:
  Slab() = default;
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  template <class... Args>
  T* make(Args&&... args) {
    if (left_ == 0) grow(std::clamp(made_, kFewest, kMost));
    T* place = reinterpret_cast<T*>(chunks_.back().get()) + (in_chunk_ - left_);
    std::construct_at(place, std::forward<Args>(args)...);
    --left_;
    ++made_;
    return place;
  }
  /// The next `n` objects lie in one piece.
  void reserve(size_t n) {
    if (n > left_) grow(n);
  }

 private:
  static constexpr size_t kFewest = 4, kMost = 512;
  struct Place {
    alignas(T) std::byte bytes[sizeof(T)];
  };
  void grow(size_t n) {
    chunks_.push_back(std::make_unique_for_overwrite<Place[]>(n));
    map_pages(chunks_.back().get(), n * sizeof(Place));
    in_chunk_ = left_ = n;
  }

  std::vector<std::unique_ptr<Place[]>> chunks_;
  size_t in_chunk_ = 0, left_ = 0, made_ = 0;
};

}  // namespace ortmod
