// What a call runs: its steps, their bytes and their time, for reports, tests and benchmarks.
#include <chrono>

#include "exec/lease.h"
#include "exec/pair.h"

namespace ortmod {
namespace {

void list_steps(const Sizes& s, bool backward, std::vector<Executable::StepInfo>& out) {
  for (size_t i = 0; i < s.list.steps.size(); ++i) {
    Executable::StepInfo info{backward, s.by_kernel[i] != 0, "copy", ""};
    if (s.step_item[i] >= 0) {
      const Node& n = *s.plan->items()[static_cast<size_t>(s.step_item[i])].node;
      info.op = (n.op->domain.empty() ? "" : n.op->domain + "::") + n.op->name;
      info.node = n.name.empty() && n.out() ? n.out()->name : n.name;
    }
    out.push_back(std::move(info));
  }
}

}  // namespace

Executable::Report Executable::report(at::TensorList args, const Mode& mode) {
  PlanPair* const p = plans(mode);
  const at::Device device = args.empty() ? at::Device(at::kCPU) : args[0].device();
  const std::shared_ptr<DevicePlans> plans = p->on(device);
  const std::shared_ptr<Sizes> s = plans->find(args);
  Report r;
  list_steps(*s, false, r.steps);
  r.scratch_bytes = s->scratch_bytes;
  r.kept_bytes = s->kept_bytes;
  r.forward_text = to_text(plans->forward->graph());
  if (plans->backward) {
    const std::shared_ptr<Sizes> b = plans->backward_sizes(*s, std::vector<at::Tensor>(plans->sources.size()));
    list_steps(*b, true, r.steps);
    r.backward_scratch_bytes = b->scratch_bytes;
    r.backward_text = to_text(plans->backward->graph());
  }
  return r;
}

double Executable::time_steps(at::TensorList args, const Mode& mode, int64_t repeats, bool backward) {
  std::chrono::duration<double, std::nano> taken{};
  const auto measure = [&](const Sizes& s, Frame& f) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < repeats; ++i) run(s, f);
    taken = std::chrono::steady_clock::now() - begin;
  };
  PlanPair* const p = plans(mode);
  if (backward) {
    const Forward r = forward(args, *p);
    std::vector<at::Tensor> saved_args, saved_outputs, grads(num_outputs());
    for (int i : p->saved().args) saved_args.push_back(args[static_cast<size_t>(i)]);
    for (int i : p->saved().outputs) saved_outputs.push_back(r.outputs[static_cast<size_t>(i)]);
    std::vector<int64_t> dims;
    for (const at::Tensor& a : args) {
      dims.push_back(a.dim());
      dims.insert(dims.end(), a.sizes().begin(), a.sizes().end());
    }
    const std::function<void(const Sizes&, Frame&)> once_more = measure;
    this->backward(*p, saved_args, saved_outputs, r.kept, grads, dims, false, &once_more);
  } else {
    const at::Device device = args.empty() ? at::Device(at::kCPU) : args[0].device();
    const std::shared_ptr<Sizes> s = p->on(device)->find(args);
    Lease f(*s);
    for (size_t i = 0; i < args.size(); ++i) bind_input(*s, f, i, args[i]);
    std::vector<at::Tensor> kept;
    const std::vector<at::Tensor> outputs = run_plan(*s, f, &kept);
    measure(*s, *f);
    f.end();
  }
  return taken.count() / static_cast<double>(repeats);
}

}  // namespace ortmod
