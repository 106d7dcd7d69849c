// The arena of steps and their arguments.
#include "ops/step.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "graph/pages.h"
#include "kernels/cpu/chain.h"

namespace ortmod {

void* StepList::alloc(size_t bytes, size_t align) {
  const auto fits = [&](const Block& b) {
    const size_t at = (b.used + align - 1) / align * align;
    return at + bytes <= b.size;
  };
  if (blocks_.empty() || !fits(blocks_.back())) {
    const size_t size =
        std::max<size_t>(bytes + align, blocks_.empty() ? 1024 : std::min<size_t>(blocks_.back().size * 2, 1 << 20));
    blocks_.push_back({std::make_unique_for_overwrite<std::byte[]>(size), 0, size});
    map_pages(blocks_.back().data.get(), size);
    std::memset(blocks_.back().data.get(), 0, size);
  }
  Block& b = blocks_.back();
  b.used = (b.used + align - 1) / align * align;
  void* p = b.data.get() + b.used;
  b.used += bytes;
  return p;
}

void StepList::push(StepFn fn, const void* args, size_t bytes, size_t align) {
  void* p = alloc(bytes, align);
  std::memcpy(p, args, bytes);
  steps.push_back({fn, p});
}

void StepList::note(const cpu::ChainOp& op) {
  if (!noted || steps.empty()) return;
  notes.push_back({steps.back().args, new (alloc(sizeof op, alignof(cpu::ChainOp))) cpu::ChainOp(op)});
}

Operand StepList::scratch(size_t bytes) {
  const Operand o{scratch_base, scratch_used_ + scratch_begin};
  scratch_used_ += static_cast<int64_t>((bytes + 63) / 64 * 64);
  scratch_ = std::max(scratch_, scratch_used_);
  return o;
}

}  // namespace ortmod
