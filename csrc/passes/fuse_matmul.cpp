// Pass: Transpose, scaling by a constant, an added row and Relu around matrix products become parts of ortmod::MatMulT.
#include <cmath>
#include <numeric>
#include <optional>

#include "ops/attrs.h"
#include "passes/pass.h"

namespace ortmod {
namespace {

using Perm = std::vector<int64_t>;

struct Product {
  Value *a = nullptr, *b = nullptr, *c = nullptr;
  Perm perm_a, perm_b, perm_y;
  double alpha = 1;
  bool relu = false;
  Value* y = nullptr;  // what it computes now
  std::vector<Node*> absorbed;
};

class MatMulFuser {
 public:
  MatMulFuser(Graph& g, const PassContext& c) : g_(g), c_(c), outputs_(g.outputs.begin(), g.outputs.end()) {}

  int run() {
    int changes = 0;
    const std::vector<Node*> nodes = g_.nodes();
    for (size_t i = 0; i < nodes.size(); ++i) nodes[i]->mark = static_cast<int>(i);
    for (Node* n : nodes)
      if (n->graph == &g_ && fuse(n)) ++changes;
    if (changes) g_.compact(&c_.variable);
    return changes;
  }

 private:
  static bool ranked(const Value* v) { return v && v->type.has_rank && v->type.kind == Kind::kTensor; }
  Node* only_use(const Value* v) const {
    return v->uses.size() == 1 && !is_output(v) && v->uses[0].node->graph == &g_ ? v->uses[0].node : nullptr;
  }
  /// The value of a constant of one element that does not change between calls.
  std::optional<double> fixed(const Value* v) const {
    if (!c_.is_fixed(v) || v->literal->numel() != 1) return {};
    const double x = v->literal->at(0);
    return std::isfinite(x) ? std::optional(x) : std::nullopt;
  }

  std::optional<Product> start(Node* n) const {
    Product p;
    p.y = n->out();
    if (!ranked(p.y) || !is_float(p.y->type.dtype) || !ranked(n->in(0)) || !ranked(n->in(1))) return {};
    p.a = n->in(0);
    p.b = n->in(1);
    if (p.a->type.rank() < 2 || p.b->type.rank() < 2) return {};
    p.absorbed.push_back(n);
    if (n->is("MatMul")) return p;
    if (!n->is("Gemm")) return {};
    p.alpha = n->attr("alpha", 1.0);
    if (n->attr("transA", false)) p.perm_a = {1, 0};
    if (n->attr("transB", false)) p.perm_b = {1, 0};
    if (n->in(2) && n->attr("beta", 1.0) != 0) {
      if (n->attr("beta", 1.0) != 1 || !is_row(n->in(2), p.y->type.dims)) return {};
      p.c = n->in(2);
    }
    return p;
  }

  /// One element or one row that repeats for all rows of `y`.
  static bool is_row(const Value* v, const Dims& y) {
    if (!ranked(v) || v->type.dims.size() > y.size() || y.empty()) return false;
    const Dims& d = v->type.dims;
    for (size_t k = 0; k + 1 < d.size(); ++k)
      if (d[k] != 1) return false;
    return d.empty() || d.back() == 1 || (d.back() == y.back() && d.back() != kAnyDim);
  }

  /// Reads an operand before its Transpose or scaling; false: nothing to absorb.
  bool absorb_operand(Product& p, Value*& x, Perm& perm) const {
    Node* from = x->producer;
    if (!from || from->graph != &g_) return false;
    if (from->is("Transpose") && ranked(from->in(0))) {
      const size_t rank = from->in(0)->type.dims.size();
      Perm outer = from->ints("perm");
      if (outer.empty())
        for (size_t i = rank; i-- > 0;) outer.push_back(static_cast<int64_t>(i));
      Perm both(rank);
      for (size_t i = 0; i < rank; ++i)
        both[i] = outer[static_cast<size_t>(perm.empty() ? static_cast<int64_t>(i) : perm[i])];
      // The kernel walks one of the last two axes with stride 1.
      const auto last = static_cast<int64_t>(rank) - 1;
      if (both[rank - 1] != last && both[rank - 2] != last) return false;
      x = from->in(0);
      perm = is_identity(both) ? Perm{} : both;
      return true;
    }
    const bool mul = from->is("Mul"), div = from->is("Div");
    if ((!mul && !div) || !only_use(x)) return false;
    for (size_t i = 0; i < 2; ++i) {
      if (div && i == 1) break;
      const auto s = fixed(from->in(1 - i));
      if (!s || (div && *s == 0) || !ranked(from->in(i)) || from->in(i)->type.dims != x->type.dims) continue;
      p.alpha *= mul ? *s : 1 / *s;
      p.absorbed.push_back(from);
      x = from->in(i);
      return true;
    }
    return false;
  }
  static bool is_identity(const Perm& p) {
    for (size_t i = 0; i < p.size(); ++i)
      if (p[i] != static_cast<int64_t>(i)) return false;
    return true;
  }

