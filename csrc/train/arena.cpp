// Blocks of huge pages, kept when they are given back.
#include "train/arena.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "kernels/cpu/copy.h"

namespace ortmod {
namespace {

constexpr size_t kPage = size_t{2} << 20;
constexpr size_t kSmall = 1 << 18;  // below, plain loops instead of threads

class Blocks {
 public:
  static constexpr size_t kMaxIdleBytes = size_t{128} << 20;

  /// Never destroyed: tensors may outlive what is static.
  static Blocks& all() {
    static auto* blocks = new Blocks;
    return *blocks;
  }

  /// At least `bytes` in whole pages, null when the system has none.
  char* take(size_t& bytes) {
    bytes = (bytes + kPage - 1) / kPage * kPage;
    {
      const std::lock_guard lock(mutex_);
      size_t best = idle_.size();
      for (size_t i = 0; i < idle_.size(); ++i)
        if (idle_[i].bytes >= bytes && idle_[i].bytes <= bytes + bytes / 4 &&
            (best == idle_.size() || idle_[i].bytes < idle_[best].bytes))
          best = i;
      if (best < idle_.size()) {
        const Block b = idle_[best];
        idle_bytes_ -= b.bytes;
        idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(best));
        bytes = b.bytes;
        return b.data;
      }
    }
    void* mapped = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* begin = static_cast<char*>(mapped);
    const size_t before = (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
    if (before) munmap(begin, before);
    if (before < kPage) munmap(begin + before + bytes, kPage - before);
    madvise(begin + before, bytes, MADV_HUGEPAGE);
    return begin + before;
  }

  void give(char* data, size_t bytes) {
    std::vector<Block> dropped;
    {
      const std::lock_guard lock(mutex_);
      idle_.push_back({data, bytes});
      idle_bytes_ += bytes;
      while (idle_bytes_ > kMaxIdleBytes) {
        idle_bytes_ -= idle_.front().bytes;
        dropped.push_back(idle_.front());
        idle_.erase(idle_.begin());
      }
    }
    for (const Block& b : dropped) munmap(b.data, b.bytes);
  }

 private:
  struct Block {
    char* data;
    size_t bytes;
  };
  std::mutex mutex_;
  std::vector<Block> idle_;  // the oldest first
  size_t idle_bytes_ = 0;
};

}  // namespace

at::Tensor arena(at::IntArrayRef sizes, const at::TensorOptions& options) {
  size_t bytes = options.dtype().itemsize();
  for (const int64_t n : sizes) bytes *= static_cast<size_t>(n);
  if (!options.device().is_cpu() || bytes < kPage) return at::empty(sizes, options);
  char* data = Blocks::all().take(bytes);
  if (!data) return at::empty(sizes, options);
  return at::from_blob(
      data, sizes, [bytes](void* p) { Blocks::all().give(static_cast<char*>(p), bytes); }, options);
}

void copy_arena(const at::Tensor& to, const at::Tensor& from) {
  if (!from.is_cpu() || !to.is_cpu() || !from.is_contiguous() || !to.is_contiguous() || to.dtype() != from.dtype()) {
    to.copy_(from);
  } else if (from.nbytes() < kSmall) {
    std::memcpy(to.data_ptr(), from.const_data_ptr(), from.nbytes());
  } else {
    cpu::copy_past_cache(static_cast<char*>(to.data_ptr()), static_cast<const char*>(from.const_data_ptr()),
                         static_cast<int64_t>(from.nbytes()));
  }
}

void clear_arena(const at::Tensor& t) {
  if (t.is_cpu() && t.is_contiguous()) {
    std::memset(t.data_ptr(), 0, t.nbytes());
  } else {
    t.zero_();
  }
}

}  // namespace ortmod
