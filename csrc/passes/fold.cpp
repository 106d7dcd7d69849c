// Constant folding: nodes whose inputs are fixed become constants; values known as host integers, too.
#include <ATen/ATen.h>

#include <algorithm>

#include "ops/kernel.h"
#include "ops/op.h"
#include "passes/pass.h"
#include "passes/walk.h"

namespace ortmod {
namespace {

constexpr size_t kMostGrowth = 1 << 20;  // bytes that a constant may have more than what it is made from

at::Tensor tensor_of(const LiteralPtr& l) {
  const std::vector<int64_t> dims(l->dims().begin(), l->dims().end());
  return at::from_blob(
      const_cast<void*>(l->data()), dims, [l](void*) {}, at::TensorOptions(to_scalar_type(l->dtype())));
}

LiteralPtr literal_of(const at::Tensor& t) {
  auto owner = std::make_shared<at::Tensor>(t.contiguous());
  Dims dims(t.sizes().begin(), t.sizes().end());
  return std::make_shared<const Literal>(from_scalar_type(t.scalar_type()), std::move(dims), owner,
                                         owner->const_data_ptr(), owner->nbytes());
}

bool has_tensor(DType t) { return is_float(t) || is_integer(t) || t == DType::kBool; }

/// The elements that inference knows, when all are numbers.
LiteralPtr known_elements(const Value& v) {
  if (!v.host || (v.type.dtype != DType::kInt64 && v.type.dtype != DType::kInt32 && v.type.dtype != DType::kBool))
    return nullptr;
  const HostInts& h = *v.host;
  std::vector<int64_t> elements;
  for (const Dim d : h.v) {
    if (d <= kLastSymbol + 1) return nullptr;  // symbolic, or a least integer that was cut
    elements.push_back(d);
  }
  for (const Dim d : h.dims)
    if (!is_known(d)) return nullptr;
  if (numel(h.dims) != static_cast<Dim>(elements.size())) return nullptr;
  if (v.type.dtype == DType::kInt64)
    return Literal::copy(DType::kInt64, h.dims, elements.data(), elements.size() * sizeof(int64_t));
  if (v.type.dtype == DType::kInt32) {
    const std::vector<int32_t> e(elements.begin(), elements.end());
    return Literal::copy(DType::kInt32, h.dims, e.data(), e.size() * sizeof(int32_t));
  }
  std::vector<uint8_t> e;
  for (const int64_t x : elements) e.push_back(x != 0);
  return Literal::copy(DType::kBool, h.dims, e.data(), e.size());
}

bool is_foldable(Node& n, const PassContext& c) {
  const OpDef* def = find_op(n);
  if (!def || !def->kernel || def->random || has_subgraph(n)) return false;
  size_t in_bytes = 0, out_bytes = 0;
  for (const Value* v : n.inputs) {
    if (!v) continue;
    if (!c.is_fixed(v) || !has_tensor(v->type.dtype)) return false;
    in_bytes += v->literal->bytes();
  }
  for (const Value* v : n.outputs) {
    if (!v) continue;
    if (!has_tensor(v->type.dtype) || v->type.kind != Kind::kTensor) return false;
    if (v->type.is_static())
      out_bytes += static_cast<size_t>(numel(v->type.dims)) * dtype_size(v->type.dtype);
    else if (n.is("ConstantOfShape") || n.is("Expand") || n.is("Range") || n.is("Tile") || n.is("OneHot"))
      return false;
  }
  return out_bytes <= in_bytes + kMostGrowth;
}

std::vector<LiteralPtr> evaluate(const Node& n) {
  std::vector<at::Tensor> in, out(n.outputs.size());
  std::vector<at::Tensor*> in_refs, out_refs;
  in.reserve(n.inputs.size());
  for (const Value* v : n.inputs) {
    in.push_back(v ? tensor_of(v->literal) : at::Tensor());
    in_refs.push_back(v ? &in.back() : nullptr);
  }
  for (size_t i = 0; i < n.outputs.size(); ++i) {
    if (n.outputs[i]) out[i] = at::empty({0}, at::TensorOptions(to_scalar_type(n.outputs[i]->type.dtype)));
    out_refs.push_back(n.outputs[i] ? &out[i] : nullptr);
  }
  const std::unique_ptr<bool[]> placed(new bool[n.outputs.size() + 1]());
  Call call(n, in_refs.data(), in_refs.size(), out_refs.data(), placed.get(), out_refs.size(), at::kCPU);
  find_op(n)->kernel(n)(call);
  std::vector<LiteralPtr> r;
  for (size_t i = 0; i < out.size(); ++i) r.push_back(n.outputs[i] ? literal_of(out[i]) : nullptr);
  return r;
}

int fold_graph(Graph& g, const PassContext& c) {
  int folded = 0;
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  std::vector<Node*> kept;
  kept.reserve(g.nodes().size());
  for (Node* n : g.nodes()) {
    each_subgraph(*n, [&](Graph& s) { folded += fold_graph(s, c); });
    const auto leave = [&] { kept.push_back(n); };
    if (n->outputs.empty() ||
        std::any_of(n->outputs.begin(), n->outputs.end(), [&](const Value* v) { return v && outputs.contains(v); })) {
      leave();
      continue;
    }
    std::vector<LiteralPtr> made;
    if (n->outputs.size() == 1 && n->out()) {
      if (LiteralPtr l = known_elements(*n->out()); l && !find_op(*n)->random) made.push_back(std::move(l));
    }
    if (made.empty() && is_foldable(*n, c)) {
      try {
        made = evaluate(*n);
      } catch (const std::exception&) {  // what fails, fails when it is run, with the node's name
        made.clear();
      }
    }
    if (made.empty()) {
      leave();
      continue;
    }
    const Values out = n->outputs;
    g.remove(n);
    for (size_t i = 0; i < out.size(); ++i) {
      if (!out[i]) continue;
      out[i]->literal = made[i];
      out[i]->type = made[i]->type();
      out[i]->host = nullptr;
      g.weights.push_back(out[i]);
    }
    ++folded;
  }
  g.order() = std::move(kept);
  return folded;
}

}  // namespace

int fold(Graph& g, const PassContext& c) {
  const int folded = fold_graph(g, c);
  if (folded) g.compact(&c.variable);
  return folded;
}

}  // namespace ortmod
