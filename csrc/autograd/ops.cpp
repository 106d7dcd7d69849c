// TORCH_LIBRARY(ortmod): the operators that torch.compile, torch.export, dispatch modes and functorch see.
#include "autograd/ops.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "autograd/function.h"

namespace ortmod {

using at::Tensor;

std::vector<int64_t> needed_indices(const Mode& mode) {
  std::vector<int64_t> r;
  for (size_t i = 0; i < mode.needs.size(); i++)
    if (mode.needs[i]) r.push_back(static_cast<int64_t>(i));
  return r;
}

Mode mode_of(const Executable& exe, at::IntArrayRef needs, bool training) {
  Mode m{{}, training};
  if (!needs.empty()) m.needs.resize(exe.num_args());
  for (int64_t i : needs) m.needs.at(static_cast<size_t>(i)) = true;
  return m;
}

namespace {

void check_plain(at::TensorList tensors, const char* what) {
  for (const Tensor& t : tensors)
    if (t.defined() && !is_plain(t))
      fail(ErrorKind::kType, "run",
           std::string(what) + ": got a tensor of layout or kind " + t.toString() +
               ", expected plain dense tensors on the CPU or an accelerator");
}

std::vector<Tensor> run_kernel(int64_t exe, at::TensorList args, bool training) {
  return with_typed_errors([&] {
    check_plain(args, "arguments");
    return Executable::from_handle(exe)->forward(args, Mode{{}, training}).outputs;
  });
}

std::vector<Tensor> forward_kernel(int64_t exe, at::TensorList args, at::IntArrayRef needs, bool training) {
  return with_typed_errors([&] {
    check_plain(args, "arguments");
    auto e = Executable::from_handle(exe);
    Executable::Forward f = e->forward(args, mode_of(*e, needs, training));
    f.outputs.insert(f.outputs.end(), f.kept.begin(), f.kept.end());
    return std::move(f.outputs);
  });
}

std::vector<Tensor> backward_kernel(int64_t exe, at::IntArrayRef needs, bool training, at::TensorList args,
                                    at::TensorList outputs, at::TensorList kept,
                                    const c10::List<std::optional<Tensor>>& grads, at::IntArrayRef dims) {
  return with_typed_errors([&] {
    auto e = Executable::from_handle(exe);
    const Mode mode = mode_of(*e, needs, training);
    std::vector<Tensor> given;
    for (const std::optional<Tensor>& g : grads) given.push_back(g.value_or(Tensor()));
    for (at::TensorList t : {args, outputs, kept, at::TensorList(given)}) check_plain(t, "saved values and gradients");
    std::vector<Tensor> all = e->backward(mode, args, outputs, kept, given, dims, /*may_overwrite=*/false), reached;
    const Executable::Saved& reads = e->saved(mode);
    reached.reserve(reads.reached.size());
    for (int i : reads.reached) reached.push_back(std::move(all[i]));
    return reached;
  });
}

std::vector<Tensor> run_autograd(int64_t exe, at::TensorList args, bool training) {
  return with_typed_errors([&] { return run_traced(Executable::from_handle(exe), args, training); });
}

template <c10::DispatchKey Key>
std::vector<Tensor> run_autocast(int64_t exe, at::TensorList args, bool training) {
  c10::impl::ExcludeDispatchKeyGuard guard(Key);
  return with_typed_errors(
      [&] { return run_op(exe, cast_for_autocast(*Executable::from_handle(exe), args), training); });
}

}  // namespace

std::vector<Tensor> run_op(int64_t exe, at::TensorList args, bool training) {
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("ortmod::run", "").typed<decltype(run_kernel)>();
  return op.call(exe, args, training);
}

std::vector<Tensor> forward_op(int64_t exe, at::TensorList args, at::IntArrayRef needs, bool training) {
  static auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("ortmod::forward", "").typed<decltype(forward_kernel)>();
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(exe, args, needs, training);
}

std::vector<Tensor> backward_op(int64_t exe, at::IntArrayRef needs, bool training, at::TensorList args,
                                at::TensorList outputs, at::TensorList kept,
                                const c10::List<std::optional<Tensor>>& grads, c10::SymIntArrayRef dims) {
  using Signature = std::vector<Tensor>(int64_t, at::IntArrayRef, bool, at::TensorList, at::TensorList, at::TensorList,
                                        const c10::List<std::optional<Tensor>>&, c10::SymIntArrayRef);
  static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("ortmod::backward", "").typed<Signature>();
  return op.call(exe, needs, training, args, outputs, kept, grads, dims);
}

TORCH_LIBRARY(ortmod, m) {
  const std::vector<at::Tag> random{at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded},
      pure{at::Tag::pt2_compliant_tag};
  m.def("run(int exe, Tensor[] args, bool training) -> Tensor[]", random);
  m.def("forward(int exe, Tensor[] args, int[] needs, bool training) -> Tensor[]", random);
  m.def(
      "backward(int exe, int[] needs, bool training, Tensor[] args, Tensor[] outputs, Tensor[] kept, Tensor?[] grads, "
      "SymInt[] dims)"
      " -> Tensor[]",
      pure);
}

#define ORTMOD_KERNELS(Key)               \
  TORCH_LIBRARY_IMPL(ortmod, Key, m) {    \
    m.impl("run", &run_kernel);           \
    m.impl("forward", &forward_kernel);   \
    m.impl("backward", &backward_kernel); \
  }
ORTMOD_KERNELS(CPU)
ORTMOD_KERNELS(CUDA)
ORTMOD_KERNELS(PrivateUse1)

TORCH_LIBRARY_IMPL(ortmod, Autograd, m) { m.impl("run", &run_autograd); }
TORCH_LIBRARY_IMPL(ortmod, AutocastCPU, m) { m.impl("run", &run_autocast<c10::DispatchKey::AutocastCPU>); }
TORCH_LIBRARY_IMPL(ortmod, AutocastCUDA, m) { m.impl("run", &run_autocast<c10::DispatchKey::AutocastCUDA>); }
TORCH_LIBRARY_IMPL(ortmod, AutocastPrivateUse1, m) {
  m.impl("run", &run_autocast<c10::DispatchKey::AutocastPrivateUse1>);
}

}  // namespace ortmod
