// A frame on loan for one call, and what every call does with it.
#pragma once
#include <memory>
#include <vector>

#include "exec/frame.h"

namespace ortmod {

/// A frame of the pool of these sizes for one call, with its scratch memory.
class Lease {
 public:
  explicit Lease(Sizes& s);
  Lease(const Lease&) = delete;
  /// Back to the pool after a call that ended well.
  void end();
  Frame& operator*() { return *frame_; }
  Frame* operator->() { return frame_.get(); }

 private:
  static constexpr size_t kMaxIdle = 4;
  Sizes& s_;
  std::unique_ptr<Frame> frame_;
  at::DataPtr scratch_;
  size_t capacity_ = 0;
};

/// Binds a contiguous tensor to input i of a plan.
void bind_input(const Sizes& s, Lease& f, size_t i, const at::Tensor& t);
/// Makes the outputs (and the kept tensors, if asked for), binds them and runs the steps. Inputs are bound already.
std::vector<at::Tensor> run_plan(Sizes& s, Lease& f, std::vector<at::Tensor>* kept);

}  // namespace ortmod
