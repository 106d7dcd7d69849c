// Calls: checking arguments, binding a frame, running forward and backward plans.
#include "exec/executable.h"

#include <ATen/ATen.h>

#include "exec/lease.h"
#include "exec/pair.h"
#include "graph/digest.h"
#include "passes/pass.h"

namespace ortmod {
namespace {

std::mutex registry_mutex;
std::unordered_map<int64_t, std::weak_ptr<Executable>>& handles() {
  static auto* m = new std::unordered_map<int64_t, std::weak_ptr<Executable>>;
  return *m;
}

void drop_slots(const Sizes& s, Lease& f) {
  for (size_t v = 0; v < s.places.size(); ++v)
    if (s.places[v] == Place::kSlot) f->drop(static_cast<int>(v));
}

bool has_slots(const Sizes& s) { return !s.slot_outputs.empty() || !s.kept_slots.empty() || s.any_slot; }

}  // namespace

std::shared_ptr<Executable> Executable::make(std::shared_ptr<const Graph> graph,
                                             const std::vector<std::string>& argument_weights) {
  std::shared_ptr<Executable> e(new Executable);
  e->graph_ = std::move(graph);
  e->arg_weights_ = argument_weights;
  for (const Value* v : e->graph_->inputs) e->arg_types_.push_back(v->type);
  for (const std::string& name : argument_weights) {
    const Value* v = e->graph_->find(name);
    if (!v || v->producer) fail(ErrorKind::kModel, "plan", "no initializer \"" + name + "\" in the graph");
    e->arg_types_.push_back(v->type);
  }
  uint64_t content = digest(*e->graph_);
  for (const std::string& name : argument_weights) content = 31 * content + std::hash<std::string>{}(name);
  e->handle_ = static_cast<int64_t>(content >> 1);
  std::lock_guard lock(registry_mutex);
  auto& m = handles();
  std::erase_if(m, [](const auto& entry) { return entry.second.expired(); });
  while (m.contains(e->handle_)) ++e->handle_;
  m[e->handle_] = e;
  return e;
}

Executable::~Executable() = default;

std::shared_ptr<Executable> Executable::from_handle(int64_t handle) {
  std::lock_guard lock(registry_mutex);
  const auto it = handles().find(handle);
  auto e = it == handles().end() ? nullptr : it->second.lock();
  if (!e) fail(ErrorKind::kModel, "call", "no executable of handle " + std::to_string(handle) + "; its module is gone");
  return e;
}

PlanPair* Executable::plans(const Mode& mode) {
  std::lock_guard lock(mutex_);
  for (const auto& p : plans_)
    if (p->mode() == mode) return p.get();
  return plans_.emplace_back(std::make_unique<PlanPair>(graph_, arg_weights_, mode)).get();
}

PlanPair* Executable::plans(at::TensorList args, bool training) {
  const auto same = [&](const Mode& m) {
    if (m.training != training || m.needs.size() != args.size()) return false;
    for (size_t i = 0; i < args.size(); ++i)
      if (m.needs[i] != args[i].requires_grad()) return false;
    return true;
  };
  {
    std::lock_guard lock(mutex_);
    for (const auto& p : plans_)
      if (same(p->mode())) return p.get();
  }
  Mode mode{std::vector<bool>(args.size()), training};
  for (size_t i = 0; i < args.size(); ++i) mode.needs[i] = args[i].requires_grad();
  return plans(mode);
}

const Executable::Saved& Executable::saved(const Mode& mode) { return plans(mode)->saved(); }

std::vector<int> Executable::updated_args(bool training) {
  if (!training) return {};
  return plans(Mode{{}, true})->updated();
}

Executable::Forward Executable::forward(at::TensorList args, PlanPair& pair) {
  if (args.size() != num_args())
    fail(ErrorKind::kShape, "call",
         "wrong number of arguments: got " + std::to_string(args.size()) + ", expected " + std::to_string(num_args()));
  const at::Device device = args.empty() ? at::Device(at::kCPU) : args[0].device();
  SmallVec<size_t, 8> copied;
  for (size_t i = 0; i < args.size(); ++i) {
    const at::Tensor& t = args[i];
    if (t.device() != device)
      fail(ErrorKind::kDevice, "call",
           "\"" + pair.arg_names()[i] + "\" is on another device: got " + t.device().str() + ", expected " +
               device.str());
    if (arg_types_[i].dtype != DType::kUndefined && to_scalar_type(arg_types_[i].dtype) != t.scalar_type())
      fail(ErrorKind::kType, "call",
           "wrong element type of \"" + pair.arg_names()[i] + "\": got " +
               std::string(dtype_name(from_scalar_type(t.scalar_type()))) + ", expected " +
               std::string(dtype_name(arg_types_[i].dtype)));
    if (!t.is_contiguous()) copied.push_back(i);
  }
  std::vector<at::Tensor> contiguous;
  contiguous.reserve(copied.size());
  const c10::OptionalDeviceGuard guard(device);
  const std::shared_ptr<DevicePlans> plans = pair.on(device);
  const std::shared_ptr<Sizes> s = plans->find(args);
  Lease f(*s);
  for (size_t i = 0; i < args.size(); ++i)
    if (args[i].is_contiguous()) bind_input(*s, f, i, args[i]);
  for (size_t i : copied) {
    contiguous.push_back(args[i].contiguous());
    bind_input(*s, f, i, contiguous.back());
  }
  Forward r;
  r.outputs = run_plan(*s, f, pair.differentiable() ? &r.kept : nullptr);
  if (has_slots(*s)) drop_slots(*s, f);
  f.end();
  return r;
}

std::vector<at::Tensor> Executable::backward(PlanPair& pair, at::TensorList saved_args, at::TensorList saved_outputs,
                                             at::TensorList kept, at::TensorList grads, at::IntArrayRef arg_dims,
                                             bool /*may_overwrite*/,
                                             const std::function<void(const Sizes&, Frame&)>* once_more) {
  std::vector<at::Tensor> result(num_args());
  if (!pair.differentiable()) return result;
  at::Device device(at::kCPU);
  for (at::TensorList l : {saved_args, saved_outputs, kept, grads})
    for (const at::Tensor& t : l)
      if (t.defined()) {
        device = t.device();
        break;
      }
  const c10::OptionalDeviceGuard guard(device);
  const std::shared_ptr<DevicePlans> plans = pair.on(device);
  const std::shared_ptr<Sizes> fs = plans->find(arg_dims);
  const std::vector<Source>& sources = plans->sources;
  std::vector<at::Tensor> inputs(sources.size());
  const size_t first_slot = fs->kept_bytes > 0 ? 1 : 0;
  if (kept.size() != first_slot + fs->kept_slots.size() ||
      (first_slot && kept[0].nbytes() < static_cast<size_t>(fs->kept_bytes)))
    fail(ErrorKind::kRun, "backward",
         "the kept tensors are not those of a forward call with these sizes: got " + std::to_string(kept.size()) +
             (kept.empty() ? "" : " (" + std::to_string(kept[0].nbytes()) + " bytes)") + ", expected " +
             std::to_string(first_slot + fs->kept_slots.size()) + " (" + std::to_string(fs->kept_bytes) + " bytes)");
  for (size_t i = 0; i < sources.size(); ++i) {
    const Source& src = sources[i];
    const auto k = static_cast<size_t>(src.index);
    switch (src.kind) {
      case Source::kSeed:
        inputs[i] = grads[k];
        break;
      case Source::kArg:
        inputs[i] = saved_args[k];
        break;
      case Source::kOutput:
        inputs[i] = saved_outputs[k];
        break;
      case Source::kKept: {
        const auto it = std::find(fs->kept_slots.begin(), fs->kept_slots.end(), src.value);
        if (it != fs->kept_slots.end()) inputs[i] = kept[first_slot + static_cast<size_t>(it - fs->kept_slots.begin())];
        break;
      }
    }
    if (inputs[i].defined()) {
      if (!inputs[i].is_contiguous()) inputs[i] = inputs[i].contiguous();
      const Type& t = fs->types[static_cast<size_t>(src.value)];
      if (inputs[i].device() != device || inputs[i].scalar_type() != to_scalar_type(t.dtype) ||
          (t.is_static() && inputs[i].sizes() != at::IntArrayRef(t.dims.data(), t.dims.size())))
        fail(ErrorKind::kShape, "backward",
             "wrong tensor for \"" + plans->backward->input_name(i) + "\": got " +
                 to_string(Type(from_scalar_type(inputs[i].scalar_type()),
                                Dims(inputs[i].sizes().begin(), inputs[i].sizes().end()))) +
                 " on " + inputs[i].device().str() + ", expected " + to_string(t) + " on " + device.str());
    }
    if (src.kind == Source::kSeed && !inputs[i].defined()) {
      const Type& t = fs->types[static_cast<size_t>(src.value)];
      if (!t.is_static())
        fail(ErrorKind::kGradient, "backward",
             "no gradient for \"" + plans->backward->input_name(i) +
                 "\", an output whose shape depends on values: give a tensor of zeros");
      inputs[i] = at::zeros(at::IntArrayRef(t.dims.data(), t.dims.size()),
                            at::TensorOptions().dtype(to_scalar_type(t.dtype)).device(device));
    }
  }
  const std::shared_ptr<Sizes> s = plans->backward_sizes(*fs, inputs);
  Lease f(*s);
  char* kept_base = fs->kept_bytes > 0 ? static_cast<char*>(const_cast<void*>(kept[0].const_data_ptr())) : nullptr;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (inputs[i].defined()) {
      bind_input(*s, f, i, inputs[i]);
    } else if (fs->places[static_cast<size_t>(sources[i].value)] == Place::kBase) {
      f->bind(s->plan->base_of_input(i), kept_base + fs->operands[static_cast<size_t>(sources[i].value)].offset);
    } else if (s->places[i] != Place::kHost) {
      fail(ErrorKind::kRun, "backward", "no tensor for \"" + s->plan->input_name(i) + "\"");
    }
  }
  std::vector<at::Tensor> out = run_plan(*s, f, nullptr);
  if (once_more) (*once_more)(*s, *f);
  if (has_slots(*s)) drop_slots(*s, f);
  f.end();
  const std::vector<int>& reached = pair.saved().reached;
  for (size_t i = 0; i < reached.size(); ++i) result[static_cast<size_t>(reached[i])] = std::move(out[i]);
  return result;
}

