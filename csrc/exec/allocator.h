// Where values lie in one block of memory.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace ortmod {

/// Offsets in one block of memory: best fit among freed ranges, which merge with their neighbours.
class Allocator {
 public:
  int64_t take(int64_t bytes) {
    if (bytes == 0) return 0;
    size_t best = free_.size();
    for (size_t i = 0; i < free_.size(); ++i)
      if (free_[i].size >= bytes && (best == free_.size() || free_[i].size < free_[best].size)) best = i;
    if (best < free_.size()) {
      Range& r = free_[best];
      const int64_t at = r.at;
      r.at += bytes;
      r.size -= bytes;
      if (r.size == 0) free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(best));
      return at;
    }
    if (!free_.empty() && free_.back().at + free_.back().size == top_) {
      const int64_t at = free_.back().at;
      free_.pop_back();
      top_ = at + bytes;
      peak_ = std::max(peak_, top_);
      return at;
    }
    const int64_t at = top_;
    top_ += bytes;
    peak_ = std::max(peak_, top_);
    return at;
  }
  void give(int64_t at, int64_t bytes) {
    if (bytes == 0) return;
    auto it = std::lower_bound(free_.begin(), free_.end(), at, [](const Range& r, int64_t a) { return r.at < a; });
    it = free_.insert(it, {at, bytes});
    if (it + 1 != free_.end() && it->at + it->size == (it + 1)->at) {
      it->size += (it + 1)->size;
      free_.erase(it + 1);
    }
    if (it != free_.begin() && (it - 1)->at + (it - 1)->size == it->at) {
      (it - 1)->size += it->size;
      free_.erase(it);
    }
  }
  int64_t peak() const { return peak_; }

 private:
  struct Range {
    int64_t at, size;
  };
  std::vector<Range> free_;  // by offset
  int64_t top_ = 0, peak_ = 0;
};

}  // namespace ortmod
