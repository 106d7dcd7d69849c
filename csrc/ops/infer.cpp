// Inference of one node and the helpers that inference functions share.
#include "ops/infer.h"

#include "ops/op.h"

namespace ortmod {

const Type& Infer::type(size_t i) const {
  if (!has(i)) fail("a required input is missing", static_cast<int>(i));
  return *in_[i];
}

void Infer::fail(const std::string& what, int input, const std::string& advice) const {
  ortmod::fail(ErrorKind::kShape, "infer", what, node, input, advice);
}

int64_t Infer::axis(int64_t a, int64_t rank) const {
  const int64_t n = a < 0 ? a + rank : a;
  if (n < 0 || n >= rank) fail("axis out of range: got " + std::to_string(a) + " for rank " + std::to_string(rank));
  return n;
}

std::optional<SmallVec<int64_t, 6>> Infer::axes(size_t input, int64_t rank) const {
  SmallVec<int64_t, 6> r;
  if (const Attr* given = node.find("axes")) {
    if (const auto* list = std::get_if<std::vector<int64_t>>(given)) {
      for (int64_t a : *list) r.push_back(axis(a, rank));
      return r;
    }
    for (int64_t a : node.ints("axes")) r.push_back(axis(a, rank));
    return r;
  }
  if (!has(input)) return r;
  const HostInts* v = ints(input);
  if (!v) return std::nullopt;
  for (Dim a : v->v) {
    if (is_symbolic(a)) return std::nullopt;
    r.push_back(axis(a, rank));
  }
  return r;
}

std::optional<Dim> broadcast_dim(Dim a, Dim b) {
  if (a == b && a != kAnyDim) return a;
  if (a == 1) return b;
  if (b == 1) return a;
  if (is_known(a) && is_known(b)) return std::nullopt;
  if (is_known(a)) return a;
  if (is_known(b)) return b;
  return kAnyDim;
}

Dims Infer::broadcast(const Dims& a, const Dims& b) const {
  const Dims& l = a.size() >= b.size() ? a : b;
  const Dims& s = a.size() >= b.size() ? b : a;
  Dims r = l;
  const size_t d = l.size() - s.size();
  for (size_t i = 0; i < s.size(); ++i) {
    const auto x = broadcast_dim(l[d + i], s[i]);
    if (!x) fail("shapes cannot be broadcast: got " + to_string(a) + " and " + to_string(b));
    r[d + i] = *x;
  }
  return r;
}

void Infer::broadcast_all(DType t) {
  Dims r;
  for (size_t i = 0; i < num_in(); ++i) {
    if (!has(i)) continue;
    if (!ranked(i)) return out_unranked(0, t);
    r = i == 0 ? dims(i) : broadcast(r, dims(i));
  }
  out(0, t, std::move(r));
}

std::optional<HostInts> literal_ints(const Literal& l) {
  if (!(is_integer(l.dtype()) || l.dtype() == DType::kBool) || l.numel() > 64) return std::nullopt;
  HostInts h;
  h.dims = l.dims();
  for (int64_t e : l.to_ints()) h.v.push_back(std::max(e, kLastSymbol + 1));
  return h;
}

void infer_node(Node& n) {
  const OpDef* def = find_op(n.op);
  if (!def || !def->infer) return;
  SmallVec<const Type*, 16> in;
  SmallVec<const HostInts*, 16> ints;
  std::vector<std::optional<HostInts>> constants;
  for (const Value* v : n.inputs) {
    in.push_back(v ? &v->type : nullptr);
    ints.push_back(v ? v->host.get() : nullptr);
    if (!v || v->host || !v->is_constant() || is_float(v->literal->dtype())) continue;
    constants.reserve(n.inputs.size());
    constants.push_back(literal_ints(*v->literal));
    if (constants.back()) ints.back() = &*constants.back();
  }
  const size_t n_out = n.outputs.size();
  Type one_type;
  HostIntsPtr one_list;
  std::vector<Type> more_types(n_out > 1 ? n_out : 0);
  std::vector<HostIntsPtr> more_lists(more_types.size());
  Type* out = n_out > 1 ? more_types.data() : &one_type;
  HostIntsPtr* out_ints = n_out > 1 ? more_lists.data() : &one_list;
  Infer ctx(n, {in.data(), in.size()}, {ints.data(), ints.size()}, {out, n_out}, {out_ints, n_out});
  def->infer(ctx);
  for (size_t i = 0; i < n.outputs.size(); ++i) {
    Value* o = n.outputs[i];
    if (!o) continue;
    if (out[i].dtype != DType::kUndefined || out[i].kind != Kind::kTensor) o->type = std::move(out[i]);
    if (out_ints[i]) o->host = std::move(out_ints[i]);
  }
}

}  // namespace ortmod
