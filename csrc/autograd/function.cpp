// torch::autograd::Function over Executable: saving, pruning, backward, double backward over the joint graph.
#include "autograd/function.h"

#include <ATen/LegacyBatchedTensorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

#include "autograd/ops.h"
#include "exec/pair.h"
#include "ops/kernel.h"

namespace ortmod {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void (*on_error)(const Error&) = nullptr;

namespace {

constexpr c10::DispatchKeySet kNotPlain({c10::DispatchKey::Python, c10::DispatchKey::FuncTorchBatched,
                                         c10::DispatchKey::Batched, c10::DispatchKey::BatchedNestedTensor,
                                         c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Functionalize,
                                         c10::DispatchKey::ZeroTensor, c10::DispatchKey::Conjugate,
                                         c10::DispatchKey::Negative});
constexpr c10::DispatchKeySet kIntercepting({c10::DispatchKey::Python, c10::DispatchKey::PythonDispatcher,
                                             c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
                                             c10::DispatchKey::FuncTorchDynamicLayerBackMode,
                                             c10::DispatchKey::FuncTorchVmapMode, c10::DispatchKey::Functionalize,
                                             c10::DispatchKey::PreDispatch, c10::DispatchKey::Tracer});

/// What one call leaves for its backward, besides the saved tensors.
struct CallState : torch::CustomClassHolder {
  std::shared_ptr<Executable> exe;
  PlanPair* plans = nullptr;          // of exe
  std::vector<int> saved_args;        // indices, in the order of saving: first those of Executable::Saved::args
  size_t kept = 0;                    // number of kept tensors
  std::vector<int64_t> dims;          // of all arguments: rank, d0, d1, ...
  std::vector<c10::SymInt> sym_dims;  // the same when traced
};

template <class Size, class Get>
std::vector<Size> flat_dims(at::TensorList args, Get get) {
  std::vector<Size> dims;
  dims.reserve(args.size() * 4);
  for (const Tensor& a : args) {
    auto sizes = get(a);
    dims.emplace_back(static_cast<int64_t>(sizes.size()));
    dims.insert(dims.end(), sizes.begin(), sizes.end());
  }
  return dims;
}

/// Removes what hides memory: lazy negation, efficient zeros.
Tensor plain(const Tensor& t) {
  if (!t.defined() || is_plain(t)) return t;
  if (t._is_zerotensor()) return at::zeros(t.sizes(), t.options());
  return t.resolve_conj().resolve_neg();
}

void update_buffers(const PlanPair& plans, at::TensorList args, std::vector<Tensor>& outputs) {
  const std::vector<int>& updated = plans.updated();
  if (updated.empty()) return;
  at::NoGradGuard no_grad;
  const size_t n = outputs.size() - updated.size();
  for (size_t k = 0; k < updated.size(); k++) args[updated[k]].copy_(outputs[n + k]);  // copy_ bumps the version
  outputs.resize(n);
}

/// The level of legacy batching of a list; 0 when there is none.
int64_t batch_level(at::TensorList tensors) {
  int64_t level = 0;
  for (const Tensor& t : tensors)
    if (auto* batched = t.defined() ? at::maybeGetBatchedImpl(t) : nullptr) {
      if (batched->bdims().size() > 1)
        fail(ErrorKind::kGradient, "backward",
             "gradients are batched twice; nest torch.func.vmap instead of is_grads_batched");
      level = batched->bdims().back().level();
    }
  return level;
}

/// Arguments that the joint graph does not read need only their shape.
Tensor shape_only(const Executable& exe, size_t i, const CallState& s, const c10::Device& device, size_t at) {
  auto options = at::TensorOptions().dtype(to_scalar_type(exe.arg_type(i).dtype)).device(device);
  if (!s.sym_dims.empty()) {
    c10::SymIntArrayRef d(s.sym_dims);
    return at::zeros({}, options).expand_symint(d.slice(at + 1, d[at].expect_int()));
  }
  at::IntArrayRef d(s.dims);
  return at::zeros({}, options).expand(d.slice(at + 1, d[at]));
}

/// `Traced`: through the dispatcher ops, so that functorch, fake tensors and tracers see them; otherwise straight to
/// the Executable.
template <bool Traced>
struct RunFunction : torch::autograd::Function<RunFunction<Traced>> {
  static variable_list forward(AutogradContext* ctx, at::TensorList args, const std::shared_ptr<Executable>& exe,
                               bool training) {
    auto s = c10::make_intrusive<CallState>();
    s->exe = exe;
    s->plans = exe->plans(args, training);
    const Executable::Saved& reads = s->plans->saved();

    const size_t n = exe->num_outputs();
    variable_list outputs, save;
    if constexpr (Traced) {
      s->sym_dims = flat_dims<c10::SymInt>(args, [](const Tensor& a) { return a.sym_sizes(); });
      outputs = forward_op(exe->handle(), args, needed_indices(s->plans->mode()), training);
      const size_t results = n + s->plans->updated().size();
      save.assign(outputs.begin() + static_cast<long>(results), outputs.end());
      outputs.resize(results);
    } else {
      s->dims = flat_dims<int64_t>(args, [](const Tensor& a) { return a.sizes(); });
      Executable::Forward f = exe->forward(args, *s->plans);
      outputs = std::move(f.outputs);
      save = std::move(f.kept);
      update_buffers(*s->plans, args, outputs);
    }

    s->kept = save.size();
    s->saved_args = reads.all_args;
    save.reserve(save.size() + s->saved_args.size() + reads.outputs.size());
    for (int i : s->saved_args) save.push_back(args[i]);
    for (int i : reads.outputs) save.push_back(outputs[i]);
    ctx->save_for_backward(std::move(save));
    ctx->set_materialize_grads(false);
    if (reads.seeds.size() != outputs.size()) {
      std::vector<bool> differentiable(outputs.size());
      for (int i : reads.seeds) differentiable[i] = true;
      variable_list others;
      for (size_t i = 0; i < outputs.size(); i++)
        if (!differentiable[i]) others.push_back(outputs[i]);
      ctx->mark_non_differentiable(others);
    }
    ctx->saved_data.emplace("call", c10::IValue::make_capsule(std::move(s)));
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list found = with_typed_errors([&] { return gradients(ctx, grads); });
    found.resize(found.size() + kOtherArguments);
    return found;
  }

