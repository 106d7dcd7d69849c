// Operators: ortmod::Fused, pointwise nodes that are computed together; the attribute `body` holds them as a graph.
#include <ATen/ATen.h>

#include <mutex>

#include "ops/infer.h"
#include "ops/kernel.h"
#include "ops/pointwise_program.h"
#include "ops/registry.h"

namespace ortmod {
namespace {

// Every output has the shape to which all inputs broadcast.

const Graph& body_of(const Node& n) {
  const Attr* a = n.find("body");
  const auto* g = a ? std::get_if<std::shared_ptr<Graph>>(a) : nullptr;
  if (!g || !*g) fail(ErrorKind::kModel, "model", "the attribute body must be a graph", n);
  return **g;
}

void infer_fused(Infer& c) {
  const Graph& body = body_of(c.node);
  Dims dims;
  for (size_t i = 0; i < c.num_in(); ++i) {
    if (!c.ranked(i)) {
      for (size_t o = 0; o < body.outputs.size(); ++o) c.out_unranked(o, body.outputs[o]->type.dtype);
      return;
    }
    dims = i == 0 ? c.dims(0) : c.broadcast(dims, c.dims(i));
  }
  for (size_t o = 0; o < body.outputs.size(); ++o) c.out(o, body.outputs[o]->type.dtype, dims);
}

/// Runs the body node by node, by their general kernels.
class BodyRunner {
 public:
  explicit BodyRunner(const Node& fused) {
    const Graph& body = body_of(fused);
    PointerMap<Value, int> ids;
    const auto id = [&](const Value* v) { return v ? *ids.try_emplace(v, static_cast<int>(ids.size())).first : -1; };
    for (const Value* v : body.inputs) id(v);
    for (const Value* v : body.weights) {
      const Literal& l = *v->literal;
      std::vector<int64_t> sizes(l.dims().begin(), l.dims().end());
      on_host_->tensors.emplace_back(
          id(v), at::from_blob(const_cast<void*>(l.data()), sizes, to_scalar_type(l.dtype())).clone());
    }
    for (const Node* n : body.nodes()) {
      Item item{find_op(*n)->kernel(*n), n, {}, id(n->out())};
      for (const Value* v : n->inputs) item.in.push_back(id(v));
      items_.push_back(std::move(item));
    }
    for (const Value* v : body.outputs) outputs_.push_back(id(v));
    n_values_ = ids.size();
  }

  void operator()(Call& c) const {
    std::vector<at::Tensor> values(n_values_);
    for (size_t i = 0; i < c.num_in(); ++i) values[i] = c.in(i);
    const std::shared_ptr<const Constants> constants = constants_on(c.device());
    for (const auto& [v, t] : constants->tensors) values[static_cast<size_t>(v)] = t;
    for (const Item& item : items_) {
      at::Tensor& y = values[static_cast<size_t>(item.out)];
      y = at::empty({0}, at::TensorOptions().dtype(to_scalar_type(item.node->out()->type.dtype)).device(c.device()));
      std::vector<at::Tensor*> in;
      for (int v : item.in) in.push_back(v < 0 ? nullptr : &values[static_cast<size_t>(v)]);
      at::Tensor* out = &y;
      const bool placed = false;
      Call call(*item.node, in.data(), in.size(), &out, &placed, 1, c.device());
      item.kernel(call);
    }
    for (size_t o = 0; o < outputs_.size(); ++o)
      if (c.wants(o)) c.set(o, values[static_cast<size_t>(outputs_[o])]);
  }

 private:
  struct Item {
    Kernel kernel;
    const Node* node;
    std::vector<int> in;
    int out;
  };
  struct Constants {
    at::Device device = at::kCPU;
    std::vector<std::pair<int, at::Tensor>> tensors;
  };

