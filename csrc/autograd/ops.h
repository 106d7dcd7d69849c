// The dispatcher operators `ortmod::run`, `ortmod::forward`, `ortmod::backward`: typed calls.
#pragma once
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "exec/executable.h"

namespace ortmod {

/// Outputs, then the new values of updated buffers.
std::vector<at::Tensor> run_op(int64_t exe, at::TensorList args, bool training);
/// Outputs, new values of updated buffers, kept tensors. `needs`: indices of the arguments that want gradients.
std::vector<at::Tensor> forward_op(int64_t exe, at::TensorList args, at::IntArrayRef needs, bool training);
/// Gradients of Executable::Saved::reached.
std::vector<at::Tensor> backward_op(int64_t exe, at::IntArrayRef needs, bool training, at::TensorList args,
                                    at::TensorList outputs, at::TensorList kept,
                                    const c10::List<std::optional<at::Tensor>>& grads, c10::SymIntArrayRef dims);

std::vector<int64_t> needed_indices(const Mode& mode);
Mode mode_of(const Executable& exe, at::IntArrayRef needs, bool training);

/// The autograd kernel of `ortmod::run` (function.cpp) and what autocast does to its arguments.
std::vector<at::Tensor> run_traced(const std::shared_ptr<Executable>& exe, at::TensorList args, bool training);
std::vector<at::Tensor> cast_for_autocast(const Executable& exe, at::TensorList args);

}  // namespace ortmod