  bool absorb_result(Product& p) const {
    Node* next = only_use(p.y);
    if (!next || !ranked(next->out()) || !p.perm_y.empty()) return false;
    const Dims& dims = p.y->type.dims;
    const int me = p.y->uses[0].index;
    const auto take = [&] {
      p.absorbed.push_back(next);
      p.y = next->out();
      return true;
    };
    if (next->is("Relu") && !p.relu) {
      p.relu = true;
      return take();
    }
    if (next->is("Transpose")) {
      Perm perm = next->ints("perm");
      if (perm.empty())
        for (size_t i = dims.size(); i-- > 0;) perm.push_back(static_cast<int64_t>(i));
      const auto last = static_cast<int64_t>(dims.size()) - 1;
      if (p.c || (perm.back() != last && perm.back() != last - 1)) return false;
      p.perm_y = perm;
      return take();
    }
    if (p.relu || next->out()->type.dims != dims || next->inputs.size() != 2) return false;
    Value* other = next->in(static_cast<size_t>(1 - me));
    if ((next->is("Mul") || (next->is("Div") && me == 0)) && !p.c) {
      const auto s = fixed(other);
      if (!s || (next->is("Div") && *s == 0)) return false;
      p.alpha *= next->is("Mul") ? *s : 1 / *s;
      return take();
    }
    if (next->is("Add") && !p.c && is_row(other, dims) && other->type.dtype == p.y->type.dtype) {
      p.c = other;
      return take();
    }
    return false;
  }

  bool fuse(Node* n) {
    auto start_state = start(n);
    if (!start_state) return false;
    Product p = std::move(*start_state);
    bool changed = false;
    while (absorb_operand(p, p.a, p.perm_a)) changed = true;
    while (absorb_operand(p, p.b, p.perm_b)) changed = true;
    while (absorb_result(p)) changed = true;
    if (!changed) return false;
    Attrs attrs;
    if (!p.perm_a.empty()) attrs.emplace_back("permA", p.perm_a);
    if (!p.perm_b.empty()) attrs.emplace_back("permB", p.perm_b);
    if (!p.perm_y.empty()) attrs.emplace_back("permY", p.perm_y);
    if (p.alpha != 1) attrs.emplace_back("alpha", p.alpha);
    if (p.relu) attrs.emplace_back("relu", int64_t{1});
    Values in{p.a, p.b};
    if (p.c) in.push_back(p.c);
    Node* last = p.y->producer;
    Node* fused = g_.add_node(intern("ortmod", "MatMulT"), in, {p.y}, std::move(attrs), n->name);
    g_.order().pop_back();  // it stands where the last of its parts stood
    g_.order()[static_cast<size_t>(last->mark)] = fused;
    fused->mark = last->mark;
    fused->version = 1;
    fused->origin = n->origin;
    fused->source = n->source;
    remove_dead(last);
    return true;
  }
  /// Removes a node whose output was taken, and what only it read.
  void remove_dead(Node* n) {
    std::vector<Node*> work{n};
    while (!work.empty()) {
      Node* dead = work.back();
      work.pop_back();
      if (dead->graph != &g_) continue;
      const Values inputs = dead->inputs;
      g_.remove(dead);
      for (const Value* x : inputs) {
        Node* from = x ? x->producer : nullptr;
        if (from && from->graph == &g_ && from->outputs.size() == 1 && x->uses.empty() && !is_output(x))
          work.push_back(from);
      }
    }
  }

  bool is_output(const Value* v) const { return outputs_.contains(v); }

  Graph& g_;
  const PassContext& c_;
  ValueSet outputs_;
};

}  // namespace

int fuse_matmul(Graph& g, const PassContext& c) { return MatMulFuser(g, c).run(); }

}  // namespace ortmod
