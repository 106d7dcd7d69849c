// What a kernel sees: `Call` for the general kernel on tensors, `Bind` to emit static CPU steps.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "graph/graph.h"
#include "ops/infer.h"
#include "ops/step.h"

namespace ortmod {

at::ScalarType to_scalar_type(DType t);
DType from_scalar_type(at::ScalarType t);

/// One call of a general kernel. Outputs with a place in the frame are written with `out=`; others are slots that ATen
/// allocates.
class Call {
 public:
  Call(const Node& node, at::Tensor* const* in, size_t n_in, at::Tensor* const* out, const bool* placed, size_t n_out,
       at::Device device)
      : node_(node), in_(in), n_in_(n_in), out_(out), placed_(placed), n_out_(n_out), device_(device) {}

  const Node& node() const { return node_; }
  at::Device device() const { return device_; }
  size_t num_in() const { return n_in_; }
  size_t num_out() const { return n_out_; }
  bool has(size_t i) const { return i < n_in_ && in_[i] != nullptr; }
  /// Contiguous input.
  const at::Tensor& in(size_t i = 0) const { return *in_[i]; }
  bool wants(size_t o) const { return o < n_out_ && out_[o] != nullptr; }
  /// Destination for `at::*_out`; has the right shape when placed, else empty and of the right type.
  at::Tensor& out(size_t o = 0) { return *out_[o]; }
  /// Gives output o: copied into its place, or kept as the slot (made contiguous; must not alias an input).
  void set(size_t o, const at::Tensor& t);
  /// Integer elements of input i (shape, axes, ...), read on the host.
  std::vector<int64_t> ints(size_t i) const;
  double number(size_t i) const;
  /// Axes from attribute or input, normalised against `rank`; nothing given: empty vector.
  std::vector<int64_t> axes(size_t input, int64_t rank) const;
  [[noreturn]] void fail(const std::string& what, int input = -1) const;

 private:
  const Node& node_;
  at::Tensor* const* in_;
  size_t n_in_;
  at::Tensor* const* out_;
  const bool* placed_;
  size_t n_out_;
  at::Device device_;
};

/// Binds one node with known shapes on the CPU: operands are (base, offset), steps are appended to the program.
class Bind {
 public:
  Bind(const Node& node, std::span<const StepList::Slot> in, std::span<const StepList::Slot> out, StepList& steps)
      : node(node), in_(in), out_(out), steps_(steps) {}
  const Node& node;
  size_t num_in() const { return in_.size(); }
  size_t num_out() const { return out_.size(); }
  bool has(size_t i) const { return i < in_.size() && in_[i].present; }
  bool wants(size_t o) const { return o < out_.size() && out_[o].present; }
  DType dtype(size_t i = 0) const { return in_[i].dtype; }
  DType out_dtype(size_t o = 0) const { return out_[o].dtype; }
  const Dims& dims(size_t i = 0) const { return *in_[i].dims; }
  const Dims& out_dims(size_t o = 0) const { return *out_[o].dims; }
  int64_t numel(size_t i = 0) const { return ortmod::numel(dims(i)); }
  int64_t out_numel(size_t o = 0) const { return ortmod::numel(out_dims(o)); }
  /// Host-known integers of input i, or null.
  const HostInts* ints(size_t i) const { return in_[i].ints; }
  Operand in(size_t i = 0) const { return in_[i].operand; }
  Operand out(size_t o = 0) const { return out_[o].operand; }
  /// Memory for this node's steps only.
  Operand scratch(size_t bytes) { return steps_.scratch(bytes); }
  /// Appends `fn(args, base)`; Args must be trivially copyable.
  template <class Args>
  void emit(void (*fn)(const Args&, char* const*), const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>);
    steps_.push(step_fn(fn), &args, sizeof(Args), alignof(Args));
  }
  StepList& steps() { return steps_; }

 private:
  std::span<const StepList::Slot> in_, out_;
  StepList& steps_;
};

}  // namespace ortmod