 private:
  static constexpr size_t kOtherArguments = 2;  // of forward, after the tensors

  static variable_list gradients(AutogradContext* ctx, variable_list& grads) {
    auto holder = ctx->saved_data.at("call").toCapsule();
    auto& s = static_cast<CallState&>(*holder);
    const variable_list saved = ctx->get_saved_variables();
    const Executable::Saved& reads = s.plans->saved();
    grads.resize(s.exe->num_outputs());  // updated buffers, when traced, have none
    if (std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); }))
      return variable_list(s.plans->mode().needs.size());
    if (const int64_t level = batch_level(grads)) return each_of_batch(s, reads, saved, grads, level);
    return first_or_second_order(s, reads, saved, grads);
  }

  static variable_list first_or_second_order(const CallState& s, const Executable::Saved& reads,
                                             const variable_list& saved, variable_list& grads) {
    if (at::GradMode::is_enabled()) return through_joint(s, reads, saved, grads);
    for (int i : reads.seeds)
      if (!grads[i].defined()) grads[i] = torch::autograd::get_current_node()->input_metadata(i).zeros_like();

    at::TensorList all(saved);
    at::TensorList kept = all.slice(0, s.kept), args = all.slice(s.kept, reads.args.size()),
                   outputs = all.slice(s.kept + s.saved_args.size());
    bool direct = !Traced;
    for (Tensor& g : grads) {
      if (g.defined() && !is_plain(g)) direct = direct && (g._is_zerotensor() || g.is_neg());
      if (direct) g = plain(g);
    }
    for (const Tensor& t : all) direct = direct && is_plain(t);
    if (direct && is_ordinary_context())
      return s.exe->backward(*s.plans, args, outputs, kept, grads, s.dims,
                             !torch::autograd::get_current_graph_task_keep_graph());

    std::vector<c10::SymInt> sym(s.dims.begin(), s.dims.end());
    c10::List<std::optional<Tensor>> optional_grads;
    for (Tensor& g : grads) optional_grads.push_back(g.defined() ? std::optional<Tensor>(g) : std::nullopt);
    variable_list found = backward_op(s.exe->handle(), needed_indices(s.plans->mode()), s.plans->mode().training, args,
                                      outputs, kept, optional_grads, s.sym_dims.empty() ? sym : s.sym_dims);
    return spread(reads, found, s.plans->mode().needs.size());
  }

  /// torch.autograd.grad(is_grads_batched=True), whose tensors no operator with lists takes: one element after the
  /// other.
  static variable_list each_of_batch(const CallState& s, const Executable::Saved& reads, const variable_list& saved,
                                     const variable_list& grads, int64_t level) {
    std::vector<variable_list> rows;
    for (int64_t b = 0, size = 1; b < size; b++) {
      variable_list row = grads;
      for (Tensor& g : row) {
        auto* batched = g.defined() ? at::maybeGetBatchedImpl(g) : nullptr;
        if (!batched) continue;
        const int64_t dim = batched->bdims().back().dim();
        size = batched->value().size(dim);
        g = batched->value().select(dim, b);
      }
      rows.push_back(first_or_second_order(s, reads, saved, row));
    }
    variable_list result(s.plans->mode().needs.size());
    for (size_t i = 0; i < result.size() && !rows.empty(); i++) {
      if (!rows[0][i].defined()) continue;
      variable_list column;
      for (const variable_list& row : rows) column.push_back(row[i]);
      result[i] = at::addBatchDim(at::stack(column), level, 0);
    }
    return result;
  }

  /// Gradients as a differentiable function of the arguments and the output gradients: the joint graph recomputes
  /// forward.
  static variable_list through_joint(const CallState& s, const Executable::Saved& reads, const variable_list& saved,
                                     const variable_list& grads) {
    auto joint = s.exe->joint(s.plans->mode());
    const size_t n = s.plans->mode().needs.size();
    const Tensor* any = nullptr;
    for (const Tensor& g : grads)
      if (g.defined()) any = &g;
    variable_list args(n);
    for (size_t k = 0; k < s.saved_args.size(); k++) args[s.saved_args[k]] = saved[s.kept + k];
    for (size_t i = 0, at = 0; i < n; i++) {
      if (!args[i].defined()) args[i] = shape_only(*s.exe, i, s, any->device(), at);
      at += 1 + (s.sym_dims.empty() ? s.dims[at] : s.sym_dims[at].expect_int());
    }
    auto node = torch::autograd::get_current_node();
    for (int i : reads.seeds) args.push_back(grads[i].defined() ? grads[i] : node->input_metadata(i).zeros_like());
    at::TensorList kept = at::TensorList(saved).slice(0, s.kept);
    for (Tensor& mask : s.exe->joint_masks(s.plans->mode(), kept, s.dims)) args.push_back(std::move(mask));
    bool direct = !Traced && is_ordinary_context();
    for (Tensor& a : args) {
      if (direct) a = plain(a);
      direct = direct && is_plain(a);
    }
    variable_list found =
        direct ? run(joint, args, s.plans->mode().training) : run_op(joint->handle(), args, s.plans->mode().training);
    return spread(reads, found, n);
  }

  static variable_list spread(const Executable::Saved& reads, const variable_list& found, size_t n) {
    variable_list result(n);
    for (size_t k = 0; k < reads.reached.size(); k++) result[reads.reached[k]] = found[k];
    return result;
  }
};

