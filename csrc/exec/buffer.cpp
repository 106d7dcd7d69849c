// Pools of idle memory blocks.
#include "exec/buffer.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>

namespace ortmod {

at::DataPtr BufferPool::take(size_t bytes, size_t& capacity) {
  {
    std::lock_guard lock(mutex_);
    size_t best = idle_.size();
    for (size_t i = 0; i < idle_.size(); ++i)
      if (idle_[i].capacity >= bytes && (best == idle_.size() || idle_[i].capacity < idle_[best].capacity)) best = i;
    if (best < idle_.size()) {
      at::DataPtr p = std::move(idle_[best].data);
      capacity = idle_[best].capacity;
      idle_bytes_ -= capacity;
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(best));
      return p;
    }
  }
  capacity = (bytes + 4095) / 4096 * 4096;
  return c10::GetAllocator(device_.type())->allocate(capacity);
}

void BufferPool::give(at::DataPtr p, size_t capacity) {
  if (!device_.is_cpu()) return;  // the caching allocator is the pool
  std::vector<Idle> dropped;
  std::lock_guard lock(mutex_);
  idle_bytes_ += capacity;
  idle_.push_back({std::move(p), capacity});
  while (!idle_.empty() && (idle_.size() > kMaxIdle || idle_bytes_ > kMaxIdleBytes)) {
    idle_bytes_ -= idle_.front().capacity;
    dropped.push_back(std::move(idle_.front()));
    idle_.erase(idle_.begin());
  }
}

namespace {

struct Loan {
  std::shared_ptr<BufferPool> pool;
  at::DataPtr data;
  size_t capacity;
};

void end_loan(void* p) {
  std::unique_ptr<Loan> loan(static_cast<Loan*>(p));
  loan->pool->give(std::move(loan->data), loan->capacity);
}

}  // namespace

at::Tensor BufferPool::tensor(int64_t bytes) {
  if (!device_.is_cpu()) return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device_));
  size_t capacity = 0;
  at::DataPtr p = take(static_cast<size_t>(bytes), capacity);
  void* data = p.get();
  auto loan = std::make_unique<Loan>(Loan{shared_from_this(), std::move(p), capacity});
  c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(bytes),
                       at::DataPtr(data, loan.get(), end_loan, device_), nullptr, false);
  loan.release();
  at::Tensor t = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), caffe2::TypeMeta::Make<uint8_t>());
  t.unsafeGetTensorImpl()->set_sizes_contiguous({bytes});
  return t;
}

}  // namespace ortmod