  /// The constants go to a device once, not with every call.
  std::shared_ptr<const Constants> constants_on(at::Device device) const {
    if (device.is_cpu()) return on_host_;
    const std::lock_guard lock(mutex_);
    if (!on_device_ || on_device_->device != device) {
      auto there = std::make_shared<Constants>();
      there->device = device;
      for (const auto& [v, t] : on_host_->tensors) there->tensors.emplace_back(v, t.to(device));
      on_device_ = std::move(there);
    }
    return on_device_;
  }

  std::vector<Item> items_;
  const std::shared_ptr<Constants> on_host_ = std::make_shared<Constants>();
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Constants> on_device_;
  std::vector<int> outputs_;
  size_t n_values_ = 0;
};

Kernel fused_kernel(const Node& n) {
  return [runner = std::make_shared<const BodyRunner>(n)](Call& c) { (*runner)(c); };
}

bool bind_fused(Bind& b) {
  const Graph& body = body_of(b.node);
  const Dims* space = nullptr;
  for (size_t o = 0; o < b.num_out() && !space; ++o)
    if (b.wants(o)) space = &b.out_dims(o);
  if (!space) return false;
  PointwiseProgram p;
  p.space(*space);
  SmallVec<Operand, 8> operands;
  struct Entry {
    const Value* value;
    int id;
  };
  SmallVec<Entry, 32> ids;
  const auto id = [&](const Value* v) {
    for (size_t i = ids.size(); i-- > 0;)
      if (ids[i].value == v) return ids[i].id;
    return -1;
  };
  for (size_t i = 0; i < b.num_in(); ++i) {
    ids.push_back({body.inputs[i], p.input(b.dtype(i), b.dims(i), *space)});
    operands.push_back(b.in(i));
  }
  for (const Value* v : body.weights) ids.push_back({v, p.constant(v->literal->dtype(), v->literal->at(0))});
  for (const Node* n : body.nodes()) {
    SmallVec<int, 8> in;
    DType type = DType::kUndefined;
    for (size_t i = 0; i < n->inputs.size(); ++i) {
      const Value* v = n->inputs[i];
      in.push_back(v ? id(v) : -1);
      if (v && !(i == 0 && n->is("Where"))) type = v->type.dtype;
    }
    const int value = p.node(*n, find_op(*n)->pointwise, in, type, n->out()->type.dtype);
    if (value < 0) return false;
    ids.push_back({n->out(), value});
  }
  for (size_t o = 0; o < b.num_out(); ++o) {
    if (!b.wants(o)) continue;
    int alias = -1;
    for (size_t i = 0; i < b.num_in(); ++i)
      if (b.in(i).index == b.out(o).index && b.in(i).offset == b.out(o).offset) alias = static_cast<int>(i);
    p.output(b.out_dtype(o), id(body.outputs[o]), alias);
    operands.push_back(b.out(o));
  }
  const cpu::PwPlan* plan = compile(p, b.steps());
  if (!plan) return false;
  emit_pointwise(b, p, *plan, operands);
  return true;
}

/// The nodes of the body again, in the graph of the fused node.
Grads fused_body(const Grad& g) {
  const Graph& body = body_of(g.node());
  Builder& b = g.builder();
  PointerMap<Value, Expr> map;
  for (size_t i = 0; i < body.inputs.size(); ++i) map[body.inputs[i]] = g.x(i);
  for (const Value* v : body.weights) map[v] = b.literal(v->literal, v->name);
  for (const Node* n : body.nodes()) {
    std::vector<Expr> in;
    for (const Value* v : n->inputs) in.push_back(v ? map[v] : Expr());
    map[n->out()] = b.multi(n->op->domain, n->op->name, std::move(in), 1, n->attrs)[0];
  }
  Grads out;
  for (const Value* v : body.outputs) out.push_back(map[v]);
  return out;
}

}  // namespace

OpTable fused_pointwise_ops() {
  return {
      {.name = "Fused",
       .domain = "ortmod",
       .infer = infer_fused,
       .kernel = fused_kernel,
       .bind = bind_fused,
       .body = fused_body,
       .inplace = true},
  };
}

}  // namespace ortmod
