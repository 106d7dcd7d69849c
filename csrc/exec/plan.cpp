// Compiling a graph into a plan: numbering of values, kernels made once, constants placed on the device.
#include "exec/plan.h"

#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "grad/build.h"

namespace ortmod {
namespace {

at::Tensor tensor_of(const LiteralPtr& l) {
  const std::vector<int64_t> sizes(l->dims().begin(), l->dims().end());
  return at::from_blob(
      const_cast<void*>(l->data()), sizes, [l](void*) {}, at::TensorOptions().dtype(to_scalar_type(l->dtype())));
}

/// Constants are real tensors even when a tracer (fake tensors, functorch) is at work.
const c10::DispatchKeySet kModes =
    c10::python_ks | c10::functorch_transforms_ks | c10::DispatchKeySet(c10::DispatchKey::Functionalize);

/// Operators without a kernel are replaced by their bodies.
void expand_without_kernel(Graph& g) {
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  for (bool changed = true; changed;) {
    changed = false;
    const std::vector<Node*> nodes = g.nodes();
    for (Node* n : nodes) {
      const OpDef* def = find_op(*n);
      if (def && def->kernel) continue;
      if (!def || !expand_node(g, n, outputs))
        fail(ErrorKind::kUnsupportedOp, "plan", "the operator cannot be run", *n);
      changed = true;
    }
    if (changed) {
      g.sort();
      std::erase_if(g.order(), [](const Node* n) { return n->graph == nullptr; });
    }
  }
}

}  // namespace

void Plan::prepare(Graph& g) {
  expand_without_kernel(g);
  g.compact();
}

std::shared_ptr<Plan> Plan::make(std::unique_ptr<Graph> graph, size_t n_outputs, std::vector<std::string> input_names,
                                 at::Device device, const std::vector<Donation>& donations) {
  prepare(*graph);
  return make(std::shared_ptr<const Graph>(std::move(graph)), n_outputs, std::move(input_names), device, donations);
}

std::shared_ptr<Plan> Plan::make(std::shared_ptr<const Graph> graph, size_t n_outputs,
                                 std::vector<std::string> input_names, at::Device device,
                                 const std::vector<Donation>& donations) {
  const c10::impl::ExcludeDispatchKeyGuard no_modes(kModes);
  std::shared_ptr<Plan> p(new Plan);
  p->graph_ = std::move(graph);
  const Graph& g = *p->graph_;
  p->device_ = device;
  p->n_outputs_ = n_outputs;
  p->scratch_pool_ = std::make_shared<BufferPool>(device);
  p->kept_pool_ = std::make_shared<BufferPool>(device);

  PointerMap<Value, int>& id = p->ids_;
  id.reserve(g.values().size());
  reserve_mapped(p->items_, g.nodes().size());
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  int next = 0;
  const auto number = [&](const Value* v) { id.try_emplace(v, next++); };
  for (const std::string& name : input_names) {
    const Value* v = g.find(name);
    if (!v) fail(ErrorKind::kModel, "plan", "no value \"" + name + "\" in the graph");
    p->inputs_.push_back(v);
    number(v);
  }
  for (const Value* v : g.weights) {
    if (id.contains(v)) continue;
    number(v);
    p->literals_.push_back(v->literal.get());
    p->const_ints_.push_back(literal_ints(*v->literal));
    bool on_device = outputs.contains(v), on_host = false;
    for (const Use& u : v->uses) {
      const OpDef* def = find_op(*u.node);
      const bool host = def && u.index < 32 && (def->host_inputs >> u.index & 1);
      on_host = on_host || host;
      on_device = on_device || !host;
    }
    const bool string = v->literal->dtype() == DType::kString;
    const at::Tensor t = string ? at::Tensor() : tensor_of(v->literal);
    p->host_constants_.push_back(on_host || device.is_cpu() ? t : at::Tensor());
    p->constants_.push_back(string || !on_device ? at::Tensor() : t.to(device));
    if (p->constants_.back().defined() == false && device.is_cpu()) p->constants_.back() = t;
  }
  for (const Node* n : g.nodes()) {
    Item item;
    item.node = n;
    item.def = find_op(*n);
    item.first_out = next;
    for (const Value* v : n->inputs) {
      const int* at = id.find(v);
      if (v && !at) fail(ErrorKind::kModel, "plan", "an input has no value", *n);
      item.in.push_back(at ? *at : -1);
    }
    for (size_t o = 0; o < n->outputs.size(); ++o) {
      if (n->outputs[o]) {
        number(n->outputs[o]);
        item.wanted |= 1u << std::min<size_t>(o, 31);
      } else {
        ++next;
      }
    }
    p->items_.push_back(std::move(item));
  }
  for (const Value* v : g.outputs) p->outputs_.push_back(id.at(v));
  p->donors_.assign(p->outputs_.size(), -1);
  for (const Donation& d : donations) p->donors_[d.output] = static_cast<int>(d.input);
  p->n_values_ = static_cast<size_t>(next);
  return p;
}

void Plan::general_kernel(const Item& item) const {
  const std::lock_guard lock(kernels_);
  if (item.kernel) return;
  const c10::impl::ExcludeDispatchKeyGuard no_modes(kModes);
  item.kernel = item.def->kernel(*item.node);
}

int Plan::value_id(std::string_view name) const {
  const int* id = ids_.find(graph_->find(name));
  return id ? *id : -1;
}

const HostInts* Sizes::host(int v) const {
  const int c = v - plan->first_const();
  if (c >= 0 && c < static_cast<int>(plan->const_ints().size())) {
    const auto& h = plan->const_ints()[static_cast<size_t>(c)];
    return h ? &*h : nullptr;
  }
  return ints[static_cast<size_t>(v)].get();
}

}  // namespace ortmod
