// Pools of idle memory blocks with a cap on number and bytes.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <mutex>
#include <vector>

namespace ortmod {

/// A block of device memory; returns to its pool when destroyed.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static constexpr size_t kMaxIdle = 8;
  static constexpr size_t kMaxIdleBytes = size_t{256} << 20;

  explicit BufferPool(at::Device device) : device_(device) {}
  /// At least `bytes` bytes, 64-byte aligned; contents undefined.
  at::DataPtr take(size_t bytes, size_t& capacity);
  void give(at::DataPtr p, size_t capacity);
  /// A byte tensor of `bytes` whose storage returns to the pool when freed.
  at::Tensor tensor(int64_t bytes);

 private:
  struct Idle {
    at::DataPtr data;
    size_t capacity;
  };
  at::Device device_;
  std::mutex mutex_;
  std::vector<Idle> idle_;
  size_t idle_bytes_ = 0;
};

}  // namespace ortmod