std::shared_ptr<Executable> Executable::joint(const Mode& mode) {
  PlanPair* const p = plans(mode);
  {
    std::lock_guard lock(mutex_);
    for (auto& [m, e] : joints_)
      if (m == mode) return e;
  }
  auto g = p->joint_graph();
  // Arguments in order: inputs and weights of this executable, seeds, random values; weights become inputs.
  std::vector<Value*> inputs;
  ValueSet arguments;
  for (const std::string& name : p->arg_names()) {
    Value* v = g->find(name);
    if (!v) v = g->add_value(name, arg_types_[inputs.size()]);
    v->literal = nullptr;
    arguments.insert(v);
    inputs.push_back(v);
  }
  std::erase_if(g->weights, [&](const Value* v) { return arguments.contains(v); });
  for (Value* v : g->inputs)
    if (!arguments.contains(v)) inputs.push_back(v);
  g->inputs = std::move(inputs);
  auto e = make(std::move(g), {});
  std::lock_guard lock(mutex_);
  joints_.emplace_back(mode, e);
  return e;
}

std::vector<at::Tensor> Executable::joint_masks(const Mode& mode, at::TensorList kept, at::IntArrayRef arg_dims) {
  PlanPair* const p = plans(mode);
  const std::vector<std::string>& random = p->random_inputs();
  if (random.empty()) return {};
  const at::Device device = kept[0].device();
  const std::shared_ptr<DevicePlans> plans = p->on(device);
  const std::shared_ptr<Sizes> fs = plans->find(arg_dims);
  std::vector<at::Tensor> r;
  for (const std::string& name : random) {
    const int v = plans->forward->value_id(name);
    const auto slot = std::find(fs->kept_slots.begin(), fs->kept_slots.end(), v);
    if (slot != fs->kept_slots.end()) {
      r.push_back(kept[(fs->kept_bytes > 0 ? 1 : 0) + static_cast<size_t>(slot - fs->kept_slots.begin())].clone());
      continue;
    }
    const Type& t = fs->types[static_cast<size_t>(v)];
    const at::IntArrayRef sizes(t.dims.data(), t.dims.size());
    char* data =
        static_cast<char*>(const_cast<void*>(kept[0].const_data_ptr())) + fs->operands[static_cast<size_t>(v)].offset;
    r.push_back(at::from_blob(data, sizes, at::TensorOptions().dtype(to_scalar_type(t.dtype)).device(device)).clone());
  }
  return r;
}

std::vector<Type> Executable::output_types(const std::vector<Type>& args, const Mode& mode) {
  PlanPair* const p = plans(mode);
  const std::shared_ptr<DevicePlans> on_cpu = p->on(at::kCPU);
  const std::vector<Type> types = on_cpu->forward->infer(args);
  std::vector<Type> r;
  for (size_t i = 0; i < p->n_outputs(); ++i) r.push_back(types[static_cast<size_t>(on_cpu->forward->outputs()[i])]);
  return r;
}

std::vector<Type> Executable::kept_types(const std::vector<Type>& args, const Mode& mode) {
  PlanPair* const p = plans(mode);
  if (!p->differentiable()) return {};
  return p->on(at::kCPU)->forward->kept_types(args);
}

}  // namespace ortmod
