// The only place that knows autograd: an Executable as a differentiable function of its arguments.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "exec/executable.h"

namespace ortmod {

/// Outputs of the graph, part of the autograd graph when an argument requires a gradient. In training mode the buffers
/// among `args` (Executable::updated_args) are updated in place. Under autocast floating inputs are cast to the graph's
/// types. Only for is_ordinary_call() arguments: everything else goes through the dispatcher op `ortmod::run`.
std::vector<at::Tensor> run(const std::shared_ptr<Executable>& exe, at::TensorList args, bool training);

/// Dense strided tensor on the CPU, CUDA or a device of torch's PrivateUse1 backends, with memory of its own type: no
/// functorch wrapper, no tensor subclass with a dispatch, no lazy bits.
bool is_plain(const at::Tensor& t);
/// Nothing intercepts operators in this thread: no functorch transform, dispatch mode, tracing or forward-mode level.
bool is_ordinary_context();

/// A C++ autograd Function with a result of this shape and gradients of all arguments that require them, none of which
/// it computes: what is measured against.
at::Tensor empty_function(at::TensorList args, at::IntArrayRef shape);

/// Called before a typed error leaves towards torch, which would flatten it to RuntimeError; set by the Python layer,
/// may throw.
extern void (*on_error)(const Error&);

/// Runs `f`, showing typed errors to on_error.
template <class F>
auto with_typed_errors(F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    if (on_error) on_error(e);
    throw;
  }
}

}  // namespace ortmod
