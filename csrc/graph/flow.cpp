// What a value is made of: one pass forward, short walks backward.
#include "graph/flow.h"

#include <algorithm>
#include <cmath>

namespace ortmod {
namespace {

constexpr size_t kFarthest = 24;  // nodes of one walk

void mark_graphs(const Node& n, auto&& visit) {
  for (const auto& [key, a] : n.attrs) {
    if (const auto* p = std::get_if<std::shared_ptr<Graph>>(&a)) visit(**p);
    if (const auto* q = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (const auto& e : *q) visit(*e);
  }
}

bool is_product(const Node& n) {
  return n.is("MatMul") || n.is("Gemm") || n.is("Conv") || n.is("ConvTranspose") || n.is("Einsum");
}

/// The value is a square root, or the reciprocal of one, of a mean.
bool is_root_of_mean(const Value* v, bool reciprocal) {
  bool root = false;
  for (size_t i = 0; v && v->producer && i < kFarthest; ++i) {
    const Node& n = *v->producer;
    if (n.is("ReduceMean")) return root;
    if (n.is("Sqrt"))
      root = true;
    else if (n.is("Pow") && reciprocal)
      root = true;
    else if (n.is("Div") && reciprocal && n.in(0) && n.in(0)->is_constant()) {
      v = n.in(1);
      continue;
    } else if (n.is("Add")) {
      v = n.in(0) && n.in(0)->is_constant() ? n.in(1) : n.in(0);
      continue;
    } else if (!n.is("Reciprocal") && !n.is("Cast") && !n.is("Identity") && !n.is("CastLike")) {
      return false;
    }
    v = n.in(0);
  }
  return false;
}

/// Computed from constants only.
bool is_static(const Value* v, int depth) {
  if (!v || v->is_constant()) return true;
  if (!v->producer || depth > 8) return false;
  for (const Value* in : v->producer->inputs)
    if (!is_static(in, depth + 1)) return false;
  return !v->producer->inputs.empty();
}

}  // namespace

bool Flow::is_view(const Node& n, int i) {
  if (i != 0 || !n.op->domain.empty()) return false;
  static const std::unordered_set<std::string> kViews{"Transpose", "Reshape",   "Cast",    "CastLike",
                                                      "Identity",  "Unsqueeze", "Squeeze", "Flatten",
                                                      "Slice",     "Split",     "Expand"};
  return kViews.contains(n.op->name) || (n.op->name == "Gather" && is_static(n.in(1), 0));
}

Flow::Flow(const Graph& g) {
  for (const Value* v : g.inputs) {
    inputs_.insert(v);
    if (is_float(v->type.dtype)) floats_.insert(v);
  }
  scan(g);
}

void Flow::scan(const Graph& g) {
  for (const Node* n : g.nodes()) {
    if (n->is("Shape") || n->is("Size")) continue;
    bool any = false, real = false;
    for (const Value* v : n->inputs) {
      any |= v && inputs_.contains(v);
      real |= v && floats_.contains(v);
    }
    if (n->is("Gather") && n->in(0) && is_float(n->in(0)->type.dtype) && !is_static(n->in(1), 0)) real = true;
    mark_graphs(*n, [&](const Graph& s) {
      for (const Value* v : s.inputs) {
        if (any) inputs_.insert(v);
        if (real) floats_.insert(v);
      }
      scan(s);
      for (const Value* v : s.outputs) {
        any |= inputs_.contains(v);
        real |= floats_.contains(v);
      }
    });
    for (const Value* v : n->outputs) {
      if (!v) continue;
      if (any) inputs_.insert(v);
      if (real) floats_.insert(v);
    }
  }
}

const Value* Flow::through_views(const Value* v) {
  for (size_t i = 0; v && v->producer && i < kFarthest && is_view(*v->producer, 0); ++i) v = v->producer->in(0);
  return v;
}

bool Flow::is_fixed(const Value* v) const {
  const Value* source = through_views(v);
  return source && source->is_constant();
}

bool Flow::is_weight_view(const Value* v) const {
  const Value* source = through_views(v);
  return source && source->is_constant() && is_float(source->literal->dtype()) && source->literal->dims().size() >= 2;
}

bool Flow::only_normalises(const Node& n) const {
  const auto all = [&](size_t i, double x) {
    const Value* v = through_views(n.in(i));
    if (!v || !v->is_constant() || !is_float(v->literal->dtype())) return false;
    for (int64_t k = 0; k < v->literal->numel(); ++k)
      if (v->literal->at(k) != x) return false;
    return true;
  };
  return (n.is("InstanceNormalization") || n.is("GroupNormalization")) && all(1, 1) && all(2, 0);
}

bool Flow::is_scaled(const Value* v) const {
  std::vector<const Value*> todo{v};
  for (size_t i = 0; i < todo.size() && i < kFarthest; ++i)
    for (const Use& u : todo[i]->uses) {
      if (u.node->is("Mul") && is_fixed(u.node->in(1 - static_cast<size_t>(u.index)))) return true;
      if (is_view(*u.node, u.index)) todo.push_back(u.node->out());
    }
  return false;
}

bool Flow::is_normalised(const Value* v) const {
  const Value* source = through_views(v);
  if (!source || !source->producer) return false;
  const Node& n = *source->producer;
  if (only_normalises(n)) return true;
  if (n.is("Div")) return is_root_of_mean(n.in(1), false);
  return n.is("Mul") && (is_root_of_mean(n.in(0), true) || is_root_of_mean(n.in(1), true));
}

bool Flow::takes_bias(const Value* v) const {
  const Value* source = through_views(v);
  if (!source || !source->producer) return false;
  const Node& n = *source->producer;
  if (is_product(n)) {
    for (const Value* in : n.inputs)
      if (is_weight_view(in)) return true;
    return false;
  }
  if (!n.is("Mul")) return false;
  return (is_normalised(n.in(0)) && is_fixed(n.in(1))) || (is_normalised(n.in(1)) && is_fixed(n.in(0)));
}

bool Flow::leads_to_sine_and_cosine(const Value* v) const {
  bool sine = false, cosine = false;
  std::vector<const Value*> todo{v};
  ValueSet seen{v};
  while (!todo.empty()) {
    const Value* x = todo.back();
    todo.pop_back();
    for (const Use& u : x->uses) {
      if (u.node->is("Sin"))
        sine = true;
      else if (u.node->is("Cos"))
        cosine = true;
      else if (u.node->is("Shape"))
        continue;
      else if (!is_view(*u.node, u.index) && !u.node->is("Concat"))
        return false;
      else
        for (const Value* o : u.node->outputs)
          if (o && seen.insert(o)) todo.push_back(o);
      if (seen.size() > kFarthest) return false;
    }
  }
  return sine && cosine;
}

bool is_sinusoidal(const Literal& l) {
  const Dims& d = l.dims();
  if (d.size() < 2 || l.numel() == 0) return false;
  const int64_t columns = d[d.size() - 1], rows = l.numel() / columns;
  if (rows < 4) return false;
  const double tolerance = l.dtype() == DType::kDouble || l.dtype() == DType::kFloat ? 1e-3 : 2e-2;
  const int64_t checked = std::min<int64_t>(rows, 64);
  bool moves = false;
  for (int64_t j = 0; j < columns; ++j) {
    const double first = l.at(j), second = l.at(columns + j);
    const bool cosine = std::abs(first - 1) < tolerance;
    if ((!cosine && std::abs(first) > tolerance) || std::abs(second) > 1 + tolerance) return false;
    const double clamped = std::fmax(-1, std::fmin(1, second)),
                 frequency = cosine ? std::acos(clamped) : std::asin(clamped);
    moves |= std::abs(frequency) > 0.1;
    // An error of the estimate grows with the row: near 1 the arc cosine is coarse, so the slow columns allow more.
    for (int64_t i = 2; i < checked; ++i) {
      const double angle = static_cast<double>(i) * frequency, x = l.at(i * columns + j),
                   slack = std::fmin(0.5, static_cast<double>(i) * tolerance);
      if (std::abs((cosine ? std::cos(angle) : std::sin(angle)) - x) > tolerance + slack) return false;
    }
  }
  return moves;
}

}  // namespace ortmod
