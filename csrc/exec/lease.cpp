// Lending frames, and running a plan in one.
#include "exec/lease.h"

#include <ATen/ATen.h>

namespace ortmod {

Lease::Lease(Sizes& s) : s_(s) {
  {
    std::lock_guard lock(s.mutex);
    if (!s.idle.empty()) {
      frame_ = std::move(s.idle.back());
      s.idle.pop_back();
    }
  }
  if (!frame_) frame_ = std::make_unique<Frame>(s);
  const int64_t own = (s.list.scratch_bytes() + 63) / 64 * 64, bytes = own + s.scratch_bytes;
  if (bytes > 0) {
    scratch_ = s.plan->scratch_pool().take(static_cast<size_t>(bytes), capacity_);
    frame_->bind(kStepScratch, scratch_.get());
    frame_->bind(kScratch, static_cast<char*>(scratch_.get()) + own);
  }
}

void Lease::end() {
  if (scratch_) s_.plan->scratch_pool().give(std::move(scratch_), capacity_);
  std::lock_guard lock(s_.mutex);
  if (s_.idle.size() < kMaxIdle) s_.idle.push_back(std::move(frame_));
}

namespace {

at::Tensor empty(const Type& t, at::Device d) {
  const at::IntArrayRef sizes(t.dims.data(), t.dims.size());
  const at::ScalarType s = to_scalar_type(t.dtype);
  return d.is_cpu() ? at::Tensor(at::detail::empty_cpu(sizes, s))
                    : at::empty(sizes, at::TensorOptions().dtype(s).device(d));
}

}  // namespace

std::vector<at::Tensor> run_plan(Sizes& s, Lease& f, std::vector<at::Tensor>* kept) {
  const Plan& p = *s.plan;
  std::vector<at::Tensor> outputs(p.num_outputs());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int v = p.outputs()[i];
    if (s.places[static_cast<size_t>(v)] == Place::kSlot) continue;
    outputs[i] = empty(s.types[static_cast<size_t>(v)], p.device());
    f->bind(p.base_of_output(i), const_cast<void*>(outputs[i].const_data_ptr()));
  }
  if (kept && s.kept_bytes > 0) {
    kept->push_back(p.kept_pool()->tensor(s.kept_bytes));
    f->bind(kKept, const_cast<void*>(kept->back().const_data_ptr()));
  }
  run(s, *f);
  for (int i : s.slot_outputs) outputs[static_cast<size_t>(i)] = f->tensor(p.outputs()[static_cast<size_t>(i)]);
  if (kept)
    for (int v : s.kept_slots) kept->push_back(f->tensor(v));
  return outputs;
}

void bind_input(const Sizes& s, Lease& f, size_t i, const at::Tensor& t) {
  if (s.places[i] == Place::kSlot) {
    f->bind_slot(static_cast<int>(i), t);
  } else {
    f->bind(s.plan->base_of_input(i), const_cast<void*>(t.const_data_ptr()));
  }
}

}  // namespace ortmod
