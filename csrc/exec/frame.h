// The memory of one call in flight: a table of base pointers, and tensors over it for steps that go through ATen.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "exec/plan.h"

namespace ortmod {

class Frame {
 public:
  explicit Frame(const Sizes& s);

  /// The tensor of a value: over the frame, a slot, or integers on the host.
  at::Tensor& tensor(int v);
  at::Tensor& host_tensor(int v);
  /// An empty tensor of the value's type, for ATen to size.
  at::Tensor& fresh_slot(int v);
  void drop(int v) { tensors_[static_cast<size_t>(v)].reset(); }

  void bind(int32_t b, void* data) {
    base_[static_cast<size_t>(b)] = static_cast<char*>(data);
    if (storages_[static_cast<size_t>(b)]) rebind(b);
  }
  /// Input whose dims are data-dependent: the tensor itself is the value.
  void bind_slot(int v, at::Tensor t) { tensors_[static_cast<size_t>(v)] = std::move(t); }
  char* const* base() const { return base_.data(); }
  const Sizes& sizes() const { return s_; }

 private:
  void rebind(int32_t b);
  at::Tensor over_base(int v);

  const Sizes& s_;
  std::vector<char*> base_;
  std::vector<c10::Storage> storages_;
  std::vector<at::Tensor> tensors_, host_tensors_;
};

/// Runs the steps; an exception of a step becomes an Error that names its node.
void run(const Sizes& s, Frame& f);

/// Appends the step that runs an item by its general kernel.
void push_kernel_step(Sizes& s, int item, const SmallVec<int, 8>& release);
/// Appends a copy of value `from` to output `output`.
void push_copy_step(Sizes& s, int from, int output);
/// Appends a step that writes host-known integers of `v` to its place.
void push_fill_step(Sizes& s, int v);

}  // namespace ortmod
