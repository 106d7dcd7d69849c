// Local rewrites: operations that do nothing, or that undo each other.
#include <algorithm>

#include "ops/op.h"
#include "passes/pass.h"
#include "passes/walk.h"

namespace ortmod {
namespace {

bool same_dims(const Type& a, const Type& b) {
  if (!a.has_rank || !b.has_rank || a.dims.size() != b.dims.size()) return false;
  for (size_t i = 0; i < a.dims.size(); ++i)
    if (a.dims[i] != b.dims[i] || a.dims[i] == kAnyDim) return false;
  return true;
}

/// All elements of a fixed value are `number`.
bool is_all(const Value* v, double number, const PassContext& c) {
  constexpr int64_t kMost = 4096;
  if (!c.is_fixed(v)) return false;
  const Literal& l = *v->literal;
  if (l.numel() == 0 || l.numel() > kMost ||
      !(is_float(l.dtype()) || is_integer(l.dtype()) || l.dtype() == DType::kBool))
    return false;
  for (int64_t i = 0; i < l.numel(); ++i)
    if (l.at(i) != number) return false;
  return true;
}

/// The value is x unchanged although `other` broadcasts with it.
bool keeps_shape(const Node& n, const Value* x, const Value* other) {
  if (n.out()->type.dtype != x->type.dtype) return false;
  if (other->type.has_rank && x->type.has_rank && other->type.rank() <= x->type.rank() &&
      std::all_of(other->type.dims.begin(), other->type.dims.end(), [](Dim d) { return d == 1; }))
    return true;
  return same_dims(n.out()->type, x->type);
}

class Simplifier {
 public:
  Simplifier(Graph& g, const PassContext& c) : g_(g), c_(c), outputs_(g.outputs.begin(), g.outputs.end()) {}

  int run() {
    int changes = 0;
    for (Node* n : g_.nodes()) {
      each_subgraph(*n, [&](Graph& s) { changes += Simplifier(s, c_).run(); });
      if (!n->op->domain.empty() || !n->out()) continue;
      if (rewrite(*n)) ++changes;
      Value* same = source(*n);
      if (!same) continue;
      if (outputs_.contains(n->out())) {
        changes += give_name(*n, same);
        continue;
      }
      if (n->out()->uses.empty()) continue;
      g_.redirect(n->out(), same);
      ++changes;
    }
    return changes;
  }

 private:
  /// The output of the graph that node n makes out of `same`, a value that is read once, is that value.
  int give_name(Node& n, Value* same) {
    const bool own =
        same->producer && same->producer->graph == &g_ && same->uses.size() == 1 && !outputs_.contains(same);
    if (!own || n.op->name == "Identity" || n.outputs.size() != 1 || n.out()->type.dtype != same->type.dtype ||
        !same_dims(n.out()->type, same->type))
      return 0;
    Value* result = n.out();
    const Use use = same->uses[0];
    g_.exchange(result, same);
    g_.set_input(use.node, use.index, result);
    return 1;
  }

  /// Changes of the node itself.
  bool rewrite(Node& n) {
    if (n.is("CastLike") && n.in(1) && n.in(1)->type.dtype != DType::kUndefined) {
      n.op = intern("Cast");
      n.set("to", static_cast<int64_t>(n.in(1)->type.dtype));
      g_.set_input(&n, 1, nullptr);
      n.inputs.resize(1);
      return true;
    }
    Node* before = n.in(0) ? n.in(0)->producer : nullptr;
    if (!before || before->graph != &g_) return false;
    if (n.is("Transpose") && before->is("Transpose") && n.in(0)->type.has_rank) {
      const size_t rank = static_cast<size_t>(n.in(0)->type.rank());
      const auto p = permutation(*before, rank), q = permutation(n, rank);
      std::vector<int64_t> both(rank);
      for (size_t i = 0; i < rank; ++i) both[i] = p[static_cast<size_t>(q[i])];
      n.set("perm", both);
      g_.set_input(&n, 0, before->in(0));
      return true;
    }
    if (n.is("Reshape") &&
        (before->is("Reshape") || before->is("Flatten") || before->is("Squeeze") || before->is("Unsqueeze")) &&
        c_.is_fixed(n.in(1))) {
      const std::vector<int64_t> to = n.in(1)->literal->to_ints();
      if (std::find(to.begin(), to.end(), 0) != to.end()) return false;
      g_.set_input(&n, 0, before->in(0));
      return true;
    }
    return false;
  }

  static std::vector<int64_t> permutation(const Node& n, size_t rank) {
    std::vector<int64_t> reversed;
    for (size_t i = rank; i-- > 0;) reversed.push_back(static_cast<int64_t>(i));
    return n.ints("perm", reversed);
  }

  /// The value that output 0 equals, or null.
  Value* source(Node& n) const {
    Value *x = n.in(0), *y = n.in(1);
    const std::string& op = n.op->name;
    if (!x) return nullptr;
    if (op == "Identity") return x;
    if (op == "Dropout") {
      const bool off = n.version < 12 || !n.in(2) || is_all(n.in(2), 0, c_);
      const bool mask = n.out(1) && (!n.out(1)->uses.empty() || outputs_.contains(n.out(1)));
      return off && !mask ? x : nullptr;
    }
    if (op == "Cast")
      return n.out()->type.dtype == x->type.dtype && n.attr("to", 0) == static_cast<int64_t>(x->type.dtype) ? x
                                                                                                            : nullptr;
    if (op == "Add" && y)
      return is_all(y, 0, c_) && keeps_shape(n, x, y) ? x : is_all(x, 0, c_) && keeps_shape(n, y, x) ? y : nullptr;
    if (op == "Mul" && y)
      return is_all(y, 1, c_) && keeps_shape(n, x, y) ? x : is_all(x, 1, c_) && keeps_shape(n, y, x) ? y : nullptr;
    if (op == "Sub" && y) return is_all(y, 0, c_) && keeps_shape(n, x, y) ? x : nullptr;
    if ((op == "Div" || op == "Pow") && y) return is_all(y, 1, c_) && keeps_shape(n, x, y) ? x : nullptr;
    if (op == "Neg" || op == "Not") {
      const Node* before = x->producer;
      return before && before->op == n.op && before->graph == &g_ ? before->in(0) : nullptr;
    }
    if (op == "Transpose") {
      if (!x->type.has_rank) return nullptr;
      const auto p = permutation(n, static_cast<size_t>(x->type.rank()));
      for (size_t i = 0; i < p.size(); ++i)
        if (p[i] != static_cast<int64_t>(i)) return nullptr;
      return x;
    }
    if (op == "Reshape" || op == "Expand" || op == "Flatten") return same_dims(n.out()->type, x->type) ? x : nullptr;
    if (op == "Sum" || op == "Max" || op == "Min" || op == "Mean" || op == "Concat")
      return n.inputs.size() == 1 ? x : nullptr;
    if (op == "Slice") {
      const Value* steps = n.in(4);
      return (!steps || is_all(steps, 1, c_)) && same_dims(n.out()->type, x->type) ? x : nullptr;
    }
    if (op == "Where" && y && n.in(2)) {
      Value* taken = is_all(x, 1, c_) ? y : is_all(x, 0, c_) ? n.in(2) : nullptr;
      return taken && same_dims(n.out()->type, taken->type) ? taken : nullptr;
    }
    return nullptr;
  }

  Graph& g_;
  const PassContext& c_;
  ValueSet outputs_;
};

}  // namespace

int simplify(Graph& g, const PassContext& c) { return Simplifier(g, c).run(); }

}  // namespace ortmod