struct EmptyFunction : torch::autograd::Function<EmptyFunction> {
  static Tensor forward(AutogradContext* ctx, at::TensorList args, at::IntArrayRef shape) {
    ctx->save_for_backward(args.vec());
    return at::empty(shape, args[0].options());
  }
  static variable_list backward(AutogradContext* ctx, variable_list) {
    variable_list grads = ctx->get_saved_variables();
    for (Tensor& g : grads) g = g.requires_grad() ? at::empty_like(g) : Tensor();
    grads.emplace_back();
    return grads;
  }
};

bool wants_gradient(at::TensorList args) {
  return at::GradMode::is_enabled() &&
         std::any_of(args.begin(), args.end(), [](const Tensor& a) { return a.requires_grad(); });
}

}  // namespace

bool is_plain(const Tensor& t) {
  const auto keys = t.key_set();
  const auto device = t.device().type();
  return !keys.has_any(kNotPlain) && t.layout() == c10::kStrided &&
         (device == c10::kCPU || device == c10::kCUDA || device == c10::kPrivateUse1) && !t.is_quantized() &&
         !t.is_nested();
}

bool is_ordinary_context() {
  return !c10::impl::tls_local_dispatch_key_set().included_.has_any(kIntercepting) &&
         !torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

std::vector<Tensor> cast_for_autocast(const Executable& exe, at::TensorList args) {
  std::vector<Tensor> cast(args.begin(), args.end());
  for (size_t i = 0; i < cast.size(); i++) {
    const auto want = to_scalar_type(exe.arg_type(i).dtype);
    if (cast[i].is_floating_point() && c10::isFloatingType(want) && cast[i].scalar_type() != want)
      cast[i] = cast[i].to(want);
  }
  return cast;
}

std::vector<Tensor> run(const std::shared_ptr<Executable>& exe, at::TensorList args, bool training) {
  std::vector<Tensor> cast;
  for (size_t i = 0; i < args.size(); i++) {
    if (args[i].scalar_type() == to_scalar_type(exe->arg_type(i).dtype)) continue;
    if (at::autocast::is_autocast_enabled(args[i].device().type())) {
      cast = cast_for_autocast(*exe, args);
      args = cast;
    }
    break;
  }
  if (wants_gradient(args)) return RunFunction<false>::apply(args, exe, training);
  PlanPair& plans = *exe->plans({}, training);
  Executable::Forward f = exe->forward(args, plans);
  update_buffers(plans, args, f.outputs);
  return std::move(f.outputs);
}

std::vector<Tensor> run_traced(const std::shared_ptr<Executable>& exe, at::TensorList args, bool training) {
  if (wants_gradient(args)) return RunFunction<true>::apply(args, exe, training);
  at::AutoDispatchBelowADInplaceOrView guard;
  return run_op(exe->handle(), args, training);
}

Tensor empty_function(at::TensorList args, at::IntArrayRef shape) { return EmptyFunction::apply(args, shape); }

}  // namespace ortmod
